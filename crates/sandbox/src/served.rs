//! Boxes whose programs speak HTTP to a listener in their own network: the listener, which was opened inside and handed
//! out, and the box's init, which runs programs when it is told. Clones may have a listener too, and no init.
//!
//! It never accepts a connection and never knows what is said over one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use serde::Deserialize;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::Mutex;

use crate::channel::Reader;
use crate::process::{Driver, Program, Sandbox, log_pipe, socket_pair};
use crate::rights::{receive_once, send_once};
use crate::{BoxRequest, Channel, Origin, SandboxError, frames};

/// How long a box may take from its process's start to an open listener.
const OPEN: Duration = Duration::from_secs(5);

/// Descriptors of an init that nobody has taken, at most.
const MAX_WAITING_FDS: usize = 16;

/// A box with a listener, in which nothing runs yet but its init.
#[derive(Debug)]
pub struct Served {
    /// The box. Its channel is the other end of `worker`: whoever serves the listener plays the worker there.
    pub sandbox: Sandbox,
    /// The worker's end of the channel.
    pub worker: Channel,
    /// Where its programs connect.
    pub listener: TcpListener,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Runs programs in the box.
    pub init: Init,
}

/// The port of a listener in a box that has a network of its own, where no other program can have taken it (the jail's).
pub const PORT: u16 = 9001;

/// A listener in the network of a box that was cloned.
#[derive(Debug)]
pub struct Listener {
    /// Where its programs connect.
    pub socket: TcpListener,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

/// The conversation with the init of a box.
#[derive(Debug)]
pub struct Init {
    stream: UnixStream,
    buffer: Mutex<BytesMut>,
    sending: Mutex<()>,
    /// Descriptors that came and were not taken, oldest first.
    arrived: std::sync::Mutex<VecDeque<OwnedFd>>,
}

/// What the init of a box says (docs/design/002-channel.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum InitSays {
    /// The listener is open; it came along.
    Listening {
        /// Its port.
        port: u16,
    },
    /// The program runs.
    Running {
        /// The order.
        id: u64,
    },
    /// The program could not be executed.
    NotRun {
        /// The order.
        id: u64,
        /// Why.
        error: String,
        /// The error number.
        errno: i32,
        /// Whether there is no such file at all.
        missing: bool,
        /// The first line of a script that is there: it names the interpreter.
        #[serde(default)]
        first_line: Option<String>,
    },
    /// The connection came along.
    Connected {
        /// The order.
        id: u64,
    },
    /// A program that ran has ended.
    Ended {
        /// The order.
        id: u64,
        /// As `waitpid` gave it.
        status: i32,
    },
    /// The box could not be made.
    BoxError {
        /// The step that failed and why.
        error: String,
    },
}

impl Driver {
    /// Starts a box with a listener and an init. `max_body` is the largest frame body that the worker's end takes, in bytes.
    pub async fn start_served(
        self: &Arc<Self>,
        program: &Program,
        request: &BoxRequest,
        max_body: usize,
    ) -> Result<Served, SandboxError> {
        let mut sandbox = self.start_box(Origin::Init(program), request).await?;
        let (ours, theirs) = socket_pair()?;
        rustix::io::ioctl_fionbio(&theirs, true)
            .map_err(|e| SandboxError::io("make a socket non-blocking")(e.into()))?;
        let worker = Channel::new(theirs, max_body).map_err(SandboxError::io("watch a socket"))?;
        // Whoever plays the worker takes one call at a time.
        sandbox.claims = None;
        let real = std::mem::replace(&mut sandbox.channel, self.channel(ours)?);
        let stream = real.into_stream().ok_or_else(|| SandboxError::Failed("a channel came apart".into()))?;
        let init = Init { stream, buffer: Mutex::default(), sending: Mutex::default(), arrived: Default::default() };
        let opened = tokio::time::timeout(OPEN, init.opened()).await;
        let opened = opened.map_err(|_| SandboxError::Failed(format!("no listener after {} s", OPEN.as_secs())))?;
        let (listener, port) = opened?;
        Ok(Served { sandbox, worker, listener, port, init })
    }
}

/// A channel for a worker that an init runs: our end, whose frames may have bodies of this many bytes, and the worker's.
pub fn worker_channel(max_body: usize) -> Result<(Channel, OwnedFd), SandboxError> {
    let (ours, theirs) = socket_pair()?;
    Ok((Channel::new(ours, max_body).map_err(SandboxError::io("watch a socket"))?, theirs))
}

/// A pipe for what a program prints: our end, and the program's.
pub fn output_pipe() -> Result<(pipe::Receiver, OwnedFd), SandboxError> {
    log_pipe()
}

