//! The shelf of one version's instances: lease, return, start, retire. What to do is decided in `policy`; this does it.
//!
//! A `Lease` is the right to use an instance for one invocation. Dropped without `done` after it was used, the instance
//! dies: there is no other clean-up path. The pool never looks into a payload and never talks to users.

mod crowd;
pub mod instance;
pub mod policy;
mod served;
mod start;
pub mod stream;
pub mod tap;
mod upkeep;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use offshoot_model::{Error, ErrorKind, FunctionError, Limits, Place, Reason, RequestId, RuntimeName, StartKind};
use offshoot_sandbox::{Driver, Template};
use tokio::sync::{Semaphore, oneshot};

use crate::observe::{LogStore, Metrics, SystemLog};
use crate::registry::{Registry, Version};
use crate::runtime::RuntimeTable;
use crate::templates::Templates;
use crowd::Crowd;
use instance::{Answered, Instance};
use policy::{PoolView, Predictor, Runs};
pub(crate) use start::{LATE_CLONES, civil, error_json};

/// How a node runs its instances; the server's settings.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// How long an idle instance is kept.
    pub keep_alive: Duration,
    /// How long the template of a function without instances is kept.
    pub template_keep_alive: Duration,
    /// How long an instance is idle before it is frozen.
    pub freeze_after: Duration,
    /// Whether instances are started ahead of predicted demand.
    pub prewarm: bool,
    /// How many clones of each language template are made ahead of need.
    pub spares: usize,
    /// Whether the CPU limits of functions are put in force.
    pub cpu_limits: bool,
    /// Where functions are told that they run.
    pub place: Place,
}

/// What all pools of a node share.
pub struct Shared {
    /// The maker of boxes.
    pub driver: Arc<Driver>,
    /// Language templates.
    pub templates: Templates,
    /// Language versions present.
    pub runtimes: Arc<RuntimeTable>,
    /// What is deployed.
    pub registry: Arc<Registry>,
    /// Logs.
    pub logs: Arc<LogStore>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Limits.
    pub limits: Limits,
    /// Settings.
    pub settings: PoolSettings,
    /// Memory that all instances together may use, in bytes.
    pub memory_budget: u64,
    /// Starts that may use the machine at once.
    pub start_permits: Semaphore,
    /// Invocations that may run at once.
    pub run_permits: Arc<Semaphore>,
    /// Memory of all instances at the last look, in bytes.
    pub memory_used: AtomicU64,
    /// Processors of this machine.
    pub cores: u32,
    /// How many want them.
    crowd: Crowd,
    /// The server has no privilege of its own.
    pub rootless: bool,
    /// The way of durable functions to their own executions; there once the node has started.
    pub durable: std::sync::OnceLock<crate::durable::Gate>,
    ids: AtomicU64,
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Shared {
    /// Puts the parts together.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        driver: Arc<Driver>,
        templates: Templates,
        runtimes: Arc<RuntimeTable>,
        registry: Arc<Registry>,
        logs: Arc<LogStore>,
        metrics: Arc<Metrics>,
        limits: Limits,
        settings: PoolSettings,
    ) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let memory_budget = match limits.memory_budget_mib {
            0 => machine_memory() / 4 * 3,
            mib => u64::from(mib) << 20,
        };
        let rootless = driver.rootless();
        Arc::new(Shared {
            driver,
            templates,
            runtimes,
            registry,
            logs,
            metrics,
            settings,
            memory_budget,
            // More starts at once than this only make each other late.
            start_permits: Semaphore::new(cores * 4),
            run_permits: Arc::new(Semaphore::new(limits.concurrency as usize)),
            memory_used: AtomicU64::new(0),
            cores: cores as u32,
            crowd: Crowd::new(),
            rootless,
            durable: std::sync::OnceLock::new(),
            ids: AtomicU64::new(1),
            pools: Mutex::default(),
            limits,
        })
    }

    /// Every pool that still has a call or an instance, replaced ones included.
    pub fn living_pools(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|p| p.strong_count() > 0);
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

fn machine_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = info.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(4 << 20) << 10
}

/// Why no lease could be had.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// This version has been replaced: resolve the name again.
    Retired,
    /// The function could not be loaded or initialised: that is the answer to the call.
    Init(Box<InitFailure>),
    /// The platform could not start it, or a limit is reached.
    Platform(Error),
}

