//! The Lambda Runtime API for one environment: HTTP on one side, where the programs of its box connect, and the worker of
//! docs/design/002-channel.md on the other. The pool sees an instance like any other (docs/design/007-runtime-api.md).
//!
//! It starts programs, passes calls and answers on, and says how it ended. It never decides when an environment is made,
//! reused or retired, never looks into a payload, and holds nothing that a second environment could reach.

mod body;
mod durable;
mod extensions;
mod http;
mod life;
mod peer;
mod pump;
mod relay;
mod room;
mod state;
mod stream;
mod subscription;
mod telemetry;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::time::Instant;

use ::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use offshoot_model::{HttpReply, RequestId};
use offshoot_sandbox::channel::Writer;
use offshoot_sandbox::process::{End, Exit, Process};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use durable::{ENDPOINT, Whose, endpoint, serve as serve_door};
pub use life::{Setup, serve};
use pump::Pump;
pub use state::MAX_EXTENSIONS;
use state::{Action, Event, Misuse, State};
use telemetry::Telemetry;

use crate::observe::system::milliseconds;

/// How long a program may take to end once its connection has broken off.
const END_WAIT: Duration = Duration::from_millis(100);

/// The largest error at initialisation, in bytes.
const ERROR_BYTES: usize = 1 << 20;

/// What the programs of an environment may send.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// An answer, in bytes.
    pub reply_bytes: usize,
    /// A streamed answer, in bytes.
    pub stream_bytes: u64,
    /// An error at initialisation, in bytes.
    pub error_bytes: usize,
}

/// What the `load` frame says that is needed here.
#[derive(Debug, Clone, Deserialize)]
struct Load {
    handler: String,
    max_concurrency: u32,
    env: std::collections::BTreeMap<String, String>,
    function: LoadFunction,
}

#[derive(Debug, Clone, Deserialize)]
struct LoadFunction {
    name: String,
    version: String,
    arn: String,
    #[serde(default)]
    memory_mib: u32,
}

/// What extensions are told of the function.
#[derive(Debug)]
struct About {
    name: String,
    version: String,
    handler: String,
    arn: String,
    memory_mib: u32,
    /// How it was started, in AWS's word.
    kind: String,
}

impl About {
    /// The account in the function's name.
    fn account(&self) -> &str {
        self.arn.split(':').nth(4).unwrap_or_default()
    }
}

/// The `invoke` frame.
#[derive(Debug, Deserialize)]
struct Invoke {
    id: String,
    deadline_ms: u64,
    arn: String,
    #[serde(default)]
    client_context: Option<Value>,
    #[serde(default)]
    identity: Option<Value>,
    #[serde(default)]
    trace: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    /// The caller takes the answer in pieces; so much may be on its way at first, in bytes.
    #[serde(default)]
    stream: Option<usize>,
}

/// A call that is not answered yet.
#[derive(Debug)]
struct Call {
    id: String,
    deadline_ms: u64,
    arn: String,
    client_context: Option<String>,
    identity: Option<String>,
    trace: Option<String>,
    tenant: Option<String>,
    /// Made for this delivery; a runtime that sends it back cannot answer another one by mistake.
    attempt: String,
    /// When it came.
    arrived: Instant,
    /// The caller takes the answer in pieces.
    streams: bool,
    /// What pieces of the answer may still cost before some are taken.
    window: Semaphore,
    /// The frame's header as the pool sent it.
    frame: Bytes,
    payload: Bytes,
}

impl Call {
    fn new(invoke: Invoke, frame: Bytes, payload: Bytes) -> Self {
        let text = |value: Option<Value>| {
            value.map(|v| match v {
                Value::String(text) => text,
                other => other.to_string(),
            })
        };
        Call {
            id: invoke.id,
            deadline_ms: invoke.deadline_ms,
            arn: invoke.arn,
            client_context: text(invoke.client_context),
            identity: text(invoke.identity),
            trace: invoke.trace,
            tenant: invoke.tenant,
            attempt: random_id(),
            arrived: Instant::now(),
            streams: invoke.stream.is_some(),
            window: Semaphore::new(invoke.stream.unwrap_or(0)),
            frame,
            payload,
        }
    }

