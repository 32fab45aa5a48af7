//! The system-call filter of every box: a list of what interpreters and ordinary programs need; all else is `EPERM`.
//! It is compiled to a balanced decision tree, not a chain of comparisons, because attaching a filter makes the kernel run
//! it once per system call number: a chain of this length costs every start about half a millisecond. It never blocks a
//! call that only names or paths could judge; mounts, ids and Landlock do that.

use std::collections::BTreeMap;

use libc::{c_long, sock_filter};

use crate::sys::{self, Gate, Result, check};

/// A compiled filter.
pub struct Filter(Vec<sock_filter>);

/// What the filter says to a range of system-call numbers.
#[derive(Clone, PartialEq)]
enum Verdict {
    Allow,
    Errno(i32),
    /// Allowed when all conditions of one of the lists hold.
    When(Vec<Vec<Cond>>),
}

/// A condition on one argument. `int` arguments are compared in their low half, as the kernel reads them.
#[derive(Clone, Copy, PartialEq)]
enum Cond {
    Is(u32, u32),
    IsNot(u32, u32),
    Masked(u32, u32, u32),
    /// Equal to the secret word of this number, both halves.
    Secret(u32, u32),
}

/// Stands in a program for half `n` of the secret. The words themselves are written only into the finished program, so
/// that no other memory has to be found and wiped.
const SECRET: u32 = 0x5ec2_e700;

/// The first number that this file knows nothing about: newer calls are answered `ENOSYS`, so that programs fall back
/// as they would on an older kernel.
const FIRST_UNKNOWN: u32 = 470;
/// Calls of the x32 ABI carry this bit.
const X32: u32 = 0x4000_0000;
/// All namespace flags that `clone(2)` accepts.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

impl Filter {
    /// Compiles the filter. With a gate, the calls that make namespaces and mounts are allowed to whoever knows it.
    pub fn compile(gate: Option<&Gate>) -> Self {
        let mut code = vec![load(4), jump(libc::BPF_JEQ, ARCH, 1, 0), ret(libc::SECCOMP_RET_KILL_PROCESS), load(0)];
        let ranges = ranges(&rules(gate.is_some()));
        code.extend(tree(&ranges));
        let mut filter = Self(code);
        if let Some(gate) = gate {
            filter.write_secret(gate);
        }
        filter
    }

    fn write_secret(&mut self, gate: &Gate) {
        for instruction in &mut self.0 {
            let half = instruction.k.wrapping_sub(SECRET);
            if half < 6 {
                instruction.k = (gate.0[half as usize / 2] >> (32 * (half % 2))) as u32;
            }
        }
    }

    /// Puts this process under the filter, for good.
    pub fn install(&self) -> Result<()> {
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: `program` describes the instructions, which live across the call and are only read.
        let ret = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER as c_long, 0 as c_long, &raw const program)
        };
        check("install the system-call filter", ret)?;
        Ok(())
    }

    /// Overwrites the program, which holds the gate's words.
    pub fn wipe(&mut self) {
        sys::wipe(&mut self.0);
    }
}

macro_rules! allow {
    ($rules:ident: $($name:ident)*) => { $( $rules.insert(libc::$name as u32, Verdict::Allow); )* };
}

fn rules(gated: bool) -> BTreeMap<u32, Verdict> {
    let mut rules = BTreeMap::new();
    allow_files(&mut rules);
    allow_processes(&mut rules);
    allow_memory_and_ipc(&mut rules);
    #[cfg(target_arch = "x86_64")]
    allow_x86_64(&mut rules);
    allow_conditionally(&mut rules);
    if gated {
        open_gate(&mut rules);
    }
    rules
}

