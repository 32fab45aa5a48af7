//! Event source mappings at work: queues and streams are polled, and functions called with what they hold.
//!
//! The supervisor here keeps one poller for each enabled mapping: `queue` for SQS's protocol, `stream` for Kinesis and DynamoDB streams.
//! `filter`, `batch`, `events` and `plan` decide and are pure; `store` keeps how far shards were read. It reaches the outside through
//! `Remote` only, and speaks no HTTP.

mod batch;
mod board;
mod events;
mod filter;
mod lanes;
mod metrics;
mod missing;
mod plan;
mod queue;
mod remote;
mod shard;
mod store;
mod stream;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind, Invocation, Outcome, RequestId};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use board::{Board, Status};
pub use filter::Filter;
pub use metrics::SourceMetrics;
pub(crate) use missing::missing;
pub use remote::{NoRemote, Remote, RemoteError, Service};

use crate::catalog::Catalog;
use crate::catalog::types::Mapping;
use crate::pool::tap::now_ms;
use crate::queue::{Carrier, Context, Host};
use crate::recursion::fresh_trace;
use metrics::Became;
use plan::{Plan, Source};
use store::Positions;

/// AWS's words for `LastProcessingResult`.
const OK: &str = "OK";
const NOTHING_YET: &str = "No records processed";
const CALL_FAILED: &str = "PROBLEM: Function call failed";

/// Time for one operation of a queue or a stream, when it does not wait by itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// Waits after a source that could not be read: the first, doubled each time up to the longest.
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// How often the supervisor looks at pollers that are ending.
const LOOK: Duration = Duration::from_millis(50);

/// What pollers share.
pub struct Parts {
    /// What runs functions.
    pub host: Arc<dyn Host>,
    /// What reaches queues and streams.
    pub remote: Arc<dyn Remote>,
    /// What carries records of given-up batches.
    pub carrier: Arc<dyn Carrier>,
    /// What knows the mappings.
    pub catalog: Arc<Catalog>,
    /// The numbers.
    pub metrics: SourceMetrics,
    /// Bytes of an event, at most.
    pub event_bytes: usize,
}

struct Core {
    parts: Parts,
    positions: Positions,
}