    /// The headers of `/next`. What is empty is left out; the content type is exactly this, or the official client for
    /// Python hands its handler bytes.
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let deadline = self.deadline_ms.to_string();
        let pairs = [
            ("lambda-runtime-aws-request-id", Some(&self.id)),
            ("lambda-runtime-deadline-ms", Some(&deadline)),
            ("lambda-runtime-invoked-function-arn", Some(&self.arn)),
            ("lambda-runtime-trace-id", self.trace.as_ref()),
            ("lambda-runtime-client-context", self.client_context.as_ref()),
            ("lambda-runtime-cognito-identity", self.identity.as_ref()),
            ("lambda-runtime-aws-tenant-id", self.tenant.as_ref()),
            (INVOCATION_ID, Some(&self.attempt)),
        ];
        for (name, value) in pairs {
            let value = value.filter(|v| !v.is_empty()).map(|v| HeaderValue::from_bytes(v.as_bytes()));
            if let Some(Ok(value)) = value {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// Names one delivery of a call.
const INVOCATION_ID: &str = "lambda-runtime-invocation-id";

/// What a poll is told.
#[derive(Debug)]
enum Told {
    /// A call.
    Call(Arc<Call>),
    /// It has been restored.
    Restored,
    /// The end.
    Shutdown {
        /// AWS's word for why.
        reason: &'static str,
        /// When it is over, in milliseconds since 1970.
        deadline_ms: u64,
    },
}

/// What the task of an environment is told by the requests to it.
#[derive(Debug)]
enum News {
    StartRuntime,
    Ready,
    /// An extension has failed.
    Failed {
        kind: &'static str,
        name: String,
    },
    /// Somebody needs a connection to a port of the box.
    Connect {
        port: u16,
        tell: oneshot::Sender<OwnedFd>,
    },
    /// The extensions are done with a call too, which was answered before.
    Idle {
        id: String,
    },
    /// It cannot go on: nothing more is to be said.
    Over,
}

struct Inner {
    state: State,
    polls: HashMap<u64, oneshot::Sender<Told>>,
    calls: HashMap<String, Arc<Call>>,
    /// Calls that telemetry has been told of and that are not over.
    started: HashSet<String>,
    /// How long the answered calls took that are not over, in milliseconds, and how they ended.
    took: HashMap<String, (f64, &'static str)>,
    /// The pool has been told how initialisation went.
    told: bool,
    shutdown_ms: u64,
}

/// One environment, as its connections see it.
struct Environment {
    inner: Mutex<Inner>,
    numbers: AtomicU64,
    news: mpsc::UnboundedSender<News>,
    writer: tokio::sync::Mutex<Writer>,
    process: Arc<Process>,
    bounds: Bounds,
    about: About,
    snap_start: bool,
    token: String,
    telemetry: Arc<Telemetry>,
    /// What the runtime prints, where that is looked at on its way.
    prints: Mutex<Vec<Arc<Pump>>>,
    /// Places for requests that are more than small.
    large: Arc<Semaphore>,
    /// Where frames go that are for a worker of ours, while there is one.
    worker: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
    durable: durable::Door,
    began: Instant,
}

/// A version 4 UUID.
fn random_id() -> String {
    let mut bytes = [0u8; 16];
    // Without random bytes nothing here could be told apart: then every id is the same, and is refused as taken.
    getrandom::fill(&mut bytes).unwrap_or_default();
    RequestId::from_random(bytes).as_str().to_owned()
}

impl Environment {
    fn new(
        load: &Load,
        setup: &Setup,
        writer: Writer,
        process: Arc<Process>,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        let kind = load.env.get("AWS_LAMBDA_INITIALIZATION_TYPE").cloned().unwrap_or_default();
        let snap_start = kind == "snap-start";
        let about = About {
            name: load.function.name.clone(),
            version: load.function.version.clone(),
            handler: load.handler.clone(),
            arn: load.function.arn.clone(),
            memory_mib: load.function.memory_mib,
            kind,
        };
        let inner = Inner {
            state: State::new(load.max_concurrency as usize, snap_start),
            polls: HashMap::new(),
            calls: HashMap::new(),
            started: HashSet::new(),
            took: HashMap::new(),
            told: false,
            shutdown_ms: 0,
        };
        Environment {
            inner: Mutex::new(inner),
            numbers: AtomicU64::new(1),
            news,
            writer: tokio::sync::Mutex::new(writer),
            process,
            bounds: Bounds {
                reply_bytes: setup.reply_bytes,
                stream_bytes: setup.stream_bytes,
                error_bytes: ERROR_BYTES.min(setup.reply_bytes),
            },
            about,
            snap_start,
            token: random_id(),
            telemetry: Arc::new(Telemetry::new(!setup.extensions.is_empty())),
            prints: Mutex::default(),
            large: Arc::new(Semaphore::new(room::LARGE)),
            worker: Mutex::default(),
            durable: durable::Door::new(setup.durable.clone()),
            began: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self) -> &About {
        &self.about
    }

    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn snap_start(&self) -> bool {
        self.snap_start
    }

    fn durable(&self) -> &durable::Door {
        &self.durable
    }

    /// The calls that are not answered yet.
    fn calls(&self) -> Vec<String> {
        self.lock().calls.keys().cloned().collect()
    }

    fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    fn prints(&self) -> MutexGuard<'_, Vec<Arc<Pump>>> {
        self.prints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the runtime has printed until now goes on to the log before what follows.
    async fn drain(&self) {
        let pumps = self.prints().clone();
        for pump in pumps {
            pump.drain(&self.telemetry).await;
        }
    }

    /// The name of the extension with this identifier.
    fn extension_name(&self, id: &str) -> Option<String> {
        self.lock().state.extensions().iter().find(|e| e.id == id).map(|e| e.name.clone())
    }

    fn metadata_token(&self) -> &str {
        &self.token
    }

    /// Takes what happened, and does what follows from it.
    fn on(&self, event: Event) -> Result<(), Misuse> {
        self.on_locked(&mut self.lock(), event)
    }

    fn on_locked(&self, inner: &mut Inner, event: Event) -> Result<(), Misuse> {
        let actions = inner.state.on(event)?;
        self.carry_out(inner, actions);
        Ok(())
    }

    /// Registers an extension; the answer is the identifier that it goes by.
    fn register(&self, name: String, events: Vec<String>, id: String) -> Result<String, Misuse> {
        let mut inner = self.lock();
        let actions = inner.state.on(Event::Register(name, events, id))?;
        let registered = actions.iter().find_map(|a| if let Action::Registered(at) = a { Some(*at) } else { None });
        let id = registered.and_then(|at| inner.state.extensions().get(at)).map(|e| e.id.clone());
        self.carry_out(&mut inner, actions);
        id.ok_or(Misuse::UnknownExtension)
    }

    fn carry_out(&self, inner: &mut Inner, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::StartRuntime => drop(self.news.send(News::StartRuntime)),
                Action::Ready => drop(self.news.send(News::Ready)),
                Action::Give(poll, id) => {
                    if !self.hand_over(inner, poll, &id) {
                        actions.extend(inner.state.on(Event::NotTaken(id)).unwrap_or_default());
                    }
                }
                // An extension that has gone away asks again, or its program has ended, which others see.
                Action::Announce(poll, id) => drop(self.hand_over(inner, poll, &id)),
                Action::SayShutdown(poll) => {
                    if let Some(tell) = inner.polls.remove(&poll) {
                        tell.send(Told::Shutdown { reason: "spindown", deadline_ms: inner.shutdown_ms }).ok();
                    }
                }
                Action::Restored(poll) => {
                    if let Some(tell) = inner.polls.remove(&poll) {
                        tell.send(Told::Restored).ok();
                    }
                }
                Action::Failed(kind, name) => drop(self.news.send(News::Failed { kind, name })),
                Action::InitDone => self.tell_of_init(inner),
                Action::CallDone(id) => {
                    self.tell_of_end(inner, &id);
                    if inner.state.told_of_calls() {
                        self.news.send(News::Idle { id }).ok();
                    }
                }
                Action::Registered(_) => {}
            }
        }
    }

    /// Answers a poll with a call. `false`: whoever polled has gone away, and the call is still to be made.
    fn hand_over(&self, inner: &mut Inner, poll: u64, id: &str) -> bool {
        let Some(call) = inner.calls.get(id).cloned() else { return true };
        let Some(tell) = inner.polls.remove(&poll) else { return false };
        if inner.started.insert(id.to_owned()) {
            self.tell_of_start(&call);
        }
        tell.send(Told::Call(call)).is_ok()
    }

    /// Waits for what a `…/next` asks for. Whoever gives up waiting is forgotten, and a call that it was given and did not take
    /// is given to another.
    async fn wait(&self, event: impl FnOnce(u64) -> Event) -> Result<Told, Misuse> {
        struct Poll<'a>(&'a Environment, u64, oneshot::Receiver<Told>);
        impl Drop for Poll<'_> {
            fn drop(&mut self) {
                // Under one lock: a poll is given something, or it has gone away.
                let mut inner = self.0.lock();
                inner.polls.remove(&self.1);
                self.0.on_locked(&mut inner, Event::PollGone(self.1)).ok();
                if let Ok(Told::Call(call)) = self.2.try_recv() {
                    self.0.on_locked(&mut inner, Event::NotTaken(call.id.clone())).ok();
                }
            }
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.lock().polls.insert(number, tell);
        let mut poll = Poll(self, number, told);
        self.on(event(number))?;
        // The sender is dropped only with the environment.
        (&mut poll.2).await.map_err(|_| Misuse::UnknownCall)
    }

    /// Whether an answer to this call is for this delivery of it, as far as it says.
    fn fenced(&self, id: &str, headers: &HeaderMap) -> bool {
        let Some(given) = headers.get(INVOCATION_ID) else { return true };
        self.lock().calls.get(id).is_none_or(|call| call.attempt.as_bytes() == given.as_bytes())
    }

    /// A call from the pool.
    fn call(&self, invoke: Invoke, frame: Bytes, payload: Bytes) {
        let call = Arc::new(Call::new(invoke, frame, payload));
        let id = call.id.clone();
        self.lock().calls.insert(id.clone(), call);
        // A call is never refused by the state: it waits.
        self.on(Event::Call(id)).ok();
    }

    /// From now on whoever holds this has to answer the call.
    fn answering(self: &Arc<Self>, id: &str) -> Answering {
        Answering { environment: Some(self.clone()), id: id.to_owned() }
    }

    async fn send(&self, header: &Value, body: &[u8]) {
        if let Err(error) = self.writer.lock().await.send(header.to_string().as_bytes(), body).await {
            tracing::debug!(%error, "the pool does not listen to an environment");
        }
    }

    /// The pool is told that everybody is done with a call. Its answer has gone before: nobody is done earlier.
    async fn say_idle(&self, id: &str) {
        self.send(&json!({"t": "idle", "id": id}), &[]).await;
    }

    /// The pool is told that calls are taken, unless it knows.
    async fn say_ready(&self) {
        if !std::mem::replace(&mut self.lock().told, true) {
            let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.send(&serde_json::json!({"t": "ready", "init_us": micros, "version": "2018-06-01"}), &[]).await;
        }
    }

    /// Initialisation has failed with this error: the answer to whoever waits for it, and the end.
    async fn init_failed(&self, body: Bytes) {
        self.drain().await;
        if !std::mem::replace(&mut self.lock().told, true) {
            self.send(&serde_json::json!({"t": "init_error"}), &body).await;
        } else {
            for id in self.open_calls() {
                self.send(&error_frame(&id, "handler", true), &body).await;
            }
        }
        self.news.send(News::Over).ok();
    }

    /// It cannot go on. Every open call is answered with this error, under its own id.
    async fn fail_all(&self, kind: &str, error: impl Fn(&str) -> String) {
        self.drain().await;
        if !std::mem::replace(&mut self.lock().told, true) {
            self.send(&serde_json::json!({"t": "init_error"}), error("").as_bytes()).await;
        } else {
            for id in self.open_calls() {
                self.send(&error_frame(&id, kind, true), error(&id).as_bytes()).await;
            }
        }
        self.news.send(News::Over).ok();
    }

    /// Nothing more is to be said.
    fn over(&self) {
        self.news.send(News::Over).ok();
    }

    fn open_calls(&self) -> Vec<String> {
        self.lock().calls.drain().map(|(id, _)| id).collect()
    }

    /// How a program's end is told to callers: the cause's name on the channel, and the error.
    fn end_of(&self, status: i32) -> (&'static str, End) {
        let out_of_memory = self.process.oom_kills() > 0;
        let exit = if status & 0x7f == 0 { Exit::Code((status >> 8) & 0xff) } else { Exit::Signal(status & 0x7f) };
        (if out_of_memory { "out_of_memory" } else { "exit" }, End { exit, out_of_memory })
    }
}

/// What telemetry is told of the platform's own events.
impl Environment {
    fn tell_of_begin(&self) {
        let about = &self.about;
        let record = json!({
            "initializationType": about.kind, "phase": "init",
            "functionName": about.name, "functionVersion": about.version,
        });
        self.telemetry.tell("platform", "platform.initStart", record);
    }

    fn tell_of_init(&self, inner: &Inner) {
        for extension in inner.state.extensions() {
            let record = json!({"name": extension.name, "state": "Ready", "events": extension.events()});
            self.telemetry.tell("platform", "platform.extension", record);
        }
        let kind = &self.about.kind;
        let done = json!({"initializationType": kind, "phase": "init", "status": "success"});
        self.telemetry.tell("platform", "platform.initRuntimeDone", done);
        let metrics = json!({"durationMs": milliseconds(self.began.elapsed())});
        let report = json!({"initializationType": kind, "phase": "init", "metrics": metrics});
        self.telemetry.tell("platform", "platform.initReport", report);
        self.telemetry.close();
    }

    fn tell_of_start(&self, call: &Call) {
        let mut record = json!({"requestId": call.id, "version": self.about.version});
        if let Some(trace) = &call.trace {
            record["tracing"] = json!({"type": "X-Amzn-Trace-Id", "value": trace});
        }
        self.telemetry.tell("platform", "platform.start", record);
    }

    fn tell_of_answer(&self, call: &Call, failed: bool, bytes: usize) {
        let took = milliseconds(call.arrived.elapsed());
        let status = if failed { "error" } else { "success" };
        self.lock().took.insert(call.id.clone(), (took, status));
        let metrics = json!({"durationMs": took, "producedBytes": bytes});
        let record = json!({"requestId": call.id, "status": status, "metrics": metrics});
        self.telemetry.tell("platform", "platform.runtimeDone", record);
    }

    fn tell_of_end(&self, inner: &mut Inner, id: &str) {
        inner.started.remove(id);
        let (took, status) = inner.took.remove(id).unwrap_or((0.0, "success"));
        let metrics = json!({
            "durationMs": took, "billedDurationMs": took.ceil(), "memorySizeMB": self.about.memory_mib,
            "maxMemoryUsedMB": self.process.peak_memory() >> 20,
        });
        let record = json!({"requestId": id, "status": status, "metrics": metrics});
        self.telemetry.tell("platform", "platform.report", record);
    }
}

fn error_frame(id: &str, kind: &str, last: bool) -> Value {
    serde_json::json!({"t": "error", "id": id, "kind": kind, "last": last})
}

/// The duty to answer a call; dropped without an answer, the call is answered as broken off.
struct Answering {
    environment: Option<Arc<Environment>>,
    id: String,
}

impl Answering {
    async fn reply(mut self, http: Option<&HttpReply>, body: Bytes) {
        let Some(environment) = self.environment.take() else { return };
        let mut frame = serde_json::json!({"t": "reply", "id": self.id});
        if let Some(http) = http {
            frame["http"] = serde_json::json!(http);
        }
        finish(&environment, &self.id, &frame, &body, body.len()).await;
    }

    async fn fail(mut self, kind: &str, body: Bytes) {
        let Some(environment) = self.environment.take() else { return };
        finish(&environment, &self.id, &error_frame(&self.id, kind, false), &body, body.len()).await;
    }

    /// As our own worker said it: the frame goes on to the pool as it is.
    async fn pass_on(mut self, header: &Value, body: &[u8]) {
        let Some(environment) = self.environment.take() else { return };
        finish(&environment, &self.id, header, body, body.len()).await;
    }

    /// The connection broke off in the middle. Where that is because its program has ended, how it ended says more, and others
    /// say it.
    async fn truncated(self) {
        if let Some(environment) = &self.environment {
            let mut ended = environment.process.ended();
            let end = tokio::time::timeout(END_WAIT, ended.wait_for(Option::is_some)).await;
            if end.is_ok() {
                return;
            }
        }
        let body = truncated_error(&self.id);
        self.fail("handler", body).await;
    }
}

fn truncated_error(id: &str) -> Bytes {
    let message = format!("RequestId: {id} Error: the response was truncated");
    Bytes::from(body::error("Runtime.TruncatedResponse", &message))
}

/// The answer goes to the pool before the runtime hears that it was taken. A call that was answered meanwhile by somebody
/// else (its environment failed) is not answered twice.
async fn finish(environment: &Environment, id: &str, frame: &Value, body: &[u8], bytes: usize) {
    environment.drain().await;
    let call = environment.lock().calls.remove(id);
    if let Some(call) = call {
        environment.tell_of_answer(&call, frame["t"] == "error", bytes);
        if environment.lock().state.told_of_calls() {
            let mut frame = frame.clone();
            frame["busy"] = Value::Bool(true);
            environment.send(&frame, body).await;
        } else {
            environment.send(frame, body).await;
        }
    }
    environment.on(Event::Sent(id.to_owned())).ok();
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(environment) = self.environment.take()
            && !environment.process.is_over()
        {
            let id = std::mem::take(&mut self.id);
            tokio::spawn(async move {
                let body = truncated_error(&id);
                finish(&environment, &id, &error_frame(&id, "handler", false), &body, body.len()).await;
            });
        }
    }
}
