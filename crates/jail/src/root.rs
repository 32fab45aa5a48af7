//! The file system that a program sees: a small read-only tmpfs with the system directories bound into it, a minimal
//! `/etc`, `/dev` and `/proc`, and what the request adds. Built in a mount namespace of its own, so nothing of it stays
//! on the host, and from descriptors opened beforehand, so nobody can swap a path underneath. It never shows a host path
//! that is not on one of the lists here or in the request.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use libc::{MS_NODEV, MS_NOEXEC, MS_NOSUID};

use crate::spec::{CODE_DIR, RootSpec};
use crate::sys::{self, Error, Gate, Result, cstr};

const SYSTEM: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What name resolution, TLS, time zones and the dynamic linker read; nothing that tells of the host's people or services.
const ETC: &[&str] = &[
    "ssl",
    "ca-certificates",
    "pki",
    "crypto-policies",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "resolv.conf",
    "nsswitch.conf",
    "hosts",
    "localtime",
    "alternatives",
    "mime.types",
    "services",
    "protocols",
    "gai.conf",
];
/// Debian keeps the settings of a Java in `/etc/java-<version>-openjdk`, and that Java does not start without them.
const ETC_JAVA: &str = "java-";
/// What of the host's `/etc/hosts` is copied where a box has lines of its own, in bytes.
const MAX_HOSTS: usize = 64 << 10;
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];
const MOUNT_POINTS: &[&str] = &["proc", "tmp", "var/task", "opt", "dev/shm", "run/offshoot/code", "root", "home"];
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// A host path, cloned as a detached mount that waits for its place.
struct Piece {
    tree: OwnedFd,
    to: String,
    directory: bool,
}

/// Moves this process into a mount namespace whose root is the one asked for. `uid` is the box's user, as the box knows it.
pub fn build(spec: &RootSpec, uid: u32) -> Result<()> {
    Gate::default().unshare("make a mount namespace", libc::CLONE_NEWNS)?;
    sys::make_private()?;
    let pieces = collect(spec)?;
    let hosts = spec.hosts.as_ref().map(|more| hosts_with(more));
    let root = empty_root()?;
    system_links(&root)?;
    for path in MOUNT_POINTS {
        make_directories(&root, path)?;
    }
    write_accounts(&root, uid)?;
    if let Some(text) = hosts {
        write_text(&root, "etc/hosts", &text)?;
    }
    device_links(&root)?;
    for piece in &pieces {
        place(&root, piece)?;
    }
    // While the host's /proc is still here: an unprivileged user namespace may mount another only beside a whole one.
    Gate::default().mount(c"proc", c"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, c"")?;
    sys::pivot_here()?;
    seal()
}

/// Opens everything that is going to be shown, before a mount of ours can hide a path of the host.
fn collect(spec: &RootSpec) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for name in SYSTEM {
        if std::fs::symlink_metadata(format!("/{name}")).is_ok_and(|m| m.is_dir()) {
            pieces.extend(optional(&format!("/{name}"), READ_ONLY)?);
        }
    }
    for name in ETC.iter().filter(|name| spec.hosts.is_none() || **name != "hosts") {
        // Through a symbolic link to what it leads to: resolv.conf and localtime often are links.
        pieces.extend(optional(&format!("/etc/{name}"), READ_ONLY | libc::MOUNT_ATTR_NOEXEC)?);
    }
    for name in javas() {
        pieces.extend(optional(&format!("/etc/{name}"), READ_ONLY | libc::MOUNT_ATTR_NOEXEC)?);
    }
    for name in DEVICES {
        pieces.push(piece(
            &format!("/dev/{name}"),
            &format!("/dev/{name}"),
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
        )?);
    }
    for bind in &spec.binds {
        let attributes = if bind.writable { READ_ONLY & !libc::MOUNT_ATTR_RDONLY } else { READ_ONLY };
        pieces.push(piece(&bind.from, &bind.to, attributes)?);
    }
    if let Some(store) = &spec.code_dir {
        pieces.push(piece(store, CODE_DIR, READ_ONLY)?);
    }
    Ok(pieces)
}

/// The directories of Java's settings in `/etc`.
fn javas() -> Vec<String> {
    let entries = std::fs::read_dir("/etc").into_iter().flatten().flatten();
    let directories = entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with(ETC_JAVA)).collect()
}

fn optional(path: &str, attributes: u64) -> Result<Option<Piece>> {
    match std::fs::metadata(path) {
        Ok(_) => piece(path, path, attributes).map(Some),
        Err(_) => Ok(None),
    }
}

fn piece(from: &str, to: &str, attributes: u64) -> Result<Piece> {
    let step = |e: io::Error| Error::new(format!("bind {from} on {to}"), e);
    let path = cstr(from)?;
    let directory = std::fs::metadata(from).map_err(step)?.is_dir();
    let (tree, recursive) = match sys::open_tree(libc::AT_FDCWD, &path, 0) {
        Ok(tree) => (tree, false),
        // In a user namespace, mounts beneath that it must not take apart have to come along.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            (sys::open_tree(libc::AT_FDCWD, &path, libc::AT_RECURSIVE).map_err(step)?, true)
        }
        Err(e) => return Err(step(e)),
    };
    sys::set_attributes(tree.as_fd(), attributes, recursive).map_err(step)?;
    Ok(Piece { tree, to: to.to_owned(), directory })
}

