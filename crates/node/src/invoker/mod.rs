//! The data plane: one call finds an instance within its deadline and comes back with an outcome.
//!
//! resolve → admit → lease → call → account → outcome. The invoker carries bytes and never looks into them; it never
//! speaks HTTP and never starts a process itself.

mod admit;
mod published;
mod stream;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offshoot_model::invocation::FailureCause;
use offshoot_model::{
    Answer, Error, ErrorKind, FunctionError, FunctionName, HttpPart, Invocation, Network, Outcome, Phases, Reason,
    Report, RequestId, StartKind,
};
use offshoot_sandbox::process::{End, Exit};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::observe::{CallEnd, LogEntry, Throttle, escape};
use crate::pool::instance::{Answered, Birth, Breach, Instance, STUCK, WorkerAnswer};
use crate::pool::stream::WINDOW;
use crate::pool::tap::now_ms;
use crate::pool::{InitFailure, Lease, Pool, Refusal, Shared};
use crate::registry::Version;
use admit::Bucket;
use published::Running;
use stream::Head;
pub use stream::{ReplyStream, Streamed};

/// Bytes of a payload that is sent behind another call, at most: such a frame goes into the socket's buffer whole.
const BEHIND_BODY: usize = 16 << 10;
/// Bytes of what a function printed that are told with the failure of its start.
const PRINTED: usize = 1 << 10;
/// How often a call looks for another instance when the one it was given died before it could be told anything.
const TRIES: u32 = 4;

/// The invoker.
pub struct Invoker {
    shared: Arc<Shared>,
    pools: RwLock<HashMap<FunctionName, Served>>,
    /// Pools of published versions.
    published: RwLock<HashMap<(FunctionName, u64), Served>>,
    draining: AtomicBool,
}

#[derive(Clone)]
struct Served {
    pool: Arc<Pool>,
    bucket: Arc<Mutex<Bucket>>,
}

/// The `invoke` frame of docs/design/002-channel.md.
#[derive(Serialize)]
struct InvokeFrame<'a> {
    t: &'static str,
    id: &'a RequestId,
    deadline_ms: u64,
    arn: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<&'a HttpPart>,
    /// It is sent behind another call.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    claim: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_context: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
    /// The caller takes the answer in pieces; so much may be on its way at first, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<usize>,
}

/// What a call holds while it waits and runs.
type Held = (tokio::sync::OwnedSemaphorePermit, Running);

impl Invoker {
    /// An invoker over these parts.
    pub fn new(shared: Arc<Shared>) -> Self {
        Invoker { shared, pools: RwLock::default(), published: RwLock::default(), draining: AtomicBool::new(false) }
    }

    /// Calls a function. `Ok` is an answer, also when the function failed; `Err` is the platform's.
    pub async fn invoke(self: &Arc<Self>, invocation: Invocation<Bytes>) -> Result<Outcome<Bytes>, Error> {
        let arrived = Instant::now();
        let (pool, held) = self.enter(&invocation).await?;
        if pool.version.config.max_concurrency == 1 {
            let _held = held;
            return self.serve(pool, invocation, arrived, None).await;
        }
        // An instance that serves several callers must not die because one of them goes away: the call goes on alone.
        let this = self.clone();
        let task = tokio::spawn(async move {
            let _held = held;
            this.serve(pool, invocation, arrived, None).await
        });
        task.await.unwrap_or_else(lost)
    }

