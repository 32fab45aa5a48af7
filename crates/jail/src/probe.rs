//! What this machine can do, found out by doing it: each test runs in a child that ends right after. It never changes
//! anything outside that child, and never guesses from a version number. cgroups are another crate's.

use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::sys::{self, Error, Gate, Result};
use crate::{ids, rules};

/// One thing that boxes are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it works here, now, for this user.
    pub available: bool,
    /// Why not; or, where it works, something worth knowing (a version).
    pub reason: String,
    /// How to mend it; empty when there is nothing to mend.
    pub remedy: String,
    /// Whether boxes cannot be made without it.
    pub required: bool,
}

struct Test {
    name: &'static str,
    required: bool,
    remedy: &'static str,
    run: fn() -> Result<()>,
}

const USERNS: &str = "allow user namespaces: sysctl user.max_user_namespaces=65536 (and kernel.unprivileged_userns_clone=1 or \
    kernel.apparmor_restrict_unprivileged_userns=0 where the system has them)";
const NAMESPACE: &str =
    "run as root with CAP_SYS_ADMIN, or allow user namespaces for this user; in a container, allow unshare and mount";
const KERNEL: &str = "use Linux 5.13 or newer; in a container, allow this system call in its seccomp profile";

const TESTS: &[Test] = &[
    Test { name: "user namespace", required: true, remedy: USERNS, run: || namespace(libc::CLONE_NEWUSER) },
    Test { name: "pid namespace", required: true, remedy: NAMESPACE, run: || privileged(libc::CLONE_NEWPID) },
    Test { name: "mount namespace", required: true, remedy: NAMESPACE, run: mounts },
    Test { name: "ipc namespace", required: true, remedy: NAMESPACE, run: || privileged(libc::CLONE_NEWIPC) },
    Test { name: "uts namespace", required: true, remedy: NAMESPACE, run: || privileged(libc::CLONE_NEWUTS) },
    Test { name: "cgroup namespace", required: true, remedy: NAMESPACE, run: || privileged(libc::CLONE_NEWCGROUP) },
    Test { name: "net namespace", required: true, remedy: NAMESPACE, run: network },
    Test {
        name: "proc in a pid namespace",
        required: true,
        remedy: "unmask /proc (containers hide parts of it, and then nobody \
        without privilege may mount another)",
        run: proc_mount,
    },
    Test { name: "mount_setattr", required: true, remedy: KERNEL, run: detached_mounts },
    Test { name: "pidfd", required: true, remedy: KERNEL, run: own_pidfd },
    Test { name: "close_range", required: true, remedy: KERNEL, run: || sys::close_from(1000) },
    Test {
        name: "seccomp filter",
        required: true,
        remedy: "build the kernel with CONFIG_SECCOMP_FILTER",
        run: seccomp,
    },
    Test {
        name: "Landlock",
        required: false,
        remedy: "boot with landlock in lsm= (CONFIG_SECURITY_LANDLOCK)",
        run: landlock,
    },
    Test {
        name: "own user ids",
        required: false,
        remedy: "run as root: without it all boxes share one user id of the host",
        run: user_ids,
    },
];

/// Tries everything. Must be called from a process with one thread.
pub fn all() -> Vec<Feature> {
    TESTS.iter().map(try_one).collect()
}

fn try_one(test: &Test) -> Feature {
    let outcome = in_child(test.run);
    Feature {
        name: test.name.to_owned(),
        available: outcome.is_ok(),
        remedy: if outcome.is_ok() { String::new() } else { test.remedy.to_owned() },
        reason: match outcome {
            Err(reason) => reason,
            Ok(()) if test.name == "Landlock" => format!("ABI {}", landlock_abi()),
            Ok(()) => String::new(),
        },
        required: test.required,
    }
}

/// Runs a test in a child and brings back what it says.
fn in_child(run: fn() -> Result<()>) -> std::result::Result<(), String> {
    let (read, write) = sys::pipe().map_err(|e| e.to_string())?;
    // SAFETY: by contract of `all` the process has one thread.
    let pid = unsafe { sys::fork() }.map_err(|e| e.to_string())?;
    if pid == 0 {
        let status = match run() {
            Ok(()) => 0,
            Err(e) => {
                let _ = sys::write_all(write, e.to_string().as_bytes());
                1
            }
        };
        sys::leave(status);
    }
    sys::close(write);
    let mut reason = String::new();
    while let Ok(Some([byte])) = sys::read_exact::<1>(read) {
        reason.push(char::from(byte));
    }
    sys::close(read);
    match sys::reap(pid, 0) {
        Some((_, 0)) => Ok(()),
        _ if reason.is_empty() => Err("the test was killed".to_owned()),
        _ => Err(reason),
    }
}

fn namespace(flags: libc::c_int) -> Result<()> {
    Gate::default().unshare("unshare", flags)
}

/// As the nursery would: with root's privilege, or in a user namespace.
fn privileged(flags: libc::c_int) -> Result<()> {
    if sys::euid() == 0 { namespace(flags) } else { ids::become_inner_root(flags) }
}

fn mounts() -> Result<()> {
    privileged(libc::CLONE_NEWNS)?;
    sys::make_private()?;
    Gate::default().mount(c"tmpfs", c"/tmp", libc::MS_NOSUID | libc::MS_NODEV, c"size=4k")
}

fn network() -> Result<()> {
    privileged(libc::CLONE_NEWNET)?;
    sys::loopback_up()
}

fn proc_mount() -> Result<()> {
    privileged(libc::CLONE_NEWNS | libc::CLONE_NEWPID)?;
    sys::make_private()?;
    // SAFETY: this child has one thread.
    let pid = unsafe { sys::fork()? };
    if pid == 0 {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let result = Gate::default().mount(c"proc", c"/proc", flags, c"");
        sys::leave(result.map_or_else(|e| e.code(), |()| 0));
    }
    match sys::reap(pid, 0) {
        Some((_, 0)) => Ok(()),
        Some((_, status)) if libc::WIFEXITED(status) => Err(Error::errno("mount proc", libc::WEXITSTATUS(status))),
        _ => Err(Error::errno("mount proc", libc::EINTR)),
    }
}

fn detached_mounts() -> Result<()> {
    privileged(libc::CLONE_NEWNS)?;
    let step = |e| Error::new("open_tree and mount_setattr of /usr", e);
    let tree = sys::open_tree(libc::AT_FDCWD, c"/usr", 0)
        .or_else(|_| sys::open_tree(libc::AT_FDCWD, c"/usr", libc::AT_RECURSIVE))
        .map_err(step)?;
    sys::set_attributes(std::os::fd::AsFd::as_fd(&tree), libc::MOUNT_ATTR_RDONLY, false).map_err(step)
}

fn own_pidfd() -> Result<()> {
    sys::pidfd_open(std::process::id() as libc::c_int).map(drop)
}

fn seccomp() -> Result<()> {
    sys::prctl("set no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    Filter::compile(None).install()?;
    match namespace(libc::CLONE_NEWUTS) {
        Err(_) => Ok(()),
        Ok(()) => Err(Error::invalid("the filter is installed and does not hold")),
    }
}

fn landlock() -> Result<()> {
    rules::restrict(&[])
}

fn landlock_abi() -> i64 {
    const VERSION: libc::c_long = 1;
    let none: libc::c_long = 0;
    // SAFETY: with this flag the call reads no memory and only returns a number.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, none, VERSION) }
}

fn user_ids() -> Result<()> {
    let id: libc::c_long = 200_000;
    // SAFETY: reads no memory.
    sys::check("set the user id to 200000", unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) })?;
    Ok(())
}