/// A tmpfs, mounted where every host has a directory; it becomes the current directory.
fn empty_root() -> Result<OwnedFd> {
    let data = c"mode=755,size=2m,nr_inodes=1024";
    let mut result = Err(Error::invalid("mount a root"));
    for place in [c"/tmp", c"/mnt", c"/run", c"/var"] {
        result = Gate::default().mount(c"tmpfs", place, MS_NOSUID | MS_NODEV, data);
        if result.is_ok() {
            sys::chdir(place)?;
            break;
        }
    }
    result?;
    let root = sys::openat(libc::AT_FDCWD, c".", libc::O_DIRECTORY | libc::O_PATH, 0);
    root.map_err(|e| Error::new("open the new root", e))
}

/// `/bin`, `/lib` and their like are links into `/usr` on most hosts, and then here too.
fn system_links(root: &OwnedFd) -> Result<()> {
    for name in SYSTEM {
        if let Ok(target) = std::fs::read_link(format!("/{name}")) {
            symlink(root, &target.to_string_lossy(), name)?;
        }
    }
    Ok(())
}

fn device_links(root: &OwnedFd) -> Result<()> {
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(root, &format!("/proc/self/fd{target}"), &format!("dev/{name}"))?;
    }
    Ok(())
}

fn write_accounts(root: &OwnedFd, uid: u32) -> Result<()> {
    make_directories(root, "etc")?;
    let home = "/tmp:/usr/sbin/nologin";
    // The user's name is AWS's.
    let passwd = format!("root:x:0:0:root:{home}\nsbx_user1051:x:{uid}:{uid}::{home}\n");
    let group = format!("root:x:0:\nsbx_user1051:x:{uid}:\n");
    [("etc/passwd", passwd), ("etc/group", group)].iter().try_for_each(|(path, text)| write_text(root, path, text))
}

/// The host's names, as far as they are read, and these.
fn hosts_with(more: &str) -> String {
    let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    text.truncate(text.floor_char_boundary(MAX_HOSTS));
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text + more
}

fn write_text(root: &OwnedFd, path: &str, text: &str) -> Result<()> {
    let file = create(root, path)?;
    sys::write_all(file.as_raw_fd(), text.as_bytes()).map_err(|e| Error::new(format!("write {path}"), e))
}

fn place(root: &OwnedFd, piece: &Piece) -> Result<()> {
    let to = inside(&piece.to)?;
    if piece.directory {
        make_directories(root, to)?;
    } else {
        if let Some((parent, _)) = to.rsplit_once('/') {
            make_directories(root, parent)?;
        }
        create(root, to)?;
    }
    let path = cstr(to)?;
    sys::attach(piece.tree.as_fd(), root.as_raw_fd(), &path).map_err(|e| Error::new(format!("mount {}", piece.to), e))
}

/// A path of the box, relative to its root.
fn inside(path: &str) -> Result<&str> {
    let relative = path.strip_prefix('/').unwrap_or_default();
    if relative.is_empty() || relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::invalid(format!("{path:?} is not a plain absolute path")));
    }
    Ok(relative)
}

fn make_directories(root: &OwnedFd, path: &str) -> Result<()> {
    for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
        let part = cstr(&path[..end])?;
        // SAFETY: an open directory and a NUL-terminated path.
        let ret = unsafe { libc::mkdirat(root.as_raw_fd(), part.as_ptr(), 0o755) };
        let error = io::Error::last_os_error();
        // What is there already may be a bind of the request, and read-only.
        if ret < 0 && !exists(root.as_raw_fd(), &part) {
            return Err(Error::new(format!("make /{}", part.to_string_lossy()), error));
        }
    }
    Ok(())
}

fn exists(dir: RawFd, path: &CString) -> bool {
    // SAFETY: an open directory and a NUL-terminated path.
    unsafe { libc::faccessat(dir, path.as_ptr(), libc::F_OK, 0) == 0 }
}

fn create(root: &OwnedFd, path: &str) -> Result<OwnedFd> {
    let name = cstr(path)?;
    let existing = exists(root.as_raw_fd(), &name);
    let flags = if existing { libc::O_PATH } else { libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW };
    sys::openat(root.as_raw_fd(), &name, flags, 0o644).map_err(|e| Error::new(format!("create /{path}"), e))
}

fn symlink(root: &OwnedFd, target: &str, path: &str) -> Result<()> {
    if let Some((parent, _)) = path.rsplit_once('/') {
        make_directories(root, parent)?;
    }
    let (target, name) = (cstr(target)?, cstr(path)?);
    // SAFETY: an open directory and two NUL-terminated strings.
    sys::check("make a symbolic link", unsafe { libc::symlinkat(target.as_ptr(), root.as_raw_fd(), name.as_ptr()) })?;
    Ok(())
}

/// Nothing in the root's own tmpfs changes from here on.
fn seal() -> Result<()> {
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | MS_NOSUID | MS_NODEV;
    // SAFETY: static strings; source, type and data are not read for a remount of the flags.
    let ret = unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    sys::check("make the root read-only", ret)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_places_in_a_root() {
        assert_eq!(inside("/var/lang").unwrap(), "var/lang");
        for bad in ["", "/", "var", "/var/../etc", "//x", "/a/./b", "/a/"] {
            assert!(inside(bad).is_err(), "{bad}");
        }
    }
}