    /// Lets a call in: which version answers it, and whether one more may run.
    async fn enter(&self, invocation: &Invocation<Bytes>) -> Result<(Arc<Pool>, Held), Error> {
        let version = self.version_of(invocation)?;
        if self.draining.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::ShuttingDown, "the server is shutting down: retry on another, or later"));
        }
        let served = self.served(&version);
        self.admit(&served, &version)?;
        let running = self.within_reservation(&version)?;
        let permit = self.permit().await?;
        version.stats.invocations.fetch_add(1, Ordering::Relaxed);
        version.stats.last_invoked_ms.store(now_ms(), Ordering::Relaxed);
        Ok((served.pool, (permit, running)))
    }

    fn resolve(&self, name: &FunctionName) -> Result<Arc<Version>, Error> {
        let unknown = || Error::new(ErrorKind::NotFound, format!("no function is called {name}"));
        self.shared.registry.resolve(name).ok_or_else(unknown)
    }

    /// The pool of this version; the pool of the version before it is retired here, at the first call after a change.
    fn served(&self, version: &Arc<Version>) -> Served {
        let name = &version.config.name;
        if let Some(number) = version.number {
            return self.served_published(version, number);
        }
        {
            let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(served) = pools.get(name).filter(|s| s.pool.version.revision == version.revision) {
                return served.clone();
            }
        }
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = pools.get(name).filter(|s| s.pool.version.revision >= version.revision) {
            return served.clone();
        }
        let served = Served {
            pool: Pool::new(self.shared.clone(), version.clone()),
            bucket: Arc::new(Mutex::new(Bucket::new(version.config.rate_limit, Instant::now()))),
        };
        let old = pools.insert(name.clone(), served.clone());
        drop(pools);
        if let Some(old) = old {
            old.pool.retire();
        }
        served
    }

    fn admit(&self, served: &Served, version: &Version) -> Result<(), Error> {
        let mut bucket = served.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(Instant::now()).map_err(|_| {
            self.shared.metrics.throttled(Throttle::Rate);
            Error::new(
                ErrorKind::Throttled,
                format!(
                    "rate limit exceeded: {} takes {} invocations per second; try again later",
                    version.config.name, version.config.rate_limit
                ),
            )
            .because(Reason::RateLimit)
        })
    }

    async fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Error> {
        let permits = self.shared.run_permits.clone();
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let wait = Duration::from_millis(self.shared.limits.queue_wait_ms);
        match tokio::time::timeout(wait, permits.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                self.shared.metrics.throttled(Throttle::ServerConcurrency);
                Err(Error::new(
                    ErrorKind::Throttled,
                    format!(
                        "the server runs {} invocations, its limit: retry later, or raise limits.concurrency",
                        self.shared.limits.concurrency
                    ),
                ))
            }
        }
    }

    /// A function was deployed again, changed or removed: its old instances go as soon as they are idle.
    pub fn changed(&self, name: &FunctionName) {
        self.retire_published(name);
        match self.shared.registry.resolve(name) {
            Some(version) => drop(self.served(&version)),
            None => {
                let old = self.pools.write().unwrap_or_else(PoisonError::into_inner).remove(name);
                if let Some(old) = old {
                    old.pool.retire();
                }
            }
        }
    }

    /// Makes the function ready: its template when it has snapshots, else one instance. Returns how that failed, if it did.
    pub async fn warm(&self, name: &FunctionName) -> Result<(), Error> {
        let version = self.resolve(name)?;
        self.load_in(&self.served(&version).pool).await
    }

    /// Loads a version that nobody can call, once, in a pool of its own that ends with it.
    pub async fn try_out(&self, version: Arc<Version>) -> Result<(), Error> {
        let pool = Pool::new(self.shared.clone(), version);
        let loaded = self.load_in(&pool).await;
        pool.retire();
        loaded
    }

    async fn load_in(&self, pool: &Arc<Pool>) -> Result<(), Error> {
        self.shared.runtimes.ready().await;
        let config = &pool.version.config;
        let made = match config.snapshot {
            true => pool.snapshot().await.map(drop),
            false => pool.lease(true).await.map(drop),
        };
        match made {
            Ok(()) | Err(Refusal::Retired) => Ok(()),
            Err(Refusal::Platform(error)) => Err(error),
            Err(Refusal::Init(failure)) => {
                Err(Error::new(ErrorKind::DoesNotLoad, not_initialised(&config.name, &failure)))
            }
        }
    }

    /// Takes no new calls from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether no new calls are taken.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Calls that run or wait.
    pub fn in_flight(&self) -> usize {
        self.shared.limits.concurrency as usize - self.shared.run_permits.available_permits()
    }

    /// All pools.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().chain(published.values()).map(|s| s.pool.clone()).collect()
    }
}

/// How much of a frame an invocation's HTTP part makes, without small change.
fn weight(invocation: &Invocation<Bytes>) -> usize {
    let Some(http) = &invocation.http else { return 0 };
    let headers: usize = http.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    headers + http.path.len() + http.query.len()
}

/// What came of a call on one instance.
enum Called {
    /// It was answered.
    Done(Box<Outcome<Bytes>>),
    /// The instance died before it was told anything.
    Dead,
    /// The instance had not begun it.
    Withdrawn,
}

