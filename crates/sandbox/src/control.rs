//! The client of a control socket: asks the nursery for processes and templates for clones, and hears how they ended.
//!
//! It never decides what to start; it pairs requests with answers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use serde::Deserialize;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use crate::SandboxError;
use crate::frames;
use crate::rights::{receive_once, send_once};

/// Control frames have no body.
const MAX_BODY: usize = 0;

/// A started process: what to wait on, and how to hear of its end.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub pidfd: OwnedFd,
    /// Its wait status, once it has been reaped; an error when its parent died first.
    pub exit: oneshot::Receiver<i32>,
}

/// One control socket.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    stream: UnixStream,
    sending: tokio::sync::Mutex<()>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<Started, SandboxError>>>>,
    exits: Mutex<HashMap<u64, oneshot::Sender<i32>>>,
    announced: watch::Sender<State>,
}

/// What is known of the process at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has not said that it is ready.
    Starting,
    /// A language template is ready to clone.
    Ready {
        /// The language's version, as it says itself.
        version: String,
    },
    /// Its socket is closed.
    Gone,
}

#[derive(Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
enum Answer {
    Started { id: u64 },
    Failed { id: u64, error: String },
    Exited { id: u64, status: i32 },
    Template { version: String },
    BoxError { error: String },
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Serves this socket; `name` says in errors what is at its other end. Reads in a task of its own until it closes.
    pub fn new(name: &'static str, stream: UnixStream) -> Self {
        let shared = Arc::new(Shared {
            name,
            stream,
            sending: tokio::sync::Mutex::new(()),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            exits: Mutex::default(),
            announced: watch::Sender::new(State::Starting),
        });
        tokio::spawn(read_answers(shared.clone()));
        Control { shared }
    }

    /// What is known of the other end, and when it changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.announced.subscribe()
    }

    /// Ends the process at the other end by closing the conversation.
    pub fn close(&self) {
        rustix::net::shutdown(self.shared.stream.as_fd(), rustix::net::Shutdown::Both).ok();
    }

    /// Asks for a process or a clone; `request` makes the header for the id it is given. The descriptors are sent along.
    pub async fn start(
        &self,
        request: impl FnOnce(u64) -> Vec<u8>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Started, SandboxError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        lock(&self.shared.waiting).insert(id, tell);
        if *self.shared.announced.borrow() == State::Gone {
            lock(&self.shared.waiting).remove(&id);
            return Err(SandboxError::Gone(self.shared.name));
        }
        if let Err(error) = self.send(&request(id), fds).await {
            lock(&self.shared.waiting).remove(&id);
            return Err(SandboxError::io("send to the control socket")(error));
        }
        answer.await.unwrap_or(Err(SandboxError::Gone(self.shared.name)))
    }

    async fn send(&self, header: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = [&frames::prefix(header.len(), 0)[..], header].concat();
        let _turn = self.shared.sending.lock().await;
        let mut sent = 0;
        while sent < bytes.len() {
            let rights = if sent == 0 { fds } else { &[] };
            sent += self
                .shared
                .stream
                .async_io(Interest::WRITABLE, || send_once(self.shared.stream.as_fd(), &bytes[sent..], rights))
                .await?;
        }
        Ok(())
    }
}

/// Reads answers until the socket closes, then tells everyone who still waits.
async fn read_answers(shared: Arc<Shared>) {
    let mut buffer = BytesMut::new();
    let mut chunk = vec![0u8; 4096];
    let mut fds: Vec<OwnedFd> = Vec::new();
    loop {
        let mut arrived = Vec::new();
        let read = shared
            .stream
            .async_io(Interest::READABLE, || receive_once(shared.stream.as_fd(), &mut chunk, &mut arrived))
            .await;
        match read {
            Ok(0) | Err(_) => break,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
        }
        fds.append(&mut arrived);
        if fds.len() > lock(&shared.waiting).len() {
            tracing::warn!(from = shared.name, "more descriptors came than were asked for");
            break;
        }
        loop {
            match frames::take(&mut buffer, MAX_BODY) {
                Ok(Some(frame)) => {
                    handle(&shared, &frame.header, &mut fds);
                    // Descriptors belong to one frame; what nobody asked for is closed at once. A function template's
                    // socket is in the hands of the function's own code.
                    if fds.len() > lock(&shared.waiting).len() {
                        fds.clear();
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, from = shared.name, "a control socket speaks nonsense");
                    shared.gone();
                    return;
                }
            }
        }
    }
    shared.gone();
}

fn handle(shared: &Shared, header: &[u8], fds: &mut Vec<OwnedFd>) {
    match serde_json::from_slice::<Answer>(header) {
        Ok(Answer::Started { id }) => {
            // One `started` carries one descriptor, and the stream keeps their order.
            let pidfd = if fds.is_empty() { None } else { Some(fds.remove(0)) };
            let Some(waiter) = lock(&shared.waiting).remove(&id) else {
                // Whoever asked has given up: nobody would ever end this process.
                pidfd.into_iter().for_each(|fd| kill(&fd));
                return;
            };
            let (tell, exit) = oneshot::channel();
            lock(&shared.exits).insert(id, tell);
            let started = match pidfd {
                Some(pidfd) if is_pidfd(&pidfd) => Ok(Started { pidfd, exit }),
                _ => Err(SandboxError::Failed("no pidfd came with a process".into())),
            };
            if let Err(Ok(unwanted)) = waiter.send(started) {
                kill(&unwanted.pidfd);
            }
        }
        Ok(Answer::Failed { id, error }) => {
            if let Some(waiter) = lock(&shared.waiting).remove(&id) {
                let full = error.contains("EAGAIN") || error.contains("ENOMEM");
                waiter.send(Err(if full { SandboxError::NoRoom(error) } else { SandboxError::Failed(error) })).ok();
            }
        }
        Ok(Answer::Exited { id, status }) => {
            if let Some(waiter) = lock(&shared.exits).remove(&id) {
                waiter.send(status).ok();
            }
        }
        Ok(Answer::Template { version }) => {
            shared.announced.send_replace(State::Ready { version });
        }
        Ok(Answer::BoxError { error }) => tracing::error!(%error, from = shared.name, "a process could not be boxed"),
        Err(error) => tracing::error!(%error, from = shared.name, "an unknown control answer"),
    }
}

fn kill(pidfd: &OwnedFd) {
    rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL).ok();
}

/// Whether a descriptor that somebody sent stands for a process, as the kernel tells it.
fn is_pidfd(fd: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
    info.is_ok_and(|text| text.lines().any(|line| line.starts_with("Pid:")))
}

impl Shared {
    fn gone(&self) {
        self.announced.send_replace(State::Gone);
        for (_, waiter) in lock(&self.waiting).drain() {
            waiter.send(Err(SandboxError::Gone(self.name))).ok();
        }
        lock(&self.exits).clear();
    }
}