/// A function that could not be initialised.
#[derive(Debug, Clone)]
pub struct InitFailure {
    /// What the caller is told.
    pub error: FunctionError,
    /// From where it was started.
    pub kind: StartKind,
    /// On which runtime.
    pub runtime: RuntimeName,
    /// The process was killed from outside, or vanished, before it had loaded the function.
    pub killed: bool,
    /// Making the box.
    pub start: Duration,
    /// Loading, until it failed.
    pub init: Duration,
    /// The last lines it printed.
    pub printed: Vec<u8>,
}

/// The instances of one version.
pub struct Pool {
    /// What runs here.
    pub version: Arc<Version>,
    /// How the platform's lines look in its log.
    pub(crate) system: SystemLog,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
    snapshot: tokio::sync::Mutex<start::SnapshotState>,
    start_ns: AtomicU64,
    /// Clones of the function's template that took too long, one after the other.
    late_clones: AtomicU32,
    /// Instances that are kept however long they are idle.
    floor: AtomicU32,
}

#[derive(Default)]
struct Inner {
    /// Instances with room for another invocation; the most recently used is last.
    open: Vec<Arc<Instance>>,
    /// Instances that serve now.
    busy: Vec<Arc<Instance>>,
    all: HashMap<u64, Entry>,
    waiting: VecDeque<Waiter>,
    starting: u32,
    active: u32,
    peak: u32,
    predictor: Predictor,
    runs: Runs,
    /// When a call last ended.
    last_done: Option<Instant>,
    retired: bool,
}

/// A call that waits for an instance.
struct Waiter {
    tell: oneshot::Sender<Result<Lease, Refusal>>,
    /// It is not put behind another call.
    alone: bool,
}

impl Waiter {
    fn is_closed(&self) -> bool {
        self.tell.is_closed()
    }
}

struct Entry {
    instance: Arc<Instance>,
    active: u32,
    busy_since: Instant,
    idle_since: Instant,
    frozen: bool,
}

impl Inner {
    /// How long the most recent of the calls that run now has been running. Calls that have outlived the usual run will,
    /// as far as anybody knows, take as long again.
    fn youngest_call(&self) -> Duration {
        let busy = self.busy.iter().filter_map(|instance| self.all.get(&instance.id));
        busy.map(|e| e.busy_since.elapsed()).min().filter(|d| *d > policy::SLICE).unwrap_or(Duration::ZERO)
    }

    /// How many instances serve one quick call after the other.
    fn flowing(&self) -> u32 {
        self.busy.iter().take(LANES_SEEN).filter(|instance| instance.flows()).count() as u32
    }
}

/// The right to use an instance for one invocation.
pub struct Lease {
    pool: Arc<Pool>,
    instance: Arc<Instance>,
    /// The call waited for this instance to be started.
    pub first: bool,
    /// The instance serves another call, and this one is sent behind it.
    pub behind: bool,
    call: Option<RequestId>,
    finished: bool,
}

impl Lease {
    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Sends the one call that the lease is for. `takes`: how many bytes of its answer may come in pieces.
    pub async fn call(
        &mut self,
        id: &RequestId,
        header: &[u8],
        body: &[u8],
        takes: u64,
    ) -> oneshot::Receiver<Answered> {
        self.call = Some(id.clone());
        if !self.behind {
            self.instance.came();
        }
        self.instance.call(id, header, body, self.behind, takes).await
    }

    /// Gives it back, with how long the handler took, as far as that is known.
    pub fn done(mut self, run: Option<Duration>) {
        self.finished = true;
        self.pool.give_back(&self.instance, run);
    }

    /// Gives it back when the programs beside the worker are done with the call, which has been answered. They have until then;
    /// whoever takes longer has overrun the function's timeout, as on AWS.
    pub fn done_when(self, over: oneshot::Receiver<()>, until: Instant, run: Option<Duration>) {
        tokio::spawn(async move {
            match tokio::time::timeout_at(until.into(), over).await {
                Ok(Ok(())) => self.done(run),
                // The instance has ended.
                Ok(Err(_)) => self.failed(),
                Err(_) => {
                    let text = "offshoot: the instance was stopped: its extensions did not ask for the next event within the timeout";
                    self.instance.tap.note(text);
                    self.failed();
                }
            }
        });
    }

    /// The call ended in a way after which the instance is good for nothing: it ends now.
    pub fn failed(mut self) {
        self.finished = true;
        self.instance.condemn();
        self.pool.forget(&self.instance);
    }

    /// Gives it back: the call that was sent behind another has been withdrawn.
    pub fn withdrawn(mut self) {
        self.let_go();
    }