/// A leased instance, and what it took to get it.
struct Got {
    lease: Lease,
    queue: Duration,
    birth: Birth,
    first: bool,
    /// What the handler took by itself, as far as that is known.
    handler: Option<Duration>,
    /// What tells that the instance is done with the call, where that is not with its answer; and until when it has to be.
    busy: Option<(oneshot::Receiver<()>, Instant)>,
}

impl Invoker {
    async fn serve(
        &self,
        mut pool: Arc<Pool>,
        invocation: Invocation<Bytes>,
        arrived: Instant,
        mut head: Option<oneshot::Sender<Head>>,
    ) -> Result<Outcome<Bytes>, Error> {
        // A large frame may have to wait for its reader: it goes to a worker that reads.
        let (mut tries, mut alone) = (0, invocation.payload.len() + weight(&invocation) > BEHIND_BODY);
        while tries < TRIES {
            let lease = match pool.lease(alone).await {
                Ok(lease) => lease,
                Err(Refusal::Retired) => {
                    // Replaced or removed while this call was on its way: the next version answers it, if there is one.
                    pool = self.served(&self.version_of(&invocation)?).pool;
                    tries += 1;
                    continue;
                }
                Err(Refusal::Platform(error)) => {
                    // A call that was refused because of a limit has not been made, and does not count.
                    if matches!(error.kind, ErrorKind::Throttled | ErrorKind::NoCapacity) {
                        pool.version.stats.invocations.fetch_sub(1, Ordering::Relaxed);
                    }
                    match error.kind {
                        ErrorKind::Throttled => self.shared.metrics.throttled(Throttle::FunctionConcurrency),
                        ErrorKind::NoCapacity => self.shared.metrics.throttled(Throttle::QueueWait),
                        _ => {}
                    }
                    return Err(error);
                }
                Err(Refusal::Init(failure)) => return Ok(self.init_failed(&pool, &invocation, *failure, arrived)),
            };
            match self.call(&pool, lease, &invocation, arrived, &mut head).await {
                Called::Done(outcome) => return Ok(*outcome),
                Called::Dead => tries += 1,
                // It is not put behind another one again; an instance that it had alone has died.
                Called::Withdrawn => tries += u32::from(std::mem::replace(&mut alone, true)),
            }
        }
        Err(Error::new(
            ErrorKind::StartFailed,
            "instance after instance died before it could be called: see the server's log",
        ))
    }

