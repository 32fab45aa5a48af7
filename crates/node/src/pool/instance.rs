//! One warm execution environment: its conversation, its log pipes, and how it ends.
//!
//! It never decides to start, reuse or stop anything; the pool does. It never interprets a payload.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{HttpReply, RequestId, RuntimeName, StartKind};
use offshoot_sandbox::channel::{Reader, Writer};
use offshoot_sandbox::process::{End, Process};
use offshoot_sandbox::{Channel, ChannelError};
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::pool::tap::LogTap;

/// What a worker answers to one invocation.
#[derive(Debug)]
pub enum WorkerAnswer {
    /// The handler returned.
    Reply {
        /// Status and headers.
        http: Option<HttpReply>,
        /// The bytes.
        body: Bytes,
    },
    /// The handler failed.
    Error {
        /// `handler`, `unserialisable` or `too_large`.
        kind: String,
        /// Error JSON.
        body: Bytes,
    },
    /// The conversation broke before an answer came.
    Broken(Breach),
}

/// How a conversation broke.
#[derive(Debug, Clone)]
pub enum Breach {
    /// The process ended.
    Ended(End),
    /// The worker said something that the protocol does not allow.
    Protocol(String),
    /// A reply's body is larger than the limit.
    TooLarge(usize),
}

/// How an instance came to be, and what that cost.
#[derive(Debug, Clone, Copy)]
pub struct Birth {
    /// From where.
    pub kind: StartKind,
    /// Which runtime it runs on.
    pub runtime: RuntimeName,
    /// Making the box and its process.
    pub start: Duration,
    /// Loading and initialising the function, as the server saw it.
    pub init: Duration,
}

/// A warm execution environment.
pub struct Instance {
    /// Unique in this server's life.
    pub id: u64,
    /// How it came to be.
    pub birth: Birth,
    /// Its process.
    pub process: Arc<Process>,
    /// What it prints.
    pub tap: Arc<LogTap>,
    writer: tokio::sync::Mutex<Writer>,
    pending: Mutex<Vec<(RequestId, oneshot::Sender<WorkerAnswer>)>>,
    breach: Mutex<Option<Breach>>,
    dead: AtomicBool,
    served: AtomicU64,
}

#[derive(Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(super) enum Said<'a> {
    Ready {
        #[serde(default)]
        version: String,
        /// What the worker itself measured, in microseconds.
        #[serde(default)]
        init_us: u64,
        #[serde(default = "yes")]
        snapshot: bool,
    },
    InitError,
    BoxError {
        error: String,
    },
    Reply {
        id: RequestId,
        #[serde(default)]
        http: Option<HttpReply>,
    },
    Error {
        id: RequestId,
        #[serde(borrow)]
        kind: std::borrow::Cow<'a, str>,
        /// The worker ends after this answer.
        #[serde(default)]
        last: bool,
    },
}

