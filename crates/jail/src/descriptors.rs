//! Which descriptors a new process holds: its channel on 3, its claims on 4, its output on 1 and 2, nothing to read on 0. What an engine
//! keeps for itself (event queues, wake-up descriptors) is replaced by fresh ones, because a shared one would be a
//! channel between clones. It never leaves a descriptor open because it does not know what it is.

use std::collections::BTreeMap;
use std::os::fd::{IntoRawFd, RawFd};

use crate::sys::{self, Error, Result, check};

/// The first number that is not one of those that every worker has.
pub const FIRST_OTHER: RawFd = 5;

/// How many descriptors every process is given: channel, standard output, standard error, claims.
pub const GIVEN: usize = 4;

/// Puts the channel on 3, the claims on 4, the outputs on 1 and 2, and nothing on 0. All come from numbers of `FIRST_OTHER`
/// and above. A clone is the last program that may speak on its channel (`channel_flags` = `O_CLOEXEC`); a boot has yet
/// to become that program.
pub fn place(given: [RawFd; GIVEN], channel_flags: libc::c_int) -> Result<()> {
    let [channel, stdout, stderr, claims] = given;
    for (from, to, flags) in [(channel, 3, channel_flags), (claims, 4, channel_flags), (stdout, 1, 0), (stderr, 2, 0)] {
        sys::dup_to(from, to, flags)?;
    }
    let null = nothing(libc::O_RDWR)?;
    sys::dup_to(null, 0, 0)?;
    sys::close(null);
    Ok(())
}

/// Joins the cgroups whose `cgroup.procs` files are given.
pub fn join_cgroups(procs: &[RawFd]) -> Result<()> {
    procs.iter().try_for_each(|fd| sys::write_all(*fd, b"0").map_err(|e| Error::new("join a cgroup", e)))
}

/// What a descriptor of a template is, as far as its clones need to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An epoll descriptor.
    Poll,
    /// The reading end of the pipe with this number.
    PipeOut(u64),
    /// The writing end of it.
    PipeIn(u64),
    /// A socket.
    Socket,
    /// A file that was opened only for reading.
    ReadOnly,
    /// A file that was opened for writing.
    Written,
    /// A device such as `/dev/null`.
    Device,
    /// An eventfd, or anything else; becomes an eventfd that nobody else has.
    Other,
}

/// Lists this process's descriptors from `FIRST_OTHER` on, without those in `except`.
pub fn list(except: &[RawFd]) -> Result<Vec<(RawFd, Kind)>> {
    let step = |e| Error::new("list /proc/self/fd", e);
    let numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .map_err(step)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    // The directory's own descriptor is closed by now, and so has no kind.
    Ok(numbers
        .into_iter()
        .filter(|fd| *fd >= FIRST_OTHER && !except.contains(fd))
        .filter_map(|fd| Some((fd, kind(fd)?)))
        .collect())
}

fn kind(fd: RawFd) -> Option<Kind> {
    // SAFETY: stat is plain data; all zero is valid, and fstat fills it.
    let mut stat = unsafe { std::mem::zeroed::<libc::stat>() };
    // SAFETY: `stat` is a valid place for the answer.
    if unsafe { libc::fstat(fd, &raw mut stat) } < 0 {
        return None;
    }
    // SAFETY: reads no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let reads = flags & libc::O_ACCMODE == libc::O_RDONLY;
    Some(match stat.st_mode & libc::S_IFMT {
        libc::S_IFIFO if reads => Kind::PipeOut(stat.st_ino),
        libc::S_IFIFO => Kind::PipeIn(stat.st_ino),
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFREG | libc::S_IFDIR if reads => Kind::ReadOnly,
        libc::S_IFREG => Kind::Written,
        libc::S_IFCHR => Kind::Device,
        0 if is_poll(fd) => Kind::Poll,
        _ => Kind::Other,
    })
}

fn is_poll(fd: RawFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|l| l.as_os_str() == "anon_inode:[eventpoll]")
}

/// In a clone: puts something of its own under each number, so that an engine's records stay true and nothing is shared
/// with the template. Sockets become closed ones (their owners see the end and connect anew), files opened for reading
/// get a position of their own, files opened for writing become `/dev/null`.
pub fn renew(shared: &[(RawFd, Kind)]) -> Result<()> {
    let mut pipes = BTreeMap::new();
    for &(fd, kind) in shared {
        // SAFETY: reads no memory.
        let close_on_exec =
            if unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
        let fresh = match kind {
            Kind::Device => continue,
            // The engine has made this one anew in the fork (libuv does so with the pipe that is its signal lock).
            Kind::PipeOut(_) | Kind::PipeIn(_) if self::kind(fd) != Some(kind) => continue,
            // SAFETY: reads no memory.
            Kind::Poll => check("epoll_create", unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })? as RawFd,
            Kind::PipeOut(id) | Kind::PipeIn(id) => pipe_end(&mut pipes, id, kind == Kind::PipeOut(id))?,
            Kind::Socket => closed_socket()?,
            Kind::ReadOnly => reopened(fd)?,
            Kind::Written => nothing(libc::O_RDWR)?,
            Kind::Other => {
                // SAFETY: reads no memory.
                check("eventfd", unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })? as RawFd
            }
        };
        // SAFETY: reads no memory; the flags are those of the descriptor that is being replaced.
        unsafe { libc::fcntl(fresh, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) & libc::O_NONBLOCK) };
        sys::dup_to(fresh, fd, close_on_exec)?;
        sys::close(fresh);
    }
    for (read, write) in pipes.into_values() {
        sys::close(read);
        sys::close(write);
    }
    Ok(())
}

fn pipe_end(pipes: &mut BTreeMap<u64, (RawFd, RawFd)>, id: u64, reads: bool) -> Result<RawFd> {
    let (read, write) = match pipes.get(&id) {
        Some(pipe) => *pipe,
        None => *pipes.entry(id).or_insert(sys::pipe()?),
    };
    sys::dup_above(if reads { read } else { write }, FIRST_OTHER)
}

fn closed_socket() -> Result<RawFd> {
    let mut pair = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: `pair` has room for two descriptors.
    check("socketpair", unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    sys::close(pair[1]);
    Ok(pair[0])
}

fn reopened(fd: RawFd) -> Result<RawFd> {
    let path = sys::cstr(&format!("/proc/self/fd/{fd}"))?;
    match sys::openat(libc::AT_FDCWD, &path, libc::O_RDONLY, 0) {
        Ok(file) => Ok(file.into_raw_fd()),
        // It has been deleted, or this user may not read it any more.
        Err(_) => nothing(libc::O_RDONLY),
    }
}

fn nothing(access: libc::c_int) -> Result<RawFd> {
    let null = sys::openat(libc::AT_FDCWD, c"/dev/null", access, 0).map_err(|e| Error::new("open /dev/null", e))?;
    Ok(null.into_raw_fd())
}