    /// One call on one instance. `head`: whoever waits for the beginning of an answer in pieces.
    async fn call(
        &self,
        pool: &Arc<Pool>,
        lease: Lease,
        invocation: &Invocation<Bytes>,
        arrived: Instant,
        head: &mut Option<oneshot::Sender<Head>>,
    ) -> Called {
        let config = &pool.version.config;
        let waited = arrived.elapsed();
        let first = lease.first;
        let instance = lease.instance().clone();
        if !instance.alive() {
            return Called::Dead;
        }
        let birth = instance.birth;
        let cost = if first { (birth.start + birth.init).min(waited) } else { Duration::ZERO };
        let mut got = Got { lease, queue: waited - cost, birth, first, handler: None, busy: None };
        let behind = got.lease.behind;
        let timeout = config.timeout.duration();
        let id = &invocation.id;
        let context = invocation.context.as_deref();
        let trace = context.and_then(|c| c.trace.as_deref());
        let frame = InvokeFrame {
            t: "invoke",
            id,
            deadline_ms: now_ms() + config.timeout.0,
            arn: &self.shared.settings.place.function(config.name.as_str(), invocation.qualifier()),
            http: invocation.http.as_ref(),
            claim: behind,
            client_context: context.and_then(|c| c.client_context.as_deref()),
            identity: context.and_then(|c| c.identity.as_deref()),
            trace,
            stream: head.as_ref().map(|_| WINDOW),
        };
        let takes = if head.is_some() { self.shared.limits.stream_bytes } else { 0 };
        let header = serde_json::to_vec(&frame).unwrap_or_default();
        instance.tap.begin(id, pool.system.start(id, pool.version.number, trace), behind);
        let sent = Instant::now();
        let calling = async {
            let answer = got.lease.call(id, &header, &invocation.payload, takes).await;
            let answered = if behind { behind_others(&instance, id, answer).await } else { answer.await };
            match answered {
                Ok(Answered { answer: WorkerAnswer::Stream(begun), .. }) => {
                    let start = if first { birth.kind } else { StartKind::Warm };
                    let about = (start, pool.version.number, birth.runtime);
                    Box::pin(stream::carry(&instance, id, *begun, head.take(), about)).await
                }
                other => other,
            }
        };
        let patience = if behind { timeout + 2 * STUCK } else { timeout };
        let mut answered = tokio::time::timeout(patience, calling).await;
        let mut run = sent.elapsed();
        if let Ok(Ok(answered)) = &mut answered {
            got.busy = answered.busy.take().map(|over| (over, sent + timeout));
            run = run.min(answered.run);
            got.queue += sent.elapsed().saturating_sub(run);
            // Answers to calls that were sent one behind the other come in bunches: when they come says little.
            got.handler = answered.own.or((!behind).then_some(run));
        }
        let result = match answered.map(|answered| answered.map(|a| a.answer)) {
            Ok(Ok(WorkerAnswer::Withdrawn)) => {
                got.lease.withdrawn();
                return Called::Withdrawn;
            }
            Ok(Ok(WorkerAnswer::Reply { http, body })) => Ok(Answer::Reply { http, body }),
            // The pieces have gone to whoever takes them.
            Ok(Ok(WorkerAnswer::Ended | WorkerAnswer::Stream(_))) => {
                Ok(Answer::Reply { http: None, body: Bytes::new() })
            }
            Ok(Ok(WorkerAnswer::Error { kind, body })) => Ok(Answer::Failed(worker_failed(&kind, &body))),
            Ok(Ok(WorkerAnswer::Broken(breach))) => Err(broken(id, breach, self.shared.limits.reply_bytes)),
            Ok(Err(_)) => Err((FailureCause::Protocol, failure(id, FailureCause::Protocol, "the instance was lost"))),
            Err(_) => {
                instance.kill();
                let message = format!("Task timed out after {:.2} seconds", timeout.as_secs_f64());
                Err((FailureCause::Timeout, failure(id, FailureCause::Timeout, &message)))
            }
        };
        Called::Done(Box::new(self.account(pool, got, invocation, result, run, arrived)))
    }

    /// Writes the account of a call: log lines, metrics, the outcome; and gives the instance back or lets it die.
    fn account(
        &self,
        pool: &Arc<Pool>,
        got: Got,
        invocation: &Invocation<Bytes>,
        result: Result<Answer<Bytes>, (FailureCause, String)>,
        run: Duration,
        arrived: Instant,
    ) -> Outcome<Bytes> {
        let config = &pool.version.config;
        let instance = got.lease.instance().clone();
        let mut peak = instance.process.peak_memory();
        let limit = config.memory.bytes();
        let mut result = result;
        // A child that was killed for memory leaves the worker alive but the function half dead: the whole goes, as on AWS.
        if result.is_ok() && peak > limit - limit / 32 && instance.process.oom_kills() > 0 {
            let message = "Runtime exited with error: signal: killed (out of memory)";
            result = Err((FailureCause::OutOfMemory, failure(&invocation.id, FailureCause::OutOfMemory, message)));
        }
        if matches!(result, Err((FailureCause::OutOfMemory, _))) {
            peak = peak.max(limit);
        }
        let kind = if got.first { got.birth.kind } else { StartKind::Warm };
        let (start, init) = if got.first { (got.birth.start, got.birth.init) } else { Default::default() };
        let report = Report { peak_memory: peak, memory_limit: limit };
        let id = &invocation.id;
        let trace = invocation.context.as_deref().and_then(|c| c.trace.as_deref());
        let phases = Phases { queue: got.queue, start, init, run, total: arrived.elapsed() };
        let end = CallEnd { id, kind, phases: &phases, report: &report, trace, result: &result };
        let hint = network_hint(config, &result).map(|hint| pool.system.remark(Some(id.as_str()), hint));
        let log_tail = instance.tap.finish(id, hint.into_iter().chain(pool.system.end(&end)));
        let result = match result {
            Ok(answer) => {
                match got.busy {
                    Some((over, until)) => got.lease.done_when(over, until, got.handler),
                    None => got.lease.done(got.handler),
                }
                answer
            }
            Err((cause, body)) => {
                got.lease.failed();
                Answer::Failed(FunctionError { cause, body })
            }
        };
        let outcome = Outcome {
            result,
            start: kind,
            version: pool.version.number,
            runtime: got.birth.runtime,
            phases,
            report,
            log_tail,
        };
        self.shared.metrics.record(&config.name, &outcome);
        outcome
    }

