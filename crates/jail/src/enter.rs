//! Entering a box: from a process with privilege (or with its own user namespace's) to one that has none left. The steps
//! stand in `enter` in the order that matters, because each gives up something that an earlier one needed. It never goes on
//! after a step that failed.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use libc::{MS_NODEV, MS_NOEXEC, MS_NOSUID};

use crate::filter::Filter;
use crate::spec::{BoxSpec, CODE_DIR, Network, USER};
use crate::sys::{self, Error, Gate, Result, cstr};
use crate::{ids, rules};

const SHM_BYTES: u64 = 64 << 20;

/// Where the process that enters comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// A program that the nursery starts; its root has just been built for it.
    Boot,
    /// A clone of a language template, with privilege.
    Clone,
    /// A clone of a function template, in the namespaces that `split` made.
    Nested,
}

/// Enters the box. The cgroups have been joined, and this process is PID 1 of a PID namespace of its own. `gate` holds the
/// secret of the function template that this process is a clone of, or is going to be.
pub fn enter(spec: &BoxSpec, how: How, gate: &Gate, filter: &Filter) -> Result<()> {
    prepare(spec, how, gate)?;
    seal(spec, how, gate, filter)
}

/// The first half: namespaces, which are the same for every function. A spare clone stops after it and waits.
pub fn prepare(spec: &BoxSpec, how: How, gate: &Gate) -> Result<()> {
    if how != How::Nested {
        Gate::default().unshare("make the box's namespaces", namespaces(spec))?;
    }
    gate.sethostname(&spec.hostname)?;
    if spec.network == Network::None {
        sys::loopback_up()?;
    }
    Ok(())
}

/// The second half: the function's files and limits, and then nothing is left to lose.
pub fn seal(spec: &BoxSpec, how: How, gate: &Gate, filter: &Filter) -> Result<()> {
    if how != How::Nested {
        show_code(spec)?;
    }
    fresh_mounts(spec, how, gate)?;
    limits(spec)?;
    if how != How::Nested {
        ids::become_user(spec)?;
    } else {
        ids::drop_bounding()?;
    }
    ids::drop_capabilities()?;
    settle(how)?;
    // A function template mounts for its clones, which a process under Landlock may not; each clone gets its own rules.
    if spec.landlock && !spec.may_snapshot {
        rules::restrict(&spec.writable)?;
    }
    if spec.may_snapshot { gated_filter(gate) } else { filter.install() }
}

/// The namespaces that a box has of its own, besides the PID namespace that its parent made for it.
fn namespaces(spec: &BoxSpec) -> libc::c_int {
    let network = if spec.network == Network::None { libc::CLONE_NEWNET } else { 0 };
    libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP | network
}

/// The namespaces for a clone of a function template, made by its parent: with a user namespace, because nobody here has
/// any privilege, and the PID namespace for the next child.
pub fn split(spec: &BoxSpec, gate: &Gate) -> Result<()> {
    let user = (sys::euid(), sys::egid());
    let flags = namespaces(spec) | libc::CLONE_NEWUSER | libc::CLONE_NEWPID;
    gate.unshare("make the clone's namespaces", flags)?;
    ids::map_ids(USER, user)
}

/// Binds the function's code on `/var/task` and its layers on `/opt`, and takes the store of everybody's code away.
fn show_code(spec: &BoxSpec) -> Result<()> {
    for (tree, place) in [(&spec.code, c"/var/task"), (&spec.opt, c"/opt")] {
        if let Some(name) = tree {
            show_tree(name, place)?;
        }
    }
    match Gate::default().detach(&cstr(CODE_DIR)?) {
        // No store was bound, so there is none to take away.
        Err(e) if e.code() == libc::EINVAL && spec.code.is_none() && spec.opt.is_none() => Ok(()),
        other => other,
    }
}

fn show_tree(name: &str, place: &CStr) -> Result<()> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(Error::invalid(format!("{name:?} is not the name of a code directory")));
    }
    let step = |e| Error::new(format!("bind {CODE_DIR}/{name} on {}", place.to_string_lossy()), e);
    let path = cstr(&format!("{CODE_DIR}/{name}"))?;
    // The copy keeps the store's flags: read-only, nosuid, nodev.
    let tree = sys::open_tree(libc::AT_FDCWD, &path, libc::AT_SYMLINK_NOFOLLOW).map_err(step)?;
    sys::attach(tree.as_fd(), libc::AT_FDCWD, place).map_err(step)
}

/// A `/tmp`, `/dev/shm` and `/proc` that nobody has used before.
fn fresh_mounts(spec: &BoxSpec, how: How, gate: &Gate) -> Result<()> {
    // As this user namespace knows the box's user: a nursery without privilege has only its own 0.
    let owner = match how {
        How::Nested => USER,
        _ if spec.rootless => 0,
        _ => spec.uid,
    };
    let data = |bytes: u64, inodes: u64| -> Result<CString> {
        cstr(&format!("mode=1777,size={bytes},nr_inodes={inodes},uid={owner},gid={owner}"))
    };
    let flags = MS_NOSUID | MS_NODEV;
    // A tmpfs takes a size or a count of 0 for "unlimited".
    gate.mount(c"tmpfs", c"/tmp", flags, &data(spec.tmp_bytes.max(4096), spec.tmp_inodes.max(2))?)?;
    let shm = SHM_BYTES.min(spec.tmp_bytes.max(4096));
    gate.mount(c"tmpfs", c"/dev/shm", flags | MS_NOEXEC, &data(shm, spec.tmp_inodes.clamp(2, 1024))?)?;
    if how != How::Boot {
        // Over the template's, and whole: a nested user namespace may mount /proc only where it sees a whole one.
        gate.mount(c"proc", c"/proc", flags | MS_NOEXEC, c"")?;
    }
    Ok(())
}

fn limits(spec: &BoxSpec) -> Result<()> {
    sys::limit("limit open files", libc::RLIMIT_NOFILE, spec.nofile)?;
    sys::limit("limit processes", libc::RLIMIT_NPROC, spec.nproc)?;
    sys::limit("limit core dumps", libc::RLIMIT_CORE, spec.core)
}

/// The small things a program inherits.
fn settle(how: How) -> Result<()> {
    sys::umask(0o022);
    sys::chdir(c"/var/task")?;
    sys::new_session();
    // A clone keeps its engine's handlers; a new program must not inherit ours.
    sys::reset_signals(how == How::Boot);
    Ok(())
}

/// The filter of a future function template, which exists only while it is installed: its program holds the secret.
fn gated_filter(gate: &Gate) -> Result<()> {
    if gate.0.contains(&0) {
        // Registers that nobody sets are often zero.
        return Err(Error::invalid("a function template's box without a cookie, or with a zero word in it"));
    }
    let mut filter = Filter::compile(Some(gate));
    let result = filter.install();
    filter.wipe();
    result
}
