//! One safe function per system call that this crate makes, each naming the step that failed. It never combines calls
//! into something that means more than the call itself; the other files do that.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_int, c_long, c_ulong};

/// A step that failed, and why: `mount /proc: Operation not permitted (os error 1)`.
#[derive(Debug)]
pub struct Error {
    step: String,
    source: io::Error,
}

/// The result of every step.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The step `step` failed with `source`.
    pub fn new(step: impl Into<String>, source: io::Error) -> Self {
        Self { step: step.into(), source }
    }

    /// The step `step` failed with the error number `errno`.
    pub fn errno(step: impl Into<String>, errno: c_int) -> Self {
        Self::new(step, io::Error::from_raw_os_error(errno))
    }

    /// A request that cannot be carried out as written.
    pub fn invalid(step: impl Into<String>) -> Self {
        Self::errno(step, libc::EINVAL)
    }

    /// The error number, or `EIO` where there is none.
    pub fn code(&self) -> c_int {
        self.source.raw_os_error().unwrap_or(libc::EIO)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Turns a C return value into a result that names its step.
pub fn check(step: &str, ret: impl Into<i64>) -> Result<i64> {
    let ret = ret.into();
    if ret < 0 { Err(Error::new(step, io::Error::last_os_error())) } else { Ok(ret) }
}

/// A C string; a NUL inside is the caller's mistake.
pub fn cstr(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("NUL byte in {text:?}")))
}

/// The secret words that a function template's own filter asks for in the registers a call does not use. All zero for
/// everybody else, where nothing looks at them.
#[derive(Clone, Copy, Default)]
pub struct Gate(pub [u64; 3]);

impl Gate {
    /// `unshare(2)`.
    pub fn unshare(&self, step: &str, flags: c_int) -> Result<()> {
        let [a, b, c] = self.0;
        // SAFETY: unshare reads no memory; the last three registers are ignored by the kernel.
        check(step, unsafe { libc::syscall(libc::SYS_unshare, flags as c_long, 0, 0, a, b, c) })?;
        Ok(())
    }

    /// `mount(2)` of a new file system.
    pub fn mount(&self, kind: &CStr, target: &CStr, flags: c_ulong, data: &CStr) -> Result<()> {
        // SAFETY: all four pointers are NUL-terminated strings that live across the call; the sixth register is ignored.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_mount,
                kind.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                flags,
                data.as_ptr(),
                self.0[2],
            )
        };
        if ret < 0 {
            let source = io::Error::last_os_error();
            return Err(Error::new(
                format!("mount {} on {}", kind.to_string_lossy(), target.to_string_lossy()),
                source,
            ));
        }
        Ok(())
    }

    /// `umount2(2)`, detaching.
    pub fn detach(&self, target: &CStr) -> Result<()> {
        let [a, b, c] = self.0;
        // SAFETY: `target` is NUL-terminated; the last three registers are ignored.
        let ret = unsafe { libc::syscall(libc::SYS_umount2, target.as_ptr(), libc::MNT_DETACH as c_long, 0, a, b, c) };
        if ret < 0 {
            let source = io::Error::last_os_error();
            return Err(Error::new(format!("unmount {}", target.to_string_lossy()), source));
        }
        Ok(())
    }

    /// `sethostname(2)`.
    pub fn sethostname(&self, name: &str) -> Result<()> {
        let [a, b, c] = self.0;
        // SAFETY: pointer and length describe `name`; the last three registers are ignored.
        let ret = unsafe { libc::syscall(libc::SYS_sethostname, name.as_ptr(), name.len(), 0, a, b, c) };
        check("set the host name", ret)?;
        Ok(())
    }
}

/// Makes all mounts of this mount namespace private: nothing done here reaches the host.
pub fn make_private() -> Result<()> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: static strings; source, type and data are not read for a change of propagation.
    check("make the mounts private", unsafe {
        libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), flags, ptr::null())
    })?;
    Ok(())
}

/// Makes the current directory the root and detaches the old root from it.
pub fn pivot_here() -> Result<()> {
    // SAFETY: static strings. With both paths ".", the old root is left mounted on top of the new one.
    check("pivot_root", unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    Gate::default().detach(c".")?;
    chdir(c"/")
}

/// `chdir(2)`.
pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: NUL-terminated path.
    check("chdir", unsafe { libc::chdir(path.as_ptr()) })?;
    Ok(())
}

