//! One warm execution environment: its conversation, its log pipes, and how it ends.
//!
//! It never decides to start, reuse or stop anything; the pool does. It never interprets a payload.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offshoot_model::{HttpReply, RequestId, RuntimeName, StartKind};
use offshoot_sandbox::channel::{Claims, Reader, Writer};
use offshoot_sandbox::process::{End, Process};
use offshoot_sandbox::{Channel, ChannelError};
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::pool::policy::SLICE;
use crate::pool::stream::{self, Begun, Inlet};
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
    /// The handler's answer comes in pieces, of which the end will be told in its turn.
    Stream(Box<Begun>),
    /// All pieces of such an answer have come.
    Ended,
    /// The conversation broke before an answer came.
    Broken(Breach),
    /// The worker had not begun the call, and will not: it can be given to another instance.
    Withdrawn,
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
    /// The pieces of a reply are together larger than this limit, in bytes.
    StreamTooLarge(u64),
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
    claims: Option<Claims>,
    /// It has shown that it cannot claim calls.
    claimless: AtomicBool,
    talk: Mutex<Talk>,
    dead: AtomicBool,
    served: AtomicU64,
    coming: AtomicU32,
}

/// A call that was sent and not answered.
#[derive(Debug)]
struct Open {
    id: RequestId,
    /// It was sent behind another: the worker has to claim it.
    behind: bool,
    sent: Instant,
    /// Largest answer that is taken in pieces, in bytes; 0: the answer has to come whole.
    takes: u64,
    /// Where its pieces go, once it has begun to be answered in pieces.
    stream: Option<Box<Inlet>>,
    waiter: oneshot::Sender<Answered>,
}

/// An answer, and how long the worker took for it.
#[derive(Debug)]
pub struct Answered {
    /// What it said.
    pub answer: WorkerAnswer,
    /// From the moment when it could begin, to the answer.
    pub run: Duration,
    /// What the worker says that the handler took: without what it waited for a processor before.
    pub own: Option<Duration>,
    /// Programs beside the worker are still at work for this call. What comes, or breaks off, when they are not.
    pub busy: Option<oneshot::Receiver<()>>,
}

impl From<WorkerAnswer> for Answered {
    fn from(answer: WorkerAnswer) -> Self {
        Answered { answer, run: Duration::ZERO, own: None, busy: None }
    }
}

/// What a worker says of a call besides its answer.
#[derive(Debug, Default)]
struct Account {
    own: Option<Duration>,
    busy: Option<oneshot::Receiver<()>>,
}

impl Open {
    /// `front_since`: since when no call that was sent earlier has been open.
    fn answer(self, answer: WorkerAnswer, said: Account, front_since: Instant) {
        let began = if self.behind { self.sent.max(front_since) } else { self.sent };
        // A receiver that is gone means that the caller went away: the answer is nobody's.
        self.waiter.send(Answered { answer, run: began.elapsed(), own: said.own, busy: said.busy }).ok();
    }
}

/// Where a conversation stands.
#[derive(Debug)]
struct Talk {
    /// Calls that were sent and not answered, in the order of their sending.
    open: VecDeque<Open>,
    /// Calls that were withdrawn, and that the worker has not come across yet.
    stale: Vec<RequestId>,
    /// Calls that were answered and that programs beside the worker are still at work for.
    busy: Vec<(RequestId, oneshot::Sender<()>)>,
    /// Since when the first of the open calls has been the first.
    front_since: Instant,
}

/// How long a call may take before those that were sent behind it are taken back; no other is sent behind it after half
/// of that.
pub const STUCK: Duration = SLICE;

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
        /// How long the handler took, as the worker measured it, in microseconds.
        #[serde(default)]
        us: Option<u64>,
        /// `idle` will say when the instance is done with this call.
        #[serde(default)]
        busy: bool,
    },
    /// The answer begins; the body is its first piece, if there is one.
    Stream {
        id: RequestId,
        #[serde(default)]
        http: Option<HttpReply>,
    },
    /// A piece of it.
    Chunk {
        id: RequestId,
    },
    /// It is whole; the body is its last piece, if there is one.
    End {
        id: RequestId,
        #[serde(default)]
        us: Option<u64>,
        #[serde(default)]
        busy: bool,
    },
    Error {
        id: RequestId,
        #[serde(borrow)]
        kind: std::borrow::Cow<'a, str>,
        /// The worker ends after this answer.
        #[serde(default)]
        last: bool,
        #[serde(default)]
        busy: bool,
    },
    /// Everybody is done with this call, which was answered before.
    Idle {
        id: RequestId,
    },
    /// A withdrawn call, come across.
    Skipped {
        id: RequestId,
    },
}