    fn init_failed(
        &self,
        pool: &Arc<Pool>,
        invocation: &Invocation<Bytes>,
        failure: InitFailure,
        arrived: Instant,
    ) -> Outcome<Bytes> {
        let config = &pool.version.config;
        let InitFailure { mut error, kind, runtime, start, init, printed, .. } = failure;
        let id = &invocation.id;
        error.body = under_its_call(error.body, id);
        let report = Report { peak_memory: 0, memory_limit: config.memory.bytes() };
        let total = arrived.elapsed();
        let phases = Phases { queue: total.saturating_sub(start + init), start, init, run: Duration::ZERO, total };
        let trace = invocation.context.as_deref().and_then(|c| c.trace.as_deref());
        let failed = Err((error.cause, error.body.clone()));
        let end = CallEnd { id, kind, phases: &phases, report: &report, trace, result: &failed };
        let lines = pool.system.start(id, pool.version.number, trace).into_iter().chain(pool.system.end(&end));
        let mut log_tail = printed;
        let shown: Arc<str> = Arc::from(id.as_str());
        for line in lines {
            log_tail.extend_from_slice(line.as_bytes());
            log_tail.push(b'\n');
            self.shared.logs.append(&config.name, &[LogEntry::platform(now_ms(), Some(shown.clone()), line)]);
        }
        let outcome = Outcome {
            result: Answer::Failed(error),
            start: kind,
            version: pool.version.number,
            runtime,
            phases,
            report,
            log_tail,
        };
        self.shared.metrics.record(&config.name, &outcome);
        outcome
    }
}

fn lost<T>(error: tokio::task::JoinError) -> Result<T, Error> {
    Err(Error::new(ErrorKind::Internal, "an invocation was lost").caused_by(error))
}

/// Waits for the answer to a call that was sent behind another. When that one turns out to take long, the call is taken
/// back, unless it has been begun by then.
async fn behind_others(
    instance: &Instance,
    id: &RequestId,
    mut answer: oneshot::Receiver<Answered>,
) -> Result<Answered, oneshot::error::RecvError> {
    loop {
        match tokio::time::timeout(STUCK, &mut answer).await {
            Ok(answered) => return answered,
            Err(_) if !instance.stuck() => {}
            Err(_) => {
                instance.withdraw(id);
                return answer.await;
            }
        }
    }
}

/// What the platform itself says of a program that never came up is said under the call that it answers, as on AWS.
fn under_its_call(body: String, id: &RequestId) -> String {
    const PLATFORM: &[&str] = &["Runtime exited ", "Couldn't find valid bootstrap", "fork/exec ", "the extension "];
    let Ok(serde_json::Value::Object(mut error)) = serde_json::from_str(&body) else { return body };
    let message = error.get("errorMessage").and_then(serde_json::Value::as_str).unwrap_or_default();
    if !PLATFORM.iter().any(|words| message.starts_with(words)) {
        return body;
    }
    let message = format!("RequestId: {id} Error: {message}");
    error.insert("errorMessage".into(), message.into());
    serde_json::Value::Object(error).to_string()
}

/// How a start failed, for whoever deploys: the error, and what the function printed before it.
fn not_initialised(name: &FunctionName, failure: &InitFailure) -> String {
    let message = told(&failure.error);
    let printed = String::from_utf8_lossy(&failure.printed[..failure.printed.len().min(PRINTED)]);
    // What the worker prints of the error is said already.
    let end = message.lines().next().and_then(|line| line.rsplit(": ").next()).unwrap_or_default();
    let own: Vec<_> = printed.lines().take_while(|line| end.is_empty() || !line.contains(end)).collect();
    let printed = match own.is_empty() {
        true => String::new(),
        false => format!(" (it printed: {})", escape(&own.join("; "))),
    };
    let message = match (place(&failure.error), message.split_once('\n')) {
        (None, _) => message,
        (Some(place), None) => format!("{message} ({place})"),
        (Some(place), Some((first, rest))) => format!("{first} ({place})\n{rest}"),
    };
    let lines: Vec<_> = message.lines().map(escape).collect();
    format!("{name} could not be initialised: {}{printed}", lines.join("\n"))
}