/// The pollers of a node.
pub struct Sources {
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl Sources {
    /// Starts to work the mappings. Must be called inside a tokio runtime.
    pub fn start(data_dir: &Path, parts: Parts) -> Sources {
        parts.catalog.board().attend(parts.remote.clone());
        let core = Arc::new(Core { parts, positions: Positions::new(data_dir) });
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        tokio::spawn(async move {
            supervise(core, stopped).await;
            end.send_replace(true);
        });
        Sources { stop, ended }
    }

    /// Polls nothing more. What was handed to functions runs to its end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits, at most this long, until what was running has ended and is settled with its source.
    pub async fn settled(&self, limit: Duration) {
        let mut ended = self.ended.clone();
        let _ = tokio::time::timeout(limit, ended.wait_for(|ended| *ended)).await;
    }
}

/// A mapping's poller.
struct Running {
    mapping: Arc<Mapping>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Keeps the pollers that the catalogue asks for.
async fn supervise(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    let board = core.parts.catalog.board().clone();
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut streams: HashMap<String, Arc<Mapping>> = HashMap::new();
    while !*stop.borrow() {
        let wanted = core.parts.catalog.all_mappings();
        for (uuid, poller) in &running {
            if !wanted.get(uuid).is_some_and(|mapping| same_work(mapping, &poller.mapping)) {
                poller.stop.send_replace(true);
            }
        }
        running.retain(|_, poller| !poller.task.is_finished());
        for uuid in streams.keys().filter(|uuid| !wanted.contains_key(*uuid) && !running.contains_key(*uuid)) {
            if let Err(error) = core.positions.forget(uuid, None).await {
                tracing::warn!(%error, uuid, "the positions of a removed mapping are left behind");
            }
        }
        streams = wanted.clone();
        for (uuid, mapping) in &wanted {
            let there = running.contains_key(uuid);
            if !there && mapping.enabled {
                running.insert(uuid.clone(), begin(&core, uuid, mapping));
            }
            if running.get(uuid).is_none_or(|poller| same_work(mapping, &poller.mapping)) {
                board.in_force(uuid, mapping.modified_ms);
            }
        }
        board.retain(|uuid| wanted.contains_key(uuid));
        core.parts.metrics.active(running.len());
        let ending = running.values().any(|poller| *poller.stop.borrow());
        tokio::select! {
            () = board.rung() => {}
            () = tokio::time::sleep(LOOK), if ending => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    for poller in running.values() {
        poller.stop.send_replace(true);
    }
    for (_, poller) in running {
        let _ = poller.task.await;
    }
}

/// Whether two states of a mapping are worked alike: its tags do not matter.
fn same_work(a: &Mapping, b: &Mapping) -> bool {
    a.enabled == b.enabled && a.function_arn == b.function_arn && a.settings == b.settings
}

fn begin(core: &Arc<Core>, uuid: &str, mapping: &Arc<Mapping>) -> Running {
    let (stop, stopped) = watch::channel(false);
    let job = Plan::read(uuid, mapping).map(|plan| Job { plan, core: core.clone(), stop: stopped.clone() });
    let board = core.parts.catalog.board().clone();
    let uuid = uuid.to_owned();
    let task = match job {
        Some(job) if core.parts.remote.reaches(job.plan.source.service) => tokio::spawn(async move {
            let job = Arc::new(job);
            // A bug that ends a poller ends this mapping's work, and says so.
            let worked = match job.plan.source.service {
                Service::Sqs => tokio::spawn(queue::work(job.clone())).await,
                Service::Kinesis | Service::DynamoDbStreams => tokio::spawn(stream::work(job.clone())).await,
                Service::Ec2 | Service::Sns | Service::EventBridge => Ok(()), // are no sources
            };
            if let Err(error) = worked {
                tracing::error!(%error, uuid = job.plan.uuid, "a poller was lost; change the mapping or restart the server to begin again");
                job.core.parts.catalog.board().say(&job.plan.uuid, "PROBLEM: Internal error. The poller was lost");
                job.stopped().await;
            }
        }),
        unpolled => {
            let why = match &unpolled {
                Some(job) => format!("this server has no {}", job.plan.source.service.setting()),
                None => "this server polls SQS, Kinesis and DynamoDB streams only".to_owned(),
            };
            if board.say(&uuid, &format!("Nothing is polled: {why}")) {
                tracing::warn!(uuid, "an event source mapping is enabled, but nothing is polled: {why}");
            }
            let mut stopped = stopped;
            tokio::spawn(async move { drop(stopped.wait_for(|stop| *stop).await) })
        }
    };
    Running { mapping: mapping.clone(), stop, task }
}

/// One mapping's work: what it asks for, and what it works with.
struct Job {
    plan: Plan,
    core: Arc<Core>,
    stop: watch::Receiver<bool>,
}

impl Job {
    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // A supervisor that is gone has told everyone to stop, too.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Waits, unless the work is to end. Answers whether it is.
    async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => self.stopping(),
            () = self.stopped() => true,
        }
    }

    fn source(&self) -> &Source {
        &self.plan.source
    }

    fn count(&self, became: Became, records: usize) {
        self.core.parts.metrics.count(became, records);
    }

    /// What the last poll or call came to, for people.
    fn say(&self, result: &str) -> bool {
        self.core.parts.catalog.board().say(&self.plan.uuid, result)
    }

    /// Something that is not as it should be: said in the log once, until it changes.
    fn trouble(&self, what: &str) {
        if self.say(&format!("PROBLEM: {what}")) {
            let Plan { uuid, source, .. } = &self.plan;
            tracing::warn!(uuid, source = source.arn, function = %self.plan.function, "event source mapping: {what}");
        }
    }

    /// The function could not be called. What passes by itself is no matter for the log.
    fn refused(&self, error: &Error) {
        match may_pass(error) {
            true => drop(self.say(&format!("{CALL_FAILED}: {error}"))),
            false => self.trouble(&format!("Function call failed: {error}")),
        }
    }

    /// The source has answered: what was said of its absence is over.
    fn reached(&self) {
        let said = self.core.parts.catalog.board().status(&self.plan.uuid).and_then(|s| s.result);
        if said.is_none_or(|said| said.starts_with("PROBLEM: Connection error")) {
            self.say(NOTHING_YET);
        }
    }

    /// An operation of the source.
    async fn call(&self, operation: &'static str, input: Value, patience: Duration) -> Result<Value, RemoteError> {
        let Source { service, region, .. } = self.source();
        let done = self.core.parts.remote.call(*service, region, operation, input, patience).await;
        if done.is_err() {
            self.core.parts.metrics.error();
        }
        done
    }

    /// Calls the function.
    async fn run(&self, id: &RequestId, payload: Bytes, trace: Option<String>) -> Result<Outcome<Bytes>, Error> {
        let trace = trace.unwrap_or_else(|| fresh_trace(id, now_ms()));
        let context = Context { qualifier: self.plan.qualifier.clone(), client_context: None, trace: Some(trace) };
        let function = self.plan.function.clone();
        let invocation = Invocation { id: id.clone(), function, http: None, payload, context: None };
        let host = self.core.parts.host.clone();
        // A task of its own: it runs to its end whatever becomes of the poller.
        let task = tokio::spawn(async move { host.run(invocation, context).await });
        let lost = |e| Error::new(ErrorKind::Internal, "an invocation was lost").caused_by(e);
        task.await.map_err(lost)?
    }
}

fn new_id() -> Result<RequestId, Error> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|e| Error::new(ErrorKind::Internal, "no random numbers").caused_by(e))?;
    Ok(RequestId::from_random(random))
}

/// The wait after the n-th failure in a row to reach a source.
fn back_off(n: u32) -> Duration {
    FIRST_BACK_OFF.saturating_mul(1 << n.saturating_sub(1).min(16)).min(LONGEST_BACK_OFF)
}

/// Whether a call that was not made may be made later without any change.
fn may_pass(error: &Error) -> bool {
    error.kind.retryable() || error.kind.fault() == offshoot_model::Fault::Platform
}