/// `fchdir(2)`.
pub fn fchdir(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: an open descriptor.
    check("fchdir", unsafe { libc::fchdir(fd.as_raw_fd()) })?;
    Ok(())
}

/// A detached copy of the mount at `path`, relative to `dir`.
pub fn open_tree(dir: RawFd, path: &CStr, flags: c_int) -> io::Result<OwnedFd> {
    let flags = flags as u32 | libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: NUL-terminated path; the kernel gives back a new descriptor that nobody else owns.
    unsafe { owned(libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags)) }
}

/// Sets mount attributes of a detached tree.
pub fn set_attributes(tree: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let attr = MountAttr { set: attributes, clear: 0, propagation: 0, userns: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is the kernel's `struct mount_attr` of the size given, and lives across the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Attaches a detached tree at `path`, relative to `dir`.
pub fn attach(tree: BorrowedFd<'_>, dir: RawFd, path: &CStr) -> io::Result<()> {
    // SAFETY: two NUL-terminated paths and open descriptors.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            dir,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes ownership of a descriptor that a system call has just returned.
///
/// # Safety
/// `ret` must be the return value of a call that opens a new descriptor.
unsafe fn owned(ret: impl Into<i64>) -> io::Result<OwnedFd> {
    let ret = ret.into();
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: by contract of this function the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(ret as RawFd) })
}

/// `openat(2)` with `O_CLOEXEC`.
pub fn openat(dir: RawFd, path: &CStr, flags: c_int, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: NUL-terminated path; returns a new descriptor.
    unsafe { owned(libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode)) }
}

/// Takes the name of a file away.
pub fn unlink(dir: RawFd, path: &CStr) -> io::Result<()> {
    // SAFETY: an open directory and a NUL-terminated path.
    if unsafe { libc::unlinkat(dir, path.as_ptr(), 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes `bytes` to an existing file in one `write(2)`, as `/proc` wants it.
pub fn write_file(path: &CStr, bytes: &[u8]) -> Result<()> {
    let step = || format!("write {}", path.to_string_lossy());
    let fd = openat(libc::AT_FDCWD, path, libc::O_WRONLY, 0).map_err(|e| Error::new(step(), e))?;
    write_all(fd.as_raw_fd(), bytes).map_err(|e| Error::new(step(), e))
}

/// Writes all of `bytes`.
pub fn write_all(fd: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: pointer and length describe `bytes`.
        let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        if n < 0 {
            let e = io::Error::last_os_error();
            if e.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(e);
        }
        bytes = &bytes[n as usize..];
    }
    Ok(())
}

/// Reads exactly `N` bytes, or `None` when the other side closed first.
pub fn read_exact<const N: usize>(fd: RawFd) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0u8; N];
    let mut have = 0;
    while have < N {
        // SAFETY: the pointer and length describe the part of `bytes` not yet filled.
        let n = unsafe { libc::read(fd, bytes[have..].as_mut_ptr().cast(), N - have) };
        match n {
            0 => return Ok(None),
            n if n > 0 => have += n as usize,
            _ => {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
        }
    }
    Ok(Some(bytes))
}

/// `setns(2)`.
pub fn setns(fd: BorrowedFd<'_>, kind: c_int) -> Result<()> {
    // SAFETY: an open descriptor.
    check("setns", unsafe { libc::setns(fd.as_raw_fd(), kind) })?;
    Ok(())
}

/// `fork(2)`: 0 in the child.
///
/// # Safety
/// The process must have no other thread, or the child must do nothing but async-signal-safe calls.
pub unsafe fn fork() -> Result<c_int> {
    // SAFETY: by contract of this function.
    Ok(check("fork", unsafe { libc::fork() })? as c_int)
}

/// `pidfd_open(2)`.
pub fn pidfd_open(pid: c_int) -> Result<OwnedFd> {
    // SAFETY: reads no memory, returns a new descriptor (always close-on-exec).
    unsafe { owned(libc::syscall(libc::SYS_pidfd_open, pid, 0)) }.map_err(|e| Error::new("pidfd_open", e))
}

/// A child that has ended, if there is one: its number and its status as `waitpid` gives it.
pub fn reap(pid: c_int, flags: c_int) -> Option<(c_int, c_int)> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the answer.
        let got = unsafe { libc::waitpid(pid, &raw mut status, flags) };
        match got {
            n if n > 0 => return Some((n, status)),
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

/// `kill(2)`.
pub fn kill(pid: c_int, signal: c_int) -> Result<()> {
    // SAFETY: reads no memory.
    check("kill", unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// Closes all descriptors from `first` on.
pub fn close_from(first: RawFd) -> Result<()> {
    // SAFETY: the callers own every descriptor of the process at this point, and use none of them afterwards.
    check("close descriptors", unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, 0) })?;
    Ok(())
}

/// Closes one descriptor by number, where ownership is not tracked across a fork.
pub fn close(fd: RawFd) {
    // SAFETY: closing a number is memory-safe; the callers pass descriptors of their own that are used no more.
    unsafe { libc::close(fd) };
}

/// Makes `to` refer to what `from` refers to; `flags` is 0 or `O_CLOEXEC`.
pub fn dup_to(from: RawFd, to: RawFd, flags: c_int) -> Result<()> {
    // SAFETY: reads no memory.
    check("dup3", unsafe { libc::dup3(from, to, flags) })?;
    Ok(())
}

/// A copy of `fd` with a number of at least `least`, close-on-exec.
pub fn dup_above(fd: RawFd, least: RawFd) -> Result<RawFd> {
    // SAFETY: reads no memory.
    Ok(check("duplicate a descriptor", unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) })? as RawFd)
}