/// Where a file could not be read as code: Node.js says it in the first line of the stack alone.
fn place(error: &FunctionError) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(&error.body).ok()?;
    let first = body["trace"].get(0).or(body["stackTrace"].get(0))?.as_str()?;
    let (file, line) = first.strip_prefix("file://").unwrap_or(first).rsplit_once(':')?;
    let shown = file.starts_with('/') && !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit());
    shown.then(|| format!("{}:{line}", escape(file.trim_start_matches("/var/task/"))))
}

/// An error's type and message.
fn told(error: &FunctionError) -> String {
    let body: serde_json::Value = serde_json::from_str(&error.body).unwrap_or_default();
    match (body["errorType"].as_str(), body["errorMessage"].as_str()) {
        (Some(kind), Some(message)) => format!("{kind}: {message}"),
        _ => error.body.clone(),
    }
}

/// What an error looks like that comes of having no network: to Node.js, to Python, to the C library.
const UNREACHABLE: &[&str] = &[
    "EAI_AGAIN",
    "ENETUNREACH",
    "fetch failed",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "network is unreachable",
];

/// A remark for the log of a function that failed for want of a network.
fn network_hint(
    config: &offshoot_model::FunctionConfig,
    result: &Result<Answer<Bytes>, (FailureCause, String)>,
) -> Option<String> {
    let Ok(Answer::Failed(error)) = result else { return None };
    let reached_out = config.network == Network::None && UNREACHABLE.iter().any(|sign| error.body.contains(sign));
    reached_out.then(|| {
        let name = &config.name;
        format!("offshoot: {name} has no network; if it is to have this machine's, deploy it with --network host")
    })
}

fn worker_failed(kind: &str, body: &Bytes) -> FunctionError {
    let cause = match kind {
        "unserialisable" => FailureCause::Unserialisable,
        "too_large" => FailureCause::ReplyTooLarge,
        "exit" => FailureCause::Exit,
        "protocol" => FailureCause::Protocol,
        "out_of_memory" => FailureCause::OutOfMemory,
        _ => FailureCause::Handler,
    };
    FunctionError { cause, body: String::from_utf8_lossy(body).into_owned() }
}

fn broken(id: &RequestId, breach: Breach, limit: u64) -> (FailureCause, String) {
    match breach {
        Breach::Ended(end) => ended(id.as_str(), end),
        Breach::TooLarge(_) => {
            let message = format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
            let cause = FailureCause::ReplyTooLarge;
            (cause, crate::pool::error_json(cause.error_type(), &message))
        }
        Breach::StreamTooLarge(limit) => {
            let message = format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
            let cause = FailureCause::ReplyTooLarge;
            (cause, crate::pool::error_json(cause.error_type(), &message))
        }
        Breach::Protocol(why) => (
            FailureCause::Protocol,
            failure(id, FailureCause::Protocol, &format!("the worker broke its protocol: {why}")),
        ),
    }
}

/// The error of a process that ended before it answered, in AWS's words.
pub(crate) fn ended(id: &str, end: End) -> (FailureCause, String) {
    let cause = if end.out_of_memory { FailureCause::OutOfMemory } else { FailureCause::Exit };
    let how = match end.exit {
        Exit::Code(0) | Exit::Unknown if !end.out_of_memory => "Runtime exited without providing a reason".to_owned(),
        Exit::Code(code) => format!("Runtime exited with error: exit status {code}"),
        Exit::Signal(signal) => format!("Runtime exited with error: signal: {}", signal_name(signal)),
        Exit::Unknown => "Runtime exited with error: signal: killed".to_owned(),
    };
    let how = if end.out_of_memory { format!("{how} (out of memory)") } else { how };
    let message = if id.is_empty() { how } else { format!("RequestId: {id} Error: {how}") };
    (cause, crate::pool::error_json(cause.error_type(), &message))
}

fn failure(id: &RequestId, cause: FailureCause, message: &str) -> String {
    crate::pool::error_json(cause.error_type(), &format!("RequestId: {id} Error: {message}"))
}

/// Signal names as Go's `syscall` prints them, which is what AWS's messages show.
fn signal_name(signal: i32) -> String {
    match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        31 => "bad system call",
        other => return format!("signal {other}"),
    }
    .to_owned()
}