fn yes() -> bool {
    true
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While a frame is being sent. Whoever gives that up leaves half a frame behind, which the next would be taken for the rest
/// of: the instance ends.
struct HalfSent<'a>(Option<&'a Instance>);

impl HalfSent<'_> {
    fn whole(mut self) {
        self.0 = None;
    }
}

impl Drop for HalfSent<'_> {
    fn drop(&mut self) {
        if let Some(instance) = self.0 {
            instance.condemn();
        }
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Instance").field(&self.id).finish()
    }
}

impl Instance {
    /// Takes over a worker that has said `ready`. `gone` is called once, when it can serve no more.
    pub fn adopt(
        id: u64,
        birth: Birth,
        process: Arc<Process>,
        channel: Channel,
        claims: Option<Claims>,
        tap: Arc<LogTap>,
        gone: impl FnOnce(Arc<Instance>) + Send + 'static,
    ) -> Arc<Self> {
        let instance = Arc::new(Instance {
            id,
            birth,
            process,
            tap,
            writer: tokio::sync::Mutex::new(channel.writer),
            claims,
            claimless: AtomicBool::new(false),
            talk: Mutex::new(Talk {
                open: VecDeque::new(),
                stale: Vec::new(),
                busy: Vec::new(),
                front_since: Instant::now(),
            }),
            dead: AtomicBool::new(false),
            served: AtomicU64::new(0),
            coming: AtomicU32::new(0),
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
    /// `behind`: another call may be running, so the worker has to claim this one before it begins it. `takes`: how many
    /// bytes may come in pieces; 0 where the answer has to come whole.
    pub async fn call(
        &self,
        id: &RequestId,
        header: &[u8],
        body: &[u8],
        behind: bool,
        takes: u64,
    ) -> oneshot::Receiver<Answered> {
        let (tell, answer) = oneshot::channel();
        self.served.fetch_add(1, Ordering::Relaxed);
        // Calls are noted in the order in which they are sent.
        let mut writer = self.writer.lock().await;
        {
            let mut talk = lock(&self.talk);
            // `dead` is set before the open calls are failed, under the same lock: no call can slip in between.
            if self.dead.load(Ordering::Acquire) {
                // It was told nothing: another instance can be.
                tell.send(WorkerAnswer::Withdrawn.into()).ok();
                return answer;
            }
            if behind && !(talk.stale.is_empty() && self.claims.as_ref().is_some_and(Claims::offer)) {
                tell.send(WorkerAnswer::Withdrawn.into()).ok();
                return answer;
            }
            let sent = Instant::now();
            if talk.open.is_empty() {
                talk.front_since = sent;
            }
            talk.open.push_back(Open { id: id.clone(), behind, sent, takes, stream: None, waiter: tell });
        }
        let half_sent = HalfSent(Some(self));
        let sent = writer.send(header, body).await;
        half_sent.whole();
        if let Err(error) = sent {
            // The reader sees the end of the conversation too and knows more about it; it settles the call.
            tracing::debug!(%error, "a worker cannot be written to");
        }
        answer
    }

    /// Gives the worker back so much of the window of the answer to this call, if it is still open.
    pub async fn more(&self, id: &RequestId, bytes: usize) {
        let mut writer = self.writer.lock().await;
        {
            let mut talk = lock(&self.talk);
            let open = talk.open.iter_mut().find(|open| open.id == *id);
            let Some(inlet) = open.and_then(|open| open.stream.as_mut()) else { return };
            inlet.widen(bytes);
        }
        let header = serde_json::json!({"t": "more", "id": id.as_str(), "bytes": bytes}).to_string();
        let half_sent = HalfSent(Some(self));
        let sent = writer.send(header.as_bytes(), &[]).await;
        half_sent.whole();
        if let Err(error) = sent {
            tracing::debug!(%error, "a worker cannot be written to");
        }
    }

    /// It has been leased for a call that goes to it alone, and that is not sent yet.
    pub fn expect(&self) {
        self.coming.fetch_add(1, Ordering::Relaxed);
    }

    /// That call is being sent, or will not be.
    pub fn came(&self) {
        self.coming.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a call may be sent behind those that it was given: the one that runs has not been running for long, or the
    /// last one has just been answered.
    pub fn flows(&self) -> bool {
        let talk = lock(&self.talk);
        let able = self.claims.is_some()
            && !self.claimless.load(Ordering::Relaxed)
            && self.coming.load(Ordering::Relaxed) == 0
            && self.alive();
        able && talk.stale.is_empty() && talk.front_since.elapsed() < STUCK / 2
    }

    /// Whether the call that runs has been running for so long that those behind it had better go elsewhere.
    pub fn stuck(&self) -> bool {
        lock(&self.talk).front_since.elapsed() >= STUCK
    }

    /// Whether this call has been sent, and is not answered or not over.
    pub fn has(&self, id: &RequestId) -> bool {
        let talk = lock(&self.talk);
        talk.open.iter().any(|open| open.id == *id) || talk.busy.iter().any(|(busy, _)| busy == id)
    }

    /// The calls that were sent and are not answered.
    pub fn open_calls(&self) -> Vec<String> {
        lock(&self.talk).open.iter().map(|open| open.id.as_str().to_owned()).collect()
    }

    /// Takes back every call that the worker has not begun. Returns whether this one is not with the worker any more.
    pub fn withdraw(&self, id: &RequestId) -> bool {
        let mut talk = lock(&self.talk);
        self.take_back(&mut talk);
        !talk.open.iter().any(|open| open.id == *id)
    }

    /// The worker claims calls in the order in which they were sent, so those that are left are the last ones.
    fn take_back(&self, talk: &mut Talk) {
        let Some(claims) = &self.claims else { return };
        while talk.open.back().is_some_and(|open| open.behind && open.stream.is_none()) && claims.take_back() {
            if let Some(open) = talk.open.pop_back() {
                talk.stale.push(open.id);
                open.waiter.send(WorkerAnswer::Withdrawn.into()).ok();
            }
        }
    }

    /// Ends it, and from now on nobody is given it.
    pub fn condemn(&self) {
        self.dead.store(true, Ordering::Release);
        self.process.kill();
    }

    /// Ends it. Calls in flight are answered with how it ended.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Hands an answer to whoever waits for it; `None` when nobody was to get one.
    fn settle(&self, id: &RequestId, answer: WorkerAnswer, own: Option<Duration>, busy: bool) -> Option<()> {
        let mut talk = lock(&self.talk);
        let at = talk.open.iter().position(|open| open.id == *id)?;
        match (&answer, &talk.open.get(at)?.stream) {
            (WorkerAnswer::Reply { .. }, Some(_)) | (WorkerAnswer::Ended, None) => return None,
            _ => {}
        }
        let front_since = std::mem::replace(&mut talk.front_since, Instant::now());
        let mut said = Account { own, busy: None };
        if busy {
            let (tell, over) = oneshot::channel();
            talk.busy.push((id.clone(), tell));
            said.busy = Some(over);
        }
        talk.open.remove(at)?.answer(answer, said, front_since);
        Some(())
    }

    /// An answer begins to come in pieces. The call stays open until their end.
    fn begin_stream(&self, id: &RequestId, http: Option<HttpReply>, first: Bytes) -> Result<(), Breach> {
        {
            let mut talk = lock(&self.talk);
            let open = talk.open.iter_mut().find(|open| open.id == *id && open.takes > 0 && open.stream.is_none());
            let open = open.ok_or_else(|| Breach::Protocol("an answer in pieces that nobody asked for".into()))?;
            let (inlet, pieces) = stream::pipe(open.takes);
            let (tell, end) = oneshot::channel();
            let waiter = std::mem::replace(&mut open.waiter, tell);
            open.stream = Some(Box::new(inlet));
            waiter.send(WorkerAnswer::Stream(Box::new(Begun { http, pieces, end })).into()).ok();
        }
        self.piece(id, first)
    }

    /// A piece of such an answer; one without bytes means nothing.
    fn piece(&self, id: &RequestId, piece: Bytes) -> Result<(), Breach> {
        let mut talk = lock(&self.talk);
        let open = talk.open.iter_mut().find(|open| open.id == *id);
        let inlet = open.and_then(|open| open.stream.as_mut());
        let inlet = inlet.ok_or_else(|| Breach::Protocol("a piece of an answer that has not begun".into()))?;
        if piece.is_empty() { Ok(()) } else { inlet.put(piece) }
    }

    fn idle(&self, id: &RequestId) -> Result<(), Breach> {
        let mut talk = lock(&self.talk);
        let at = talk.busy.iter().position(|(busy, _)| busy == id);
        let at = at.ok_or_else(|| Breach::Protocol("an end of a call that was over".into()))?;
        // A receiver that is gone has given the instance up, or will see that the call is over.
        talk.busy.swap_remove(at).1.send(()).ok();
        Ok(())
    }

    fn skipped(&self, id: &RequestId) -> Result<(), Breach> {
        let mut talk = lock(&self.talk);
        if let Some(at) = talk.stale.iter().position(|stale| stale == id) {
            talk.stale.swap_remove(at);
            return Ok(());
        }
        // A call that nobody withdrew: the worker cannot claim. Functions close descriptors that they do not know. It goes to another
        // instance, and this one is sent one call at a time from now on.
        let at = talk.open.iter().position(|open| open.behind && open.id == *id);
        let open = at.and_then(|at| talk.open.remove(at));
        let open = open.ok_or_else(|| Breach::Protocol("a call skipped that was not sent behind another".into()))?;
        self.claimless.store(true, Ordering::Relaxed);
        self.claims.as_ref().map(Claims::take_back);
        open.waiter.send(WorkerAnswer::Withdrawn.into()).ok();
        Ok(())
    }

    /// Takes one frame; `Err` breaks the conversation.
    fn hear(&self, header: &[u8], body: Bytes) -> Result<(), Breach> {
        let said = serde_json::from_slice::<Said<'_>>(header)
            .map_err(|error| Breach::Protocol(format!("a frame that nobody understands: {error}")))?;
        let mut own = None;
        let is_busy;
        let (id, answer) = match said {
            Said::Reply { id, http, us, busy } => {
                (own, is_busy) = (us.map(Duration::from_micros), busy);
                (id, WorkerAnswer::Reply { http, body })
            }
            Said::Error { id, kind, last, busy } => {
                is_busy = busy;
                if last {
                    self.dead.store(true, Ordering::Release);
                }
                (id, WorkerAnswer::Error { kind: kind.into_owned(), body })
            }
            Said::Stream { id, http } => return self.begin_stream(&id, http, body),
            Said::Chunk { id } => return self.piece(&id, body),
            Said::End { id, us, busy } => {
                self.piece(&id, body)?;
                (own, is_busy) = (us.map(Duration::from_micros), busy);
                (id, WorkerAnswer::Ended)
            }
            Said::Skipped { id } => return self.skipped(&id),
            Said::Idle { id } => return self.idle(&id),
            _ => return Err(Breach::Protocol("a frame out of turn".into())),
        };
        self.settle(&id, answer, own, is_busy).ok_or_else(|| Breach::Protocol("an answer to no open invocation".into()))
    }

    fn fail_all(&self, breach: Breach) {
        let mut talk = lock(&self.talk);
        self.dead.store(true, Ordering::Release);
        self.take_back(&mut talk);
        let front_since = talk.front_since;
        for open in talk.open.drain(..) {
            open.answer(WorkerAnswer::Broken(breach.clone()), Account::default(), front_since);
        }
        talk.busy.clear();
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