impl Init {
    /// The first frame: the listener.
    async fn opened(&self) -> Result<(TcpListener, u16), SandboxError> {
        let said = self.next().await.map_err(SandboxError::io("hear of a box's listener"))?;
        listener(said, self.descriptor())
    }

    /// The next thing that it says; `None` when it is gone, or has become the program that it was told to become.
    pub async fn next(&self) -> io::Result<Option<InitSays>> {
        let mut buffer = self.buffer.lock().await;
        loop {
            let frame = frames::take(&mut buffer, 0).map_err(io::Error::other)?;
            if let Some(frame) = frame {
                return serde_json::from_slice(&frame.header).map(Some).map_err(io::Error::other);
            }
            let mut chunk = [0u8; 1024];
            let mut fds = Vec::new();
            let read = self
                .stream
                .async_io(Interest::READABLE, || receive_once(self.stream.as_fd(), &mut chunk, &mut fds))
                .await;
            self.keep(fds);
            match read {
                Ok(0) => return Ok(None),
                Ok(n) => buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Keeps what came, as far as anybody may have asked for it.
    fn keep(&self, fds: Vec<OwnedFd>) {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.extend(fds);
        if arrived.len() > MAX_WAITING_FDS {
            arrived.clear();
        }
    }

    /// The oldest descriptor that came and was not taken: that of the frame that tells of one.
    pub fn descriptor(&self) -> Option<OwnedFd> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Asks for a connection to a port of the box.
    pub async fn connect(&self, id: u64, port: u16) -> io::Result<()> {
        let order = serde_json::json!({"t": "connect", "id": id, "port": port});
        self.send(order.to_string().as_bytes(), &[]).await
    }

    /// Tells it to run a program, or to become it. Each descriptor becomes the program's of that number, 1, 2 or 3.
    pub async fn run(
        &self,
        id: u64,
        argv: &[String],
        env: &[(String, String)],
        replace: bool,
        fds: &[(i32, BorrowedFd<'_>)],
    ) -> io::Result<()> {
        let env: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let (places, fds): (Vec<i32>, Vec<BorrowedFd<'_>>) = fds.iter().copied().unzip();
        let order = serde_json::json!({
            "t": "run", "id": id, "argv": argv, "env": env, "replace": replace, "places": places,
        });
        self.send(order.to_string().as_bytes(), &fds).await
    }

    /// Sends a signal to a program that it runs.
    pub async fn signal(&self, id: u64, signal: i32) -> io::Result<()> {
        let order = serde_json::json!({"t": "signal", "id": id, "signal": signal});
        self.send(order.to_string().as_bytes(), &[]).await
    }

    async fn send(&self, header: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = [&frames::prefix(header.len(), 0)[..], header].concat();
        let _turn = self.sending.lock().await;
        let mut sent = 0;
        while sent < bytes.len() {
            let rights = if sent == 0 { fds } else { &[] };
            let rest = &bytes[sent..];
            sent += self.stream.async_io(Interest::WRITABLE, || send_once(self.stream.as_fd(), rest, rights)).await?;
        }
        Ok(())
    }
}

/// The listener of a box without an init, in its worker's first frame.
pub(crate) async fn first_frame(reader: &mut Reader) -> Result<Listener, SandboxError> {
    let heard = tokio::time::timeout(OPEN, reader.next_with_fds()).await;
    let heard = heard.map_err(|_| SandboxError::Failed(format!("no listener after {} s", OPEN.as_secs())))?;
    let (frame, fds) = heard.map_err(|e| SandboxError::Failed(format!("hear of a box's listener: {e}")))?;
    let said = serde_json::from_slice(&frame.header).ok();
    let (socket, port) = listener(said, fds.into_iter().next())?;
    Ok(Listener { socket, port })
}

/// What came with the frame that tells of it.
fn listener(said: Option<InitSays>, fd: Option<OwnedFd>) -> Result<(TcpListener, u16), SandboxError> {
    let port = match said {
        Some(InitSays::Listening { port }) => port,
        Some(InitSays::BoxError { error }) => return Err(SandboxError::Failed(error)),
        other => return Err(SandboxError::Failed(format!("a box without a listener: {other:?}"))),
    };
    let fd = fd.ok_or_else(|| SandboxError::Failed("no descriptor came with a listener".into()))?;
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true).map_err(SandboxError::io("make a listener non-blocking"))?;
    Ok((TcpListener::from_std(listener).map_err(SandboxError::io("watch a listener"))?, port))
}