/// A pipe: the read end and the write end.
pub fn pipe() -> Result<(RawFd, RawFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    check("pipe", unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((ends[0], ends[1]))
}

/// Waits until one of `fds` is readable or closed (or `timeout_ms` is over); the answer says which are.
pub fn poll_readable<const N: usize>(fds: [RawFd; N], timeout_ms: c_int) -> Result<[bool; N]> {
    let mut polls = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: `polls` is an array of `N` entries.
        let ret = unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, timeout_ms) };
        if ret >= 0 {
            return Ok(polls.map(|p| p.revents != 0));
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(Error::new("poll", e));
        }
    }
}

/// Where the handler of `SIGCHLD` rings.
static BELL: AtomicI32 = AtomicI32::new(-1);

extern "C" fn ring(_: c_int) {
    // SAFETY: write is async-signal-safe, and reads eight bytes of a live value; errno is put back, because the signal
    // may have come between another call and the look at its error.
    unsafe {
        let errno = *libc::__errno_location();
        let one = 1u64;
        libc::write(BELL.load(Ordering::SeqCst), (&raw const one).cast(), size_of::<u64>());
        *libc::__errno_location() = errno;
    }
}

/// A descriptor that becomes readable when a child has ended. By a signal handler and not by a signalfd, because an
/// engine's helper threads do not block the signal, and one of them may be given it.
pub struct ChildBell {
    bell: OwnedFd,
    previous: libc::sigaction,
}