    fn let_go(&mut self) {
        self.finished = true;
        match &self.call {
            Some(id) => self.instance.tap.withdraw(id),
            None if !self.behind => self.instance.came(),
            None => {}
        }
        self.pool.give_back(&self.instance, None);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Whoever held it went away in the middle of a call. One that the worker has not begun can still be taken from it.
        match self.call.clone() {
            Some(id) if !(self.behind && self.instance.withdraw(&id)) => {
                let (pool, instance) = (self.pool.clone(), self.instance.clone());
                // Without a runtime the server is ending, and everything with it.
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move { pool.abandon(&instance, &id).await });
                } else {
                    instance.kill();
                }
            }
            _ => self.let_go(),
        }
    }
}

/// Calls that are sent behind the one that runs, at most: as many as keep a worker busy while the server answers others.
const BEHIND: u32 = 8;
/// Busy instances that are looked at for a place behind a call.
const LANES_SEEN: usize = 16;
/// After so many waiting calls have come, those that went away are looked for.
const PRUNE: usize = 64;
/// How soon a waiting call looks whether a start has become worth it; doubles with every look.
const LOOK_AGAIN: Duration = Duration::from_millis(4);
/// How long a call waits at most while an instance is being started.
const STARTING_EXTENSION: Duration = Duration::from_secs(60);

