//! Frames on a stream socket: two lengths, a JSON header, a body, and descriptors attached to the first byte. It checks
//! lengths before it allocates, and it never looks into header or body.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The longest header that is accepted.
pub const MAX_HEADER: usize = 1 << 20;
/// The most descriptors that one frame may carry.
pub const MAX_FDS: usize = 32;

/// A received frame.
#[derive(Debug, Default)]
pub struct Frame {
    /// The JSON header, not parsed.
    pub header: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Sends one frame. The lengths, the header and the body leave in one `sendmsg` where the socket takes them at once.
pub fn send(socket: RawFd, header: &[u8], body: &[u8], fds: &[RawFd]) -> io::Result<()> {
    if header.len() > MAX_HEADER || body.len() > u32::MAX as usize || fds.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut bytes = Vec::with_capacity(8 + header.len() + body.len());
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(body);
    let mut sent = 0;
    while sent < bytes.len() {
        // Descriptors travel with the first byte only. A stream socket takes either the whole of a short first part or
        // none of it, so the eight length bytes are never split in practice, and a reader copes if they are.
        sent += send_part(socket, &bytes[sent..], if sent == 0 { fds } else { &[] })?;
    }
    Ok(())
}

/// Room for the control message that carries `MAX_FDS` descriptors, aligned as `cmsghdr` needs it.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);
// SAFETY: CMSG_SPACE only computes a length.
const CONTROL: usize = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) } as usize;

fn send_part(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; CONTROL]);
    // SAFETY: msghdr is plain data; all zero is valid.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let size = size_of_val(fds) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes a length.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
        // SAFETY: the control buffer is aligned and has room for `MAX_FDS` descriptors, which `send` checked; the
        // header pointer that CMSG_FIRSTHDR returns lies in it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), size as usize);
        }
    }
    loop {
        // SAFETY: `message` points at `part` and `control`, which live across the call.
        let n = unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) };
        if n >= 0 {
            return Ok(n as usize);
        }
        wait_or_fail(socket, libc::POLLOUT)?;
    }
}

/// Receives one frame; `None` at end of file. A body longer than `max_body` is an error before anything is allocated.
pub fn recv(socket: RawFd, max_body: usize) -> io::Result<Option<Frame>> {
    let mut lengths = [0u8; 8];
    let mut fds = Vec::new();
    let mut have = 0;
    while have < lengths.len() {
        let n = recv_part(socket, &mut lengths[have..], &mut fds)?;
        if n == 0 {
            return if have == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        have += n;
    }
    let [a, b, c, d, e, f, g, h] = lengths;
    let header = u32::from_le_bytes([a, b, c, d]) as usize;
    let body = u32::from_le_bytes([e, f, g, h]) as usize;
    if header > MAX_HEADER || body > max_body {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(Some(Frame { header: recv_exact(socket, header)?, body: recv_exact(socket, body)?, fds }))
}

fn recv_exact(socket: RawFd, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut have = 0;
    while have < length {
        let mut uninvited = Vec::new();
        let n = recv_part(socket, &mut bytes[have..], &mut uninvited)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !uninvited.is_empty() {
            return Err(io::Error::other("descriptors in the middle of a frame"));
        }
        have += n;
    }
    Ok(bytes)
}

fn recv_part(socket: RawFd, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = Control([0; CONTROL]);
    // SAFETY: msghdr is plain data; all zero is valid.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    let n = loop {
        // SAFETY: `message` points at `part` and `control`, which live across the call.
        let n = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if n >= 0 {
            break n as usize;
        }
        wait_or_fail(socket, libc::POLLIN)?;
    };
    collect_fds(&message, fds);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("a frame carries too many descriptors"));
    }
    Ok(n)
}

fn collect_fds(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel filled the control buffer that `message` points at; the CMSG macros stay inside the length it
    // set, and every descriptor in an SCM_RIGHTS message is new and belongs to nobody else.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(header).cast::<RawFd>();
                for i in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(first.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}

/// After a failed call: returns when it is worth trying again. Sockets that an engine has made non-blocking work too.
fn wait_or_fail(socket: RawFd, events: libc::c_short) -> io::Result<()> {
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            let mut poll = libc::pollfd { fd: socket, events, revents: 0 };
            // SAFETY: one entry, which lives across the call; a signal only makes the caller try again early.
            unsafe { libc::poll(&raw mut poll, 1, -1) };
            Ok(())
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_frame_arrives_whole_with_its_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(a.as_raw_fd(), b"{\"t\":\"x\"}", b"body", &[file.as_raw_fd(), file.as_raw_fd()]).unwrap();
        let frame = recv(b.as_raw_fd(), 16).unwrap().unwrap();
        assert_eq!(
            (frame.header.as_slice(), frame.body.as_slice(), frame.fds.len()),
            (&b"{\"t\":\"x\"}"[..], &b"body"[..], 2)
        );
        drop(a);
        assert!(recv(b.as_raw_fd(), 16).unwrap().is_none());
    }

    #[test]
    fn lengths_are_refused_before_anything_is_allocated() {
        for lengths in [[0xff_u8; 8], [1, 0, 0, 0, 17, 0, 0, 0]] {
            let (mut a, b) = UnixStream::pair().unwrap();
            a.write_all(&lengths).unwrap();
            assert_eq!(recv(b.as_raw_fd(), 16).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
        }
    }

    #[test]
    fn a_frame_that_stops_in_the_middle_is_an_error() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[5, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
        drop(a);
        assert_eq!(recv(b.as_raw_fd(), 16).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_socket_that_does_not_block_still_gives_whole_frames() {
        let (a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        a.set_nonblocking(true).unwrap();
        let body = vec![7u8; 1 << 20];
        let copy = body.clone();
        let sender = std::thread::spawn(move || send(a.as_raw_fd(), b"{}", &copy, &[]).unwrap());
        assert_eq!(recv(b.as_raw_fd(), 1 << 20).unwrap().unwrap().body, body);
        sender.join().unwrap();
    }
}