fn yes() -> bool {
    true
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Instance {
    /// Takes over a worker that has said `ready`. `gone` is called once, when it can serve no more.
    pub fn adopt(
        id: u64,
        birth: Birth,
        process: Arc<Process>,
        channel: Channel,
        tap: Arc<LogTap>,
        gone: impl FnOnce(Arc<Instance>) + Send + 'static,
    ) -> Arc<Self> {
        let instance = Arc::new(Instance {
            id,
            birth,
            process,
            tap,
            writer: tokio::sync::Mutex::new(channel.writer),
            pending: Mutex::default(),
            breach: Mutex::default(),
            dead: AtomicBool::new(false),
            served: AtomicU64::new(0),
        });
        tokio::spawn(listen(instance.clone(), channel.reader, gone));
        instance
    }

    /// Whether it can take another invocation.
    pub fn alive(&self) -> bool {
        !self.dead.load(Ordering::Acquire)
    }

    /// How many invocations it has been given.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Sends one invocation; the answer comes through what is returned. Whoever drops that has given the answer up.
    pub async fn call(&self, id: &RequestId, header: &[u8], body: &[u8]) -> oneshot::Receiver<WorkerAnswer> {
        let (tell, answer) = oneshot::channel();
        self.served.fetch_add(1, Ordering::Relaxed);
        {
            let mut pending = lock(&self.pending);
            // `dead` is set before the pending calls are failed, under the same lock: no call can slip in between.
            if self.dead.load(Ordering::Acquire) {
                let breach = lock(&self.breach).clone();
                let breach = breach.unwrap_or_else(|| Breach::Protocol("the instance is gone".into()));
                tell.send(WorkerAnswer::Broken(breach)).ok();
                return answer;
            }
            pending.push((id.clone(), tell));
        }
        if let Err(error) = self.writer.lock().await.send(header, body).await {
            // The reader sees the end of the conversation too and knows more about it; it settles the call.
            tracing::debug!(%error, "a worker cannot be written to");
        }
        answer
    }

    /// Ends it. Calls in flight are answered with how it ended.
    pub fn kill(&self) {
        self.process.kill();
    }

    fn settle(&self, id: &RequestId) -> Option<oneshot::Sender<WorkerAnswer>> {
        let mut pending = lock(&self.pending);
        let at = pending.iter().position(|(waiting, _)| waiting == id)?;
        Some(pending.swap_remove(at).1)
    }

    /// Takes one frame; `Err` breaks the conversation.
    fn hear(&self, header: &[u8], body: Bytes) -> Result<(), Breach> {
        let said = serde_json::from_slice::<Said<'_>>(header)
            .map_err(|error| Breach::Protocol(format!("a frame that nobody understands: {error}")))?;
        let (id, answer) = match said {
            Said::Reply { id, http } => (id, WorkerAnswer::Reply { http, body }),
            Said::Error { id, kind, last } => {
                if last {
                    self.dead.store(true, Ordering::Release);
                }
                (id, WorkerAnswer::Error { kind: kind.into_owned(), body })
            }
            _ => return Err(Breach::Protocol("a frame out of turn".into())),
        };
        match self.settle(&id) {
            // A receiver that is gone means that the caller went away: the answer is nobody's.
            Some(waiter) => {
                waiter.send(answer).ok();
                Ok(())
            }
            None => Err(Breach::Protocol("an answer to no open invocation".into())),
        }
    }

    fn fail_all(&self, breach: Breach) {
        let mut pending = lock(&self.pending);
        *lock(&self.breach) = Some(breach.clone());
        self.dead.store(true, Ordering::Release);
        for (_, waiter) in pending.drain(..) {
            waiter.send(WorkerAnswer::Broken(breach.clone())).ok();
        }
    }
}

/// Reads what the worker says until it breaks off, then settles everything that was open.
async fn listen(instance: Arc<Instance>, mut reader: Reader, gone: impl FnOnce(Arc<Instance>)) {
    let breach = loop {
        match reader.next().await {
            Ok(frame) => {
                if let Err(breach) = instance.hear(&frame.header, frame.body) {
                    break breach;
                }
            }
            Err(error) => break breach_of(&instance.process, error).await,
        }
    };
    if let Breach::Protocol(why) = &breach {
        instance.tap.note(&format!("offshoot: the instance was stopped: protocol error: {why}"));
    }
    instance.fail_all(breach);
    instance.process.kill();
    gone(instance);
}

/// How long the kernel may take to say how a process ended, once its channel is closed.
const END_WAIT: Duration = Duration::from_millis(500);

/// What a channel's error means: usually the process is ending, and how it ended says more than a closed socket.
pub(super) async fn breach_of(process: &Process, error: ChannelError) -> Breach {
    use offshoot_sandbox::frames::FrameError;
    match error {
        ChannelError::Frame(FrameError::Body(size)) => Breach::TooLarge(size),
        ChannelError::Frame(other) => Breach::Protocol(other.to_string()),
        ChannelError::Closed | ChannelError::Io(_) => {
            let mut ended = process.ended();
            let end = tokio::time::timeout(END_WAIT, ended.wait_for(Option::is_some)).await;
            match end {
                Ok(Ok(end)) => end.map_or_else(|| Breach::Protocol("no end".into()), Breach::Ended),
                _ => Breach::Protocol("the worker closed its channel and went on running".into()),
            }
        }
    }
}
