//! The conversation with a worker: frames over a Unix socket.
//!
//! It never looks into a body, and never waits longer than its caller lets it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use bytes::BytesMut;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::frames::{self, Frame, FrameError};
use crate::rights::receive_once;

/// What a first read makes room for: an ordinary reply fits, an idle instance costs little.
const READ_ROOM: usize = 4096;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side closed it.
    #[error("the worker closed its channel")]
    Closed,
    /// A frame breaks the rules.
    #[error("protocol error: {0}")]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error("channel: {0}")]
    Io(#[from] io::Error),
}

/// Both halves of a worker's channel.
#[derive(Debug)]
pub struct Channel {
    /// What the worker says.
    pub reader: Reader,
    /// What the worker is told.
    pub writer: Writer,
}

/// The reading half.
#[derive(Debug)]
pub struct Reader {
    half: OwnedReadHalf,
    buffer: BytesMut,
    max_body: usize,
}

/// The writing half.
#[derive(Debug)]
pub struct Writer {
    half: OwnedWriteHalf,
    scratch: Vec<u8>,
}

impl Channel {
    /// A channel over this socket; bodies longer than `max_body` bytes are refused.
    pub fn new(stream: UnixStream, max_body: usize) -> Self {
        let (read, write) = stream.into_split();
        Channel {
            reader: Reader { half: read, buffer: BytesMut::new(), max_body },
            writer: Writer { half: write, scratch: Vec::new() },
        }
    }

    /// The socket again, to serve as a control socket; nothing unread may be left.
    pub fn into_stream(self) -> Option<UnixStream> {
        self.reader.half.reunite(self.writer.half).ok()
    }
}

impl Reader {
    /// The next frame.
    pub async fn next(&mut self) -> Result<Frame, ChannelError> {
        loop {
            if let Some(frame) = frames::take(&mut self.buffer, self.max_body)? {
                return Ok(frame);
            }
            if self.buffer.capacity() - self.buffer.len() < READ_ROOM / 4 {
                self.buffer.reserve(READ_ROOM);
            }
            if self.half.read_buf(&mut self.buffer).await? == 0 {
                return Err(ChannelError::Closed);
            }
        }
    }
}

impl Reader {
    /// The next frame, with the descriptors that came along.
    pub(crate) async fn next_with_fds(&mut self) -> Result<(Frame, Vec<OwnedFd>), ChannelError> {
        let mut fds = Vec::new();
        loop {
            if let Some(frame) = frames::take(&mut self.buffer, self.max_body)? {
                return Ok((frame, fds));
            }
            let mut chunk = [0u8; 1024];
            let stream: &UnixStream = self.half.as_ref();
            let read =
                stream.async_io(Interest::READABLE, || receive_once(stream.as_fd(), &mut chunk, &mut fds)).await?;
            if read == 0 {
                return Err(ChannelError::Closed);
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

/// Bodies up to this size are copied behind their header and leave with one `write`; larger ones are written from where they are.
const COPY_BODY: usize = 16 << 10;

impl Writer {
    /// Sends one frame. The header is taken from pieces that the caller already has.
    pub async fn send(&mut self, header: &[u8], body: &[u8]) -> Result<(), ChannelError> {
        self.scratch.clear();
        self.scratch.extend_from_slice(&frames::prefix(header.len(), body.len()));
        self.scratch.extend_from_slice(header);
        if body.len() <= COPY_BODY {
            self.scratch.extend_from_slice(body);
            self.half.write_all(&self.scratch).await?;
            return Ok(());
        }
        self.half.write_all(&self.scratch).await?;
        self.half.write_all(body).await?;
        self.scratch.shrink_to(COPY_BODY);
        Ok(())
    }
}

/// Tokens that a worker and the server share: one for each call that was sent while another ran. Whoever takes a call's
/// token decides about it: the worker, which then begins it, or the server, which then gives it to somebody else. So no
/// call is begun twice, and none waits behind a long one. (docs/design/002-channel.md, "Claims".)
///
/// The tokens are bytes in a pipe. Whether a read or write waits is a property of an open file description, and this side
/// has descriptions of its own: whatever a worker does to its end, nothing here ever waits.
#[derive(Debug)]
pub struct Claims {
    put: OwnedFd,
    take: OwnedFd,
}

impl Claims {
    /// No call to claim yet; and the worker's end.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (worker, put) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // A second description of the same end of the same pipe (proc_pid_fd(5)).
        let path = format!("/proc/self/fd/{}", worker.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let take = rustix::fs::open(path, flags, Mode::empty())?;
        Ok((Claims { put, take }, worker))
    }

    /// One more call may be claimed. To be said before the call is sent.
    pub fn offer(&self) -> bool {
        rustix::io::write(&self.put, &[1]).is_ok_and(|n| n == 1)
    }

    /// Takes one call back, if one is left that nobody has begun. It is the last of those that were sent.
    pub fn take_back(&self) -> bool {
        rustix::io::read(&self.take, &mut [0u8; 1]).is_ok_and(|n| n == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_does_to_its_end_never_makes_the_server_wait() {
        let (claims, worker) = Claims::new().unwrap();
        assert!(claims.offer() && claims.offer() && claims.take_back());
        // The worker's description waits now, and so would the server, had it the same one.
        rustix::fs::fcntl_setfl(&worker, OFlags::empty()).unwrap();
        assert!(claims.take_back() && !claims.take_back());
        // A pipe that the worker has filled, through the same door, refuses at once.
        let path = format!("/proc/self/fd/{}", worker.as_raw_fd());
        let filler = rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        while rustix::io::write(&filler, &[0; 4096]).is_ok() {}
        assert!(!claims.offer());
    }
}