fn allow_files(r: &mut BTreeMap<u32, Verdict>) {
    allow!(r: SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2
        SYS_pwritev2 SYS_openat SYS_openat2 SYS_close SYS_close_range SYS_lseek SYS_fstat SYS_newfstatat SYS_statx
        SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_mkdirat
        SYS_unlinkat SYS_renameat SYS_renameat2 SYS_linkat SYS_symlinkat SYS_readlinkat SYS_fchmod SYS_fchmodat
        SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_mknodat SYS_truncate SYS_ftruncate SYS_fallocate SYS_fadvise64
        SYS_readahead SYS_sync SYS_syncfs SYS_fsync SYS_fdatasync SYS_sync_file_range SYS_utimensat SYS_umask SYS_flock
        SYS_fcntl SYS_dup SYS_dup3 SYS_pipe2 SYS_sendfile SYS_splice SYS_tee SYS_vmsplice SYS_copy_file_range
        SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr
        SYS_flistxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_inotify_init1 SYS_inotify_add_watch
        SYS_inotify_rm_watch SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_ppoll SYS_pselect6
        SYS_eventfd2 SYS_signalfd4 SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_io_setup SYS_io_submit
        SYS_io_cancel SYS_io_destroy SYS_io_getevents);
    allow!(r: SYS_socketpair SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_getsockname SYS_getpeername
        SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_setsockopt SYS_getsockopt
        SYS_shutdown);
}

fn allow_processes(r: &mut BTreeMap<u32, Verdict>) {
    allow!(r: SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill
        SYS_pidfd_open SYS_pidfd_send_signal SYS_getpid SYS_getppid SYS_gettid SYS_getpgid SYS_setpgid SYS_getsid
        SYS_setsid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_setuid
        SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_setfsuid SYS_setfsgid
        SYS_capget SYS_capset SYS_prctl SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule
        SYS_landlock_restrict_self SYS_uname SYS_sysinfo SYS_times SYS_getrusage SYS_getpriority SYS_setpriority
        SYS_ioprio_get SYS_ioprio_set SYS_getrlimit SYS_setrlimit SYS_prlimit64 SYS_sched_yield SYS_sched_getaffinity
        SYS_sched_setaffinity SYS_sched_getparam SYS_sched_setparam SYS_sched_getscheduler SYS_sched_setscheduler
        SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_rr_get_interval SYS_sched_getattr
        SYS_sched_setattr SYS_getcpu SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigpending SYS_rt_sigreturn
        SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack
        SYS_restart_syscall SYS_set_tid_address SYS_set_robust_list SYS_get_robust_list SYS_futex SYS_futex_waitv
        SYS_rseq SYS_membarrier SYS_nanosleep SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres SYS_gettimeofday
        SYS_getitimer SYS_setitimer SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun
        SYS_timer_delete SYS_getrandom);
    // By number, the same on every architecture and too new for the libc crate: futex_wake, futex_wait, futex_requeue.
    for number in [454, 455, 456] {
        r.insert(number, Verdict::Allow);
    }
}

fn allow_memory_and_ipc(r: &mut BTreeMap<u32, Verdict>) {
    allow!(r: SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_msync SYS_mincore SYS_mlock SYS_mlock2
        SYS_munlock SYS_mlockall SYS_munlockall SYS_mseal SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
        SYS_memfd_create SYS_memfd_secret SYS_get_mempolicy SYS_set_mempolicy SYS_mbind
        SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_msgget SYS_msgsnd
        SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify
        SYS_mq_getsetattr);
    // cachestat, map_shadow_stack.
    for number in [451, 453] {
        r.insert(number, Verdict::Allow);
    }
}

/// Older forms of calls that other architectures never had.
#[cfg(target_arch = "x86_64")]
fn allow_x86_64(r: &mut BTreeMap<u32, Verdict>) {
    allow!(r: SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_getdents SYS_mkdir SYS_rmdir SYS_unlink SYS_rename
        SYS_link SYS_symlink SYS_readlink SYS_chmod SYS_chown SYS_lchown SYS_mknod SYS_utime SYS_utimes SYS_futimesat
        SYS_dup2 SYS_pipe SYS_inotify_init SYS_epoll_create SYS_epoll_wait SYS_poll SYS_select SYS_eventfd SYS_signalfd
        SYS_fork SYS_vfork SYS_getpgrp SYS_pause SYS_alarm SYS_time SYS_arch_prctl);
}