impl ChildBell {
    /// Sets the handler. A process has one bell at most.
    pub fn hang() -> Result<Self> {
        // SAFETY: returns a new descriptor.
        let bell = unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }
            .map_err(|e| Error::new("eventfd", e))?;
        BELL.store(bell.as_raw_fd(), Ordering::SeqCst);
        // SAFETY: sigaction is plain data; the handler only makes async-signal-safe calls, and both structures live across
        // the call.
        unsafe {
            let mut previous = std::mem::zeroed::<libc::sigaction>();
            let mut action = std::mem::zeroed::<libc::sigaction>();
            action.sa_sigaction = ring as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
            check("handle SIGCHLD", libc::sigaction(libc::SIGCHLD, &raw const action, &raw mut previous))?;
            Ok(Self { bell, previous })
        }
    }

    /// The descriptor to poll.
    pub fn number(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Makes it silent until the next child ends.
    pub fn hush(&self) {
        let mut count = 0u64;
        // SAFETY: room for the eight bytes of the counter; the descriptor does not block.
        unsafe { libc::read(self.number(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    /// Puts the handler back that was there before.
    pub fn take_down(self) {
        // SAFETY: `previous` is what the kernel gave for this signal.
        unsafe { libc::sigaction(libc::SIGCHLD, &raw const self.previous, ptr::null_mut()) };
        BELL.store(-1, Ordering::SeqCst);
    }
}

/// Unblocks all signals; with `handlers`, also sets every disposition to its default (an exec keeps ignored ones).
pub fn reset_signals(handlers: bool) {
    // SAFETY: sigset_t is plain data that sigemptyset initialises; SIG_DFL is always a valid disposition, and numbers
    // that cannot be set are refused by the kernel.
    unsafe {
        if handlers {
            for number in 1..=64 {
                libc::signal(number, libc::SIG_DFL);
            }
        }
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// Lowers one resource limit; never above what the process may have already.
pub fn limit(step: &str, resource: libc::__rlimit_resource_t, value: u64) -> Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `now` is a valid place for the answer.
    check(step, unsafe { libc::getrlimit(resource, &raw mut now) })?;
    let value = value.min(now.rlim_max);
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` lives across the call.
    check(step, unsafe { libc::setrlimit(resource, &raw const limit) })?;
    Ok(())
}

/// `prctl(2)` with number arguments.
pub fn prctl(step: &str, option: c_int, a: c_ulong, b: c_ulong) -> Result<c_int> {
    let none: c_ulong = 0;
    // SAFETY: only options whose arguments are numbers are used with this function.
    Ok(check(step, unsafe { libc::prctl(option, a, b, none, none) })? as c_int)
}

/// The effective user id.
pub fn euid() -> u32 {
    // SAFETY: cannot fail and reads no memory.
    unsafe { libc::geteuid() }
}

/// The effective group id.
pub fn egid() -> u32 {
    // SAFETY: cannot fail and reads no memory.
    unsafe { libc::getegid() }
}

/// Starts a session of its own; a process that already leads a group keeps its session.
pub fn new_session() {
    // SAFETY: reads no memory.
    unsafe { libc::setsid() };
}

/// Sets the file mode creation mask.
pub fn umask(mask: u32) {
    // SAFETY: cannot fail and reads no memory.
    unsafe { libc::umask(mask) };
}

/// Ends the process without running anybody's exit handlers.
pub fn leave(status: c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Brings the loopback interface of this network namespace up.
pub fn loopback_up() -> Result<()> {
    // SAFETY: returns a new descriptor.
    let socket = unsafe { owned(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)) }
        .map_err(|e| Error::new("socket for the loopback interface", e))?;
    // SAFETY: ifreq is plain data; all zero is valid, and the name stays NUL-terminated.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives across the call.
    check("bring lo up", unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}

/// Overwrites memory that held a secret, in a way that the compiler must not leave out.
pub fn wipe<T: Copy>(place: &mut [T]) {
    // SAFETY: the range is exactly the bytes of `place`; it is only used with integers and BPF instructions, for which
    // all zero is a valid value.
    unsafe {
        let start = place.as_mut_ptr().cast::<u8>();
        for i in 0..size_of_val(place) {
            ptr::write_volatile(start.add(i), 0);
        }
    }
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// What finished calls may have used of the stack, in bytes: the first part is overwritten, the rest given back to the kernel.
const STACK_WRITTEN: usize = 16 * 1024;
const STACK_USED: usize = 64 * 1024;

/// Clears the part of the stack that finished calls have used, where copies of a secret may be left. What is more than a few frames
/// away is given back, which makes it zero too: overwritten, it would be memory of every clone.
#[inline(never)]
pub fn wipe_stack() {
    overwrite_stack();
    give_back_stack();
}

#[inline(never)]
fn overwrite_stack() {
    let mut used = [0u64; STACK_WRITTEN / 8];
    wipe(&mut used);
    std::hint::black_box(&mut used);
}

/// Its own frames lie where `overwrite_stack` has written: from the second page below this one on nothing is in use, and what is
/// above that has been written.
#[inline(never)]
fn give_back_stack() {
    const PAGE: usize = 4096;
    let mark = 0u8;
    let here = std::hint::black_box(&raw const mark) as usize;
    let end = (here & !(PAGE - 1)) - PAGE;
    let start = end - (STACK_USED - STACK_WRITTEN);
    // SAFETY: stacks grow down, so this range is below every live frame, and nothing is kept there: templates run on their first
    // thread, whose stack has room for megabytes, and below it the kernel keeps as much unmapped (`stack_guard_gap`).
    let done = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    // ENOMEM: a part was never used. Otherwise the pages may not be given back (`mlockall`): then they are overwritten after all.
    if done != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOMEM) {
        overwrite_all();
    }
}

#[inline(never)]
fn overwrite_all() {
    let mut used = [0u64; STACK_USED / 8];
    wipe(&mut used);
    std::hint::black_box(&mut used);
}

/// The address of a function that the C library, or another library of this process, may or may not have.
pub fn symbol(name: &CStr) -> Option<*mut libc::c_void> {
    // SAFETY: a NUL-terminated name; RTLD_DEFAULT is always valid.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// The number of this process in its own PID namespace.
pub fn own_pid() -> c_int {
    // SAFETY: cannot fail and reads no memory.
    unsafe { libc::getpid() }
}
