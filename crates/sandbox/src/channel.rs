//! The conversation with a worker: frames over a Unix socket.
//!
//! It never looks into a body, and never waits longer than its caller lets it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::PipeFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, Interest, ReadBuf};
use tokio::net::UnixStream;

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

/// The socket, watched for what comes in and for nothing else. A Unix socket whose peer has read something is said to be writable, each
/// time: a server that asked for that would be woken once more for every call, for nothing.
#[derive(Debug, Clone)]
struct Socket(Arc<AsyncFd<OwnedFd>>);

/// The reading half.
#[derive(Debug)]
pub struct Reader {
    socket: Socket,
    buffer: BytesMut,
    max_body: usize,
}

/// The writing half.
#[derive(Debug)]
pub struct Writer {
    socket: Socket,
    scratch: Vec<u8>,
}

impl Channel {
    /// A channel over this Unix stream socket, which does not block; bodies longer than `max_body` bytes are refused.
    pub fn new(socket: OwnedFd, max_body: usize) -> io::Result<Self> {
        let socket = Socket(Arc::new(watch(socket, Interest::READABLE)?));
        Ok(Channel {
            reader: Reader { socket: socket.clone(), buffer: BytesMut::new(), max_body },
            writer: Writer { socket, scratch: Vec::new() },
        })
    }

    /// The socket again, to serve as a control socket; nothing unread may be left.
    pub fn into_stream(self) -> Option<UnixStream> {
        drop(self.writer);
        let socket = Arc::into_inner(self.reader.socket.0)?.into_inner();
        UnixStream::from_std(socket.into()).ok()
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
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(ChannelError::Closed);
            }
        }
    }

    /// The next frame, with the descriptors that came along.
    pub(crate) async fn next_with_fds(&mut self) -> Result<(Frame, Vec<OwnedFd>), ChannelError> {
        let mut fds = Vec::new();
        loop {
            if let Some(frame) = frames::take(&mut self.buffer, self.max_body)? {
                return Ok((frame, fds));
            }
            let mut chunk = [0u8; 1024];
            let receive = |socket: &OwnedFd| receive_once(socket.as_fd(), &mut chunk, &mut fds);
            let read = self.socket.0.async_io(Interest::READABLE, receive).await?;
            if read == 0 {
                return Err(ChannelError::Closed);
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

/// How often a full socket is tried that cannot be watched.
const ROOM_RETRY: Duration = Duration::from_millis(1);

/// Most that is read at once, in bytes.
const READ_PIECE: usize = 256 << 10;

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut readable = ready!(self.0.poll_read_ready(cx))?;
            let room = into.initialize_unfilled_to(into.remaining().min(READ_PIECE));
            let wanted = room.len();
            match rustix::net::recv(self.0.get_ref(), room, RecvFlags::DONTWAIT) {
                Ok((_, got)) => {
                    // Fewer than asked for: the socket is empty, and what comes from here on is news.
                    if got < wanted {
                        readable.clear_ready();
                    }
                    into.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::AGAIN) => readable.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

/// Has a descriptor watched for so much.
pub(crate) fn watch<T: AsFd + AsRawFd>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // Deprecated for types whose number may change or close underneath; what is `AsFd` promises that it does not.
    #[allow(deprecated)]
    AsyncFd::with_interest(descriptor, interest)
}

impl Socket {
    /// Sends all of it.
    async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::net::send(self.0.get_ref(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(rustix::io::Errno::AGAIN) => self.room().await?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until there is room to send. It is watched for that only meanwhile, by another number, since a number can be watched once.
    async fn room(&self) -> io::Result<()> {
        match self.0.get_ref().try_clone().and_then(|other| watch(other, Interest::WRITABLE)) {
            Ok(other) => other.writable().await.map(drop),
            // No number is left to watch it by: half a frame has been sent, so the rest is tried now and then.
            Err(_) => {
                tokio::time::sleep(ROOM_RETRY).await;
                Ok(())
            }
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
            self.socket.send(&self.scratch).await?;
            return Ok(());
        }
        self.socket.send(&self.scratch).await?;
        self.socket.send(body).await?;
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