fn allow_conditionally(r: &mut BTreeMap<u32, Verdict>) {
    use Cond::{Is, IsNot, Masked};
    r.insert(libc::SYS_clone as u32, Verdict::When(vec![vec![Masked(0, NAMESPACES, 0)]]));
    // Its flags lie in memory, where a filter cannot look; every libc falls back to clone.
    r.insert(libc::SYS_clone3 as u32, Verdict::Errno(libc::ENOSYS));
    r.insert(libc::SYS_personality as u32, Verdict::When(vec![vec![Is(0, 0)], vec![Is(0, u32::MAX)]]));
    let ioctl = vec![IsNot(1, libc::TIOCSTI as u32), IsNot(1, libc::TIOCLINUX as u32)];
    r.insert(libc::SYS_ioctl as u32, Verdict::When(vec![ioctl]));
    let kind = |kind: i32| Masked(1, 0xf, kind as u32);
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [0, libc::IPPROTO_TCP] {
            sockets.push(vec![Is(0, family as u32), kind(libc::SOCK_STREAM), Is(2, protocol as u32)]);
        }
        for protocol in [0, libc::IPPROTO_UDP] {
            sockets.push(vec![Is(0, family as u32), kind(libc::SOCK_DGRAM), Is(2, protocol as u32)]);
        }
    }
    for k in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        sockets.push(vec![Is(0, libc::AF_UNIX as u32), kind(k)]);
    }
    // getaddrinfo and getifaddrs ask the routing table; no other netlink family.
    sockets.push(vec![Is(0, libc::AF_NETLINK as u32), Is(2, libc::NETLINK_ROUTE as u32)]);
    r.insert(libc::SYS_socket as u32, Verdict::When(sockets));
}

/// What a function template needs to make boxes for its own clones, if the registers that the call does not use carry
/// the secret.
fn open_gate(r: &mut BTreeMap<u32, Verdict>) {
    let all = vec![vec![Cond::Secret(3, 0), Cond::Secret(4, 1), Cond::Secret(5, 2)]];
    for number in [libc::SYS_unshare, libc::SYS_umount2, libc::SYS_sethostname] {
        r.insert(number as u32, Verdict::When(all.clone()));
    }
    r.insert(libc::SYS_mount as u32, Verdict::When(vec![vec![Cond::Secret(5, 2)]]));
}

/// The rules as ranges that cover every number: each entry holds from its number up to the next entry's.
fn ranges(rules: &BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let other =
        |number: u32| Verdict::Errno(if (FIRST_UNKNOWN..X32).contains(&number) { libc::ENOSYS } else { libc::EPERM });
    let mut out: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |number: u32, verdict: Verdict| {
        if out.last().is_none_or(|(_, last)| *last != verdict) {
            out.push((number, verdict));
        }
    };
    for number in 0..FIRST_UNKNOWN {
        push(number, rules.get(&number).cloned().unwrap_or_else(|| other(number)));
    }
    push(FIRST_UNKNOWN, other(FIRST_UNKNOWN));
    push(X32, other(X32));
    out
}

/// A decision tree over ranges; every path ends in a return.
fn tree(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    let middle = ranges.len() / 2;
    if middle == 0 {
        return ranges.first().map_or_else(Vec::new, |(_, verdict)| leaf(verdict));
    }
    let (left, right) = (tree(&ranges[..middle]), tree(&ranges[middle..]));
    // A conditional jump reaches 255 instructions, an unconditional one everywhere.
    let mut code =
        vec![jump(libc::BPF_JGE, ranges[middle].0, 0, 1), statement(libc::BPF_JMP | libc::BPF_JA, left.len() as u32)];
    code.extend(left);
    code.extend(right);
    code
}