impl Pool {
    /// An empty pool for this version.
    pub fn new(shared: Arc<Shared>, version: Arc<Version>) -> Arc<Self> {
        let system = version.fields.as_deref().map(|f| SystemLog::of(&f.logging)).unwrap_or_default();
        let pool = Arc::new(Pool {
            version,
            system,
            shared,
            inner: Mutex::default(),
            snapshot: tokio::sync::Mutex::default(),
            start_ns: AtomicU64::new(0),
            late_clones: AtomicU32::new(0),
            floor: AtomicU32::new(0),
        });
        pool.shared.pools.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pool));
        pool
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn per_instance(&self) -> u32 {
        self.version.config.max_concurrency
    }

    /// Invocations that the function may run at once.
    fn calls(&self) -> u32 {
        self.version.config.concurrency.unwrap_or(u32::MAX).min(self.shared.limits.concurrency).max(1)
    }

    /// Instances that this takes.
    fn limit(&self) -> u32 {
        self.calls().div_ceil(self.per_instance())
    }

    /// An instance for one invocation: the most recently used one that has room, else whichever is free or started first;
    /// not `alone`, it may be one that serves another quick call.
    pub async fn lease(self: &Arc<Self>, alone: bool) -> Result<Lease, Refusal> {
        let arrived = Instant::now();
        let mut waiter = {
            let mut inner = self.lock();
            if inner.retired {
                return Err(Refusal::Retired);
            }
            let taken = if alone { self.take_open(&mut inner, false) } else { self.take(&mut inner, false) };
            if let Some(lease) = taken {
                return Ok(lease);
            }
            // Those that have gone away are not kept until somebody comes to be served.
            if inner.waiting.len() % PRUNE == PRUNE - 1 {
                inner.waiting.retain(|w| !w.is_closed());
            }
            let (tell, waiter) = oneshot::channel();
            inner.waiting.push_back(Waiter { tell, alone });
            waiter
        };
        self.start_what_is_wanted();
        let wait = Duration::from_millis(self.shared.limits.queue_wait_ms);
        let mut pause = LOOK_AGAIN;
        loop {
            match tokio::time::timeout(pause, &mut waiter).await {
                Ok(Ok(granted)) => return granted,
                Ok(Err(_)) => return Err(Refusal::Retired),
                // The calls that run now may turn out to be long ones: what was not worth a start then may be now.
                Err(_) if arrived.elapsed() < wait => {
                    self.serve_waiting(self.lock());
                    self.start_what_is_wanted();
                    pause = (pause * 2).min(wait.saturating_sub(arrived.elapsed()).max(LOOK_AGAIN));
                }
                // A start under way is progress: throttling is for calls that wait because a limit is reached.
                Err(_) if self.lock().starting > 0 && arrived.elapsed() < STARTING_EXTENSION => {}
                Err(_) => {
                    waiter.close();
                    // A grant may have arrived between the timeout and now.
                    if let Ok(granted) = waiter.try_recv() {
                        return granted;
                    }
                    return Err(Refusal::Platform(self.throttled()));
                }
            }
        }
    }

    fn throttled(&self) -> Error {
        let waited = self.shared.limits.queue_wait_ms;
        if (self.lock().all.len() as u32) < self.limit() {
            let name = &self.version.config.name;
            let text = format!("no instance of {name} became free or could be started within {waited} ms: retry later");
            return Error::new(ErrorKind::NoCapacity, text);
        }
        Error::new(
            ErrorKind::Throttled,
            format!(
                "{} is at its limit of {} invocations at once, and none ended within {} ms: retry later, or raise its concurrency",
                self.version.config.name,
                self.version.config.concurrency.unwrap_or(self.shared.limits.concurrency),
                self.shared.limits.queue_wait_ms
            ),
        )
        .because(Reason::FunctionConcurrency)
    }

    /// The best instance now, if there is one. Quick calls are kept together: they go behind those that run.
    fn take(self: &Arc<Self>, inner: &mut Inner, waited: bool) -> Option<Lease> {
        if self.per_instance() == 1 {
            let run = inner.runs.shortest();
            let lanes = self.lanes();
            let (waiting, flowing) = (inner.waiting.len() as u32, inner.flowing());
            let crowded = || {
                let at_work = inner.busy.len() as u32 >= lanes && inner.last_done.is_some_and(policy::lately);
                at_work && self.shared.crowd.more_than(2 * self.shared.cores)
            };
            if policy::better_wait(run, waiting, flowing, lanes, crowded) {
                return self.take_behind(inner);
            }
        }
        self.take_open(inner, waited)
    }

    /// Instances of a function with quick calls that are worth having at work, beside the server and whoever calls.
    fn lanes(&self) -> u32 {
        (self.shared.cores / 2).max(1)
    }

    /// A place behind the call of a busy instance that has few of them.
    fn take_behind(self: &Arc<Self>, inner: &mut Inner) -> Option<Lease> {
        if inner.active >= self.calls() {
            return None;
        }
        let places =
            |instance: &Arc<Instance>| inner.all.get(&instance.id).map_or(0, |e| BEHIND.saturating_sub(e.active - 1));
        let flowing = inner.busy.iter().take(LANES_SEEN).filter(|instance| instance.flows() && !instance.tap.prints());
        // Only the first of them, so that the others come to rest.
        let able = flowing.take(self.lanes() as usize);
        let instance = able.max_by_key(|instance| places(instance)).filter(|instance| places(instance) > 0)?.clone();
        inner.all.get_mut(&instance.id)?.active += 1;
        inner.active += 1;
        inner.peak = inner.peak.max(inner.active);
        Some(Lease { pool: self.clone(), instance, first: false, behind: true, call: None, finished: false })
    }

    /// `waited`: the lease is for somebody who waited for it; only such a call can have had to wait for a start.
    fn take_open(self: &Arc<Self>, inner: &mut Inner, waited: bool) -> Option<Lease> {
        if inner.active >= self.calls() {
            return None;
        }
        while let Some(instance) = inner.open.pop() {
            let Some(entry) = inner.all.get_mut(&instance.id) else { continue };
            if !instance.alive() || instance.process.is_over() {
                continue;
            }
            if entry.frozen {
                entry.frozen = false;
                instance.process.thaw();
            }
            entry.active += 1;
            entry.busy_since = Instant::now();
            if entry.active == 1 {
                inner.busy.push(instance.clone());
            }
            if entry.active < self.per_instance() {
                inner.open.push(instance.clone());
            }
            inner.active += 1;
            inner.peak = inner.peak.max(inner.active);
            let first = waited && instance.served() == 0;
            instance.expect();
            return Some(Lease { pool: self.clone(), instance, first, behind: false, call: None, finished: false });
        }
        None
    }

    /// Returns an instance to the shelf, or ends it when its version has been replaced; whoever waits gets it first.
    fn give_back(self: &Arc<Self>, instance: &Arc<Instance>, run: Option<Duration>) {
        let mut inner = self.lock();
        let now = Instant::now();
        if let Some(run) = run {
            inner.runs.note(run, now);
        }
        inner.last_done = Some(now);
        let Some(entry) = inner.all.get_mut(&instance.id) else { return };
        entry.active = entry.active.saturating_sub(1);
        entry.idle_since = now;
        let was_full = entry.active + 1 == self.per_instance();
        if entry.active == 0 {
            inner.busy.retain(|busy| busy.id != instance.id);
        }
        inner.active = inner.active.saturating_sub(1);
        if was_full {
            inner.open.push(instance.clone());
        } else if let Some(at) = inner.open.iter().rposition(|open| open.id == instance.id) {
            let top = inner.open.remove(at);
            inner.open.push(top);
        }
        self.serve_waiting(inner);
    }

    /// Nobody waits for this call any more. Once it is answered the instance is as good as before; when that takes longer
    /// than a moment, it ends. (Not at once: the next call may have begun on it.)
    async fn abandon(self: &Arc<Self>, instance: &Arc<Instance>, id: &RequestId) {
        let until = Instant::now() + instance::STUCK;
        while instance.has(id) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answered = !instance.has(id) && instance.alive();
        let text = format!("offshoot: the caller of {id} went away");
        instance.tap.finish(id, self.system.given_up(id, text));
        if answered {
            self.give_back(instance, None);
        } else {
            instance.kill();
            self.forget(instance);
        }
    }

    /// Takes a dead or dying instance off the shelf, and sees whether somebody waits who needs another.
    fn forget(self: &Arc<Self>, instance: &Arc<Instance>) {
        let mut inner = self.lock();
        let Some(entry) = inner.all.remove(&instance.id) else { return };
        inner.active = inner.active.saturating_sub(entry.active);
        inner.open.retain(|open| open.id != instance.id);
        inner.busy.retain(|busy| busy.id != instance.id);
        self.serve_waiting(inner);
        self.start_what_is_wanted();
    }

    /// Hands open instances to those who wait. Grants leave outside the lock: a lost one comes back through `give_back`.
    fn serve_waiting(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        let mut grants = Vec::new();
        while let Some(front) = inner.waiting.front() {
            if front.is_closed() {
                inner.waiting.pop_front();
                continue;
            }
            let alone = front.alone;
            let taken = if alone { self.take_open(&mut inner, true) } else { self.take(&mut inner, true) };
            let Some(lease) = taken else { break };
            let Some(waiter) = inner.waiting.pop_front() else { break };
            grants.push((waiter, lease));
        }
        drop(inner);
        for (waiter, lease) in grants {
            // A waiter that gave up drops the lease unused, which gives the instance back.
            waiter.tell.send(Ok(lease)).ok();
        }
        self.end_idle_if_retired();
    }

    /// Nobody will ask a replaced version again: once nobody waits, its idle instances end.
    fn end_idle_if_retired(&self) {
        let ended = {
            let mut inner = self.lock();
            inner.waiting.retain(|w| !w.is_closed());
            if !inner.retired || !inner.waiting.is_empty() {
                return;
            }
            inner.open.clear();
            let idle: Vec<u64> = inner.all.iter().filter(|(_, e)| e.active == 0).map(|(id, _)| *id).collect();
            idle.into_iter().filter_map(|id| inner.all.remove(&id)).collect::<Vec<_>>()
        };
        ended.iter().for_each(|entry| entry.instance.process.retire());
    }

    fn view(&self, inner: &Inner) -> PoolView {
        // However long the last starts took: one is tried before those who wait give up.
        let patience = Duration::from_millis(self.shared.limits.queue_wait_ms) / 4;
        PoolView {
            instances: inner.all.len() as u32,
            starting: inner.starting,
            waiting: inner.waiting.iter().filter(|w| !w.is_closed()).count() as u32,
            per_instance: self.per_instance(),
            limit: self.limit(),
            run: inner.runs.shortest().max(inner.youngest_call()),
            start: Duration::from_nanos(self.start_ns.load(Ordering::Relaxed)).min(patience),
        }
    }

    /// Begins as many starts as the policy wants.
    fn start_what_is_wanted(self: &Arc<Self>) {
        let wanted = {
            let mut inner = self.lock();
            // Calls that wait beside an idle instance wait by choice.
            let idle = !inner.open.is_empty();
            let wanted = if idle || inner.waiting.is_empty() { 0 } else { policy::starts_wanted(&self.view(&inner)) };
            inner.starting += wanted;
            wanted
        };
        for _ in 0..wanted {
            tokio::spawn(self.clone().start_for_waiting());
        }
    }

    /// One start on behalf of whoever waits; not done when, once it is its turn, nobody waits any more.
    async fn start_for_waiting(self: Arc<Self>) {
        let permit = self.shared.start_permits.acquire().await;
        let needed = {
            let mut inner = self.lock();
            inner.waiting.retain(|w| !w.is_closed());
            // What was wanted when this start was asked for may be known better by now.
            let view = PoolView { starting: inner.starting.saturating_sub(1), ..self.view(&inner) };
            !inner.waiting.is_empty() && inner.open.is_empty() && policy::starts_wanted(&view) > 0
        };
        let outcome = if needed { Some(self.start_one(permit.ok()).await) } else { None };
        self.settle_start(outcome);
    }

    fn settle_start(self: &Arc<Self>, outcome: Option<Result<Arc<Instance>, Refusal>>) {
        let mut inner = self.lock();
        inner.starting = inner.starting.saturating_sub(1);
        match outcome {
            None => drop(inner),
            Some(Ok(instance)) => {
                if !instance.alive() {
                    drop(inner);
                    instance.kill();
                } else {
                    let entry = Entry {
                        instance: instance.clone(),
                        active: 0,
                        busy_since: Instant::now(),
                        idle_since: Instant::now(),
                        frozen: false,
                    };
                    inner.all.insert(instance.id, entry);
                    // Below the others: a call that need not wait goes to an instance that has proven itself warm.
                    inner.open.insert(0, instance);
                    self.serve_waiting(inner);
                }
            }
            Some(Err(refusal)) => {
                let waiter = loop {
                    match inner.waiting.pop_front() {
                        Some(waiter) if waiter.is_closed() => {}
                        other => break other,
                    }
                };
                drop(inner);
                if let Some(waiter) = waiter {
                    waiter.tell.send(Err(refusal)).ok();
                }
            }
        }
        self.start_what_is_wanted();
    }

    fn note_start(&self, start: Duration) {
        blend(&self.start_ns, start);
    }

    /// Keeps this many instances from now on, however long they are idle. Answers how many they were.
    pub fn set_floor(&self, count: u32) -> u32 {
        self.floor.swap(count, Ordering::Relaxed)
    }

    /// Starts instances until this many are there, for pre-warming; waits for none of them.
    pub fn warm(self: &Arc<Self>, wanted: u32) {
        let missing = {
            let mut inner = self.lock();
            let there = inner.all.len() as u32 + inner.starting;
            let missing = wanted.min(self.limit()).saturating_sub(there);
            let missing = if inner.retired { 0 } else { missing };
            inner.starting += missing;
            missing
        };
        for _ in 0..missing {
            let pool = self.clone();
            tokio::spawn(async move {
                let permit = pool.shared.start_permits.acquire().await;
                let outcome = pool.start_one(permit.ok()).await;
                // Nobody waits for a pre-warmed start: its failure is told to the next caller by that caller's own start.
                pool.settle_start(outcome.ok().map(Ok));
            });
        }
    }

    /// Replaced or removed: idle instances end now, busy ones when they are done. Calls already waiting are still served.
    pub fn retire(self: &Arc<Self>) {
        self.lock().retired = true;
        self.end_idle_if_retired();
        let pool = self.clone();
        tokio::spawn(async move { pool.snapshot.lock().await.forget() });
    }

    /// Ends everything, busy or not.
    pub fn kill_all(&self) {
        let all: Vec<_> = {
            let mut inner = self.lock();
            inner.retired = true;
            inner.open.clear();
            inner.busy.clear();
            inner.waiting.clear();
            inner.all.drain().map(|(_, entry)| entry.instance).collect()
        };
        all.iter().for_each(|instance| instance.kill());
    }

    /// Invocations that run here now.
    pub fn active(&self) -> u32 {
        self.lock().active
    }

    /// Instances: busy, idle, starting.
    pub fn counts(&self) -> (u32, u32, u32) {
        let inner = self.lock();
        let busy = inner.all.values().filter(|e| e.active > 0).count() as u32;
        (busy, inner.all.len() as u32 - busy, inner.starting)
    }

    /// Process ids of the live instances, for benchmarks.
    pub fn pids(&self) -> Vec<u32> {
        let all: Vec<_> = self.lock().all.values().map(|e| e.instance.clone()).collect();
        all.iter().filter_map(|i| i.process.pid()).collect()
    }

    /// The function template, when there is a live one.
    pub async fn live_snapshot(&self) -> Option<Arc<Template>> {
        self.snapshot.lock().await.live()
    }
}

/// An exponentially weighted mean with a memory of about eight values; 0 means that nothing is known.
fn blend(mean: &AtomicU64, value: Duration) {
    let value = value.as_nanos().min(u128::from(u64::MAX >> 4)) as u64;
    let old = mean.load(Ordering::Relaxed);
    let new = if old == 0 { value } else { old - old / 8 + value / 8 };
    mean.store(new.max(1), Ordering::Relaxed);
}