fn leaf(verdict: &Verdict) -> Vec<sock_filter> {
    match verdict {
        Verdict::Allow => vec![ret(libc::SECCOMP_RET_ALLOW)],
        Verdict::Errno(number) => vec![ret(libc::SECCOMP_RET_ERRNO | *number as u32)],
        Verdict::When(lists) => {
            let mut code: Vec<_> = lists.iter().flat_map(|list| conjunction(list)).collect();
            code.push(ret(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
            code
        }
    }
}

/// Returns "allow" when all conditions hold; else falls out at its end.
fn conjunction(list: &[Cond]) -> Vec<sock_filter> {
    let length: usize = list.iter().map(|c| c.length()).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(length);
    for cond in list {
        // The distance from the instruction after a jump to the end of this list.
        let out = |at: usize| (length - at - 1) as u8;
        let at = code.len();
        match *cond {
            Cond::Is(arg, value) => code.extend([load(low(arg)), jump(libc::BPF_JEQ, value, 0, out(at + 1))]),
            Cond::IsNot(arg, value) => code.extend([load(low(arg)), jump(libc::BPF_JEQ, value, out(at + 1), 0)]),
            Cond::Masked(arg, mask, value) => code.extend([
                load(low(arg)),
                statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask),
                jump(libc::BPF_JEQ, value, 0, out(at + 2)),
            ]),
            Cond::Secret(arg, word) => code.extend([
                load(low(arg)),
                jump(libc::BPF_JEQ, SECRET + 2 * word, 0, out(at + 1)),
                load(low(arg) + 4),
                jump(libc::BPF_JEQ, SECRET + 2 * word + 1, 0, out(at + 3)),
            ]),
        }
    }
    code.push(ret(libc::SECCOMP_RET_ALLOW));
    code
}

impl Cond {
    fn length(self) -> usize {
        match self {
            Self::Is(..) | Self::IsNot(..) => 2,
            Self::Masked(..) => 3,
            Self::Secret(..) => 4,
        }
    }
}

/// Where the low half of argument `index` lies in `struct seccomp_data` (little endian).
fn low(index: u32) -> u32 {
    16 + 8 * index
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn ret(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter the way the kernel does.
    fn run(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = vec![number, arch, 0, 0];
        data.extend(args.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = filter.0[at];
            at += 1;
            let taken = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
            match u32::from(i.code) {
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => a = data[i.k as usize / 4],
                c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => a &= i.k,
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => at += taken(a == i.k),
                c if c == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => at += taken(a >= i.k),
                c if c == libc::BPF_JMP | libc::BPF_JA => at += i.k as usize,
                c if c == libc::BPF_RET | libc::BPF_K => return i.k,
                c => panic!("instruction {c:#x}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    #[test]
    fn the_tree_says_what_the_rules_say_for_every_number() {
        let (filter, rules) = (Filter::compile(None), rules(false));
        for number in (0..1200).chain(X32..X32 + 1200) {
            let got = run(&filter, ARCH, number, [0; 6]);
            match rules.get(&number) {
                Some(Verdict::Allow) => assert_eq!(got, ALLOW, "{number}"),
                Some(Verdict::Errno(e)) => assert_eq!(got, libc::SECCOMP_RET_ERRNO | *e as u32, "{number}"),
                Some(Verdict::When(_)) => {}
                None if (FIRST_UNKNOWN..X32).contains(&number) => assert_eq!(got, ENOSYS, "{number}"),
                None => assert_eq!(got, EPERM, "{number}"),
            }
        }
        assert!(filter.0.len() < 600, "{} instructions", filter.0.len());
        assert_eq!(run(&filter, 0x4000_0003, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn what_must_be_denied_is_denied() {
        let filter = Filter::compile(None);
        for number in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_fsopen,
            libc::SYS_fsmount,
            libc::SYS_fsconfig,
            libc::SYS_fspick,
            libc::SYS_mount_setattr,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kexec_load,
            libc::SYS_kexec_file_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_open_by_handle_at,
            libc::SYS_name_to_handle_at,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_pidfd_getfd,
            libc::SYS_quotactl,
            libc::SYS_acct,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_reboot,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_clock_adjtime,
            libc::SYS_adjtimex,
            libc::SYS_syslog,
            libc::SYS_kcmp,
            libc::SYS_fanotify_init,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_process_madvise,
            libc::SYS_move_pages,
            libc::SYS_migrate_pages,
            libc::SYS_vhangup,
        ] {
            assert_eq!(run(&filter, ARCH, number as u32, [0; 6]), EPERM, "{number}");
        }
        assert_eq!(run(&filter, ARCH, libc::SYS_clone3 as u32, [0; 6]), ENOSYS);
    }

    #[test]
    fn conditions_look_at_the_arguments() {
        let filter = Filter::compile(None);
        let ask = |number: c_long, args: [i64; 3]| {
            run(&filter, ARCH, number as u32, [args[0] as u64, args[1] as u64, args[2] as u64, 0, 0, 0]) == ALLOW
        };
        assert!(ask(libc::SYS_clone, [i64::from(libc::CLONE_VM | libc::CLONE_THREAD | libc::SIGCHLD), 0, 0]));
        for flag in
            [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET, libc::CLONE_NEWCGROUP]
        {
            assert!(!ask(libc::SYS_clone, [i64::from(flag | libc::SIGCHLD), 0, 0]));
        }
        assert!(ask(libc::SYS_personality, [0, 0, 0]) && ask(libc::SYS_personality, [0xffff_ffff, 0, 0]));
        assert!(!ask(libc::SYS_personality, [0x0004_0000, 0, 0]));
        assert!(ask(libc::SYS_ioctl, [0, 0x5401, 0]) && !ask(libc::SYS_ioctl, [0, 0x5412, 0]));
        // The kernel ignores the upper half of the command.
        assert!(!ask(libc::SYS_ioctl, [0, 0x1_0000_5412, 0]) && !ask(libc::SYS_ioctl, [0, 0x541c, 0]));
        let socket = |family: i32, kind: i32, protocol: i32| {
            ask(libc::SYS_socket, [family.into(), kind.into(), protocol.into()])
        };
        assert!(
            socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 6)
                && socket(libc::AF_INET6, libc::SOCK_DGRAM, 17)
        );
        assert!(socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0) && socket(libc::AF_NETLINK, libc::SOCK_RAW, 0));
        assert!(!socket(libc::AF_INET, libc::SOCK_RAW, 1) && !socket(libc::AF_PACKET, libc::SOCK_RAW, 0));
        assert!(!socket(libc::AF_NETLINK, libc::SOCK_RAW, 12) && !socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0));
        assert!(!socket(libc::AF_INET, libc::SOCK_STREAM, 132) && !socket(libc::AF_INET, libc::SOCK_DGRAM, 1));
    }

    #[test]
    fn the_gate_opens_only_for_all_of_its_words() {
        let filter = Filter::compile(Some(&Gate([0x1111_0000_0000_0001, 2, 3 << 40])));
        let ask = |number: c_long, words: [u64; 3]| {
            run(&filter, ARCH, number as u32, [0, 0, 0, words[0], words[1], words[2]]) == ALLOW
        };
        let right = [0x1111_0000_0000_0001, 2, 3 << 40];
        for number in [libc::SYS_unshare, libc::SYS_umount2, libc::SYS_sethostname, libc::SYS_mount] {
            assert!(ask(number, right));
            assert!(!ask(number, [0; 3]) && !ask(number, [right[0], right[1], 3 << 41]));
        }
        assert!(!ask(libc::SYS_unshare, [1, right[1], right[2]]));
        for number in [libc::SYS_setns, libc::SYS_pivot_root, libc::SYS_move_mount, libc::SYS_clone3] {
            assert!(!ask(number, right));
        }
    }
}
