//! One machine that serves functions: puts registry, pools, logs and metrics together, and keeps house.
//!
//! It never speaks HTTP, and never reads a setting from anywhere but what it is given.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind, FunctionName, Invocation, Limits, Outcome, RuntimeName};
use offshoot_sandbox::process::Without;
use offshoot_sandbox::{Cgroups, Driver, DriverConfig};

use crate::assets;
use crate::catalog::{Catalog, Made};
use crate::durable::{self, Durable};
use crate::invoker::{Invoker, Streamed};
use crate::keys::Keyring;
use crate::observe::{LogStore, Metrics};
use crate::pool::{PoolSettings, Shared};
use crate::queue::{Carrier, NodeHost, Opened, Pace, Queue, QueueLimits, QueueMetrics};
use crate::registry::{DeployRequest, Registry, Settings, Version};
use crate::roles::Roles;
use crate::runtime::{RuntimeOptions, RuntimeTable};
use crate::sources::{Parts, Remote, SourceMetrics, Sources};
use crate::templates::Templates;

/// What a node is made with.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Limits.
    pub limits: Limits,
    /// How instances are run.
    pub pool: PoolSettings,
    /// Where to look for languages.
    pub runtimes: RuntimeOptions,
    /// The program that becomes the nursery.
    pub nursery: PathBuf,
    /// User ids for boxes.
    pub uids: Range<u32>,
    /// The server has no privilege of its own.
    pub rootless: bool,
    /// Features that the operator accepts to do without.
    pub without: Without,
    /// Where control groups are made, when not found by itself.
    pub cgroup_root: Option<PathBuf>,
    /// Language templates to boot at start.
    pub warm: Warm,
    /// How asynchronous invocations are worked off.
    pub queue: QueueSettings,
    /// What reaches the queues and streams of event source mappings.
    pub remote: Arc<dyn Remote>,
}

/// How asynchronous invocations are worked off.
#[derive(Clone)]
pub struct QueueSettings {
    /// How long is waited between attempts.
    pub pace: Pace,
    /// What carries outcomes out of this server.
    pub carrier: Arc<dyn Carrier>,
}

/// Which language templates are booted at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Warm {
    /// Those that a deployed function uses, when it is deployed and at the server's start.
    #[default]
    Used,
    /// None: at the first start of each.
    None,
    /// Every version present.
    All,
    /// These.
    These(Vec<RuntimeName>),
}

/// Whether a function is loaded, once, before its deployment is answered, so that whoever deploys it is told what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Only one that is to have a template.
    No,
    /// It is, and deployed whatever comes of that.
    Tried,
    /// It is, and not deployed if that fails: what was in force before stays so.
    Required,
}

/// What came of a deployment or a change.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// The version that is current now.
    pub version: Arc<Version>,
    /// Whether the function has been loaded and initialised.
    pub loaded: bool,
    /// What was wrong with that. It does not keep the function from being deployed.
    pub warning: Option<String>,
}

/// A node.
pub struct Node {
    shared: Arc<Shared>,
    invoker: Arc<Invoker>,
    catalog: Arc<Catalog>,
    warm: Warm,
    queue: Queue,
    sources: Sources,
    durable: Durable,
    keys: Keyring,
    roles: Roles,
    /// Deployments and changes that have begun and not ended.
    changing: AtomicUsize,
}

/// Counts a change as under way until it is dropped.
struct Changing<'a>(&'a AtomicUsize);

impl<'a> Changing<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Changing(count)
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How often the house is kept.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two looks at idle instances and two writes of counters.
const SLOW: u32 = 4;
/// Ticks between two predictions.
const PREDICT: u32 = 40;
/// Ticks between two collections of unused code.
const COLLECT: u32 = 240;

impl Node {
    /// Starts a node. Must be called inside a tokio runtime.
    pub fn start(config: NodeConfig) -> Result<Arc<Self>, Error> {
        let NodeConfig {
            data_dir,
            limits,
            pool,
            runtimes,
            nursery,
            uids,
            rootless,
            without,
            cgroup_root,
            warm,
            queue,
            remote,
        } = config;
        make_data_dir(&data_dir)?;
        let runtimes = RuntimeTable::start(runtimes);
        let registry = Registry::open(&data_dir, limits.clone(), runtimes.clone())?;
        // The queue's file is looked at while the rest starts: on a new one the disk has several things to do.
        let (queue_dir, pace) = (data_dir.clone(), queue.pace);
        let executions_dir = data_dir.clone();
        let opening = std::thread::spawn(move || {
            Opened::open(&queue_dir, pace).and_then(|queue| Ok((queue, durable::Opened::open(&executions_dir)?)))
        });
        let logs = LogStore::open(&data_dir.join("logs"), limits.function_log_bytes)?;
        let mut metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
        let queue_metrics = QueueMetrics::default();
        metrics.extend(|r| queue_metrics.register(r));
        let source_metrics = SourceMetrics::default();
        metrics.extend(|r| source_metrics.register(r));
        let metrics = Arc::new(metrics);
        metrics.set_concurrency_limit(u64::from(limits.concurrency));
        let runtime_dir = assets::lay_out(&data_dir)?;
        let id = server_id(&data_dir);
        let unavailable = |e: offshoot_sandbox::SandboxError| {
            Error::new(ErrorKind::SandboxUnavailable, format!("boxes cannot be made here: {e}: run offshoot doctor"))
        };
        let (cgroups, missing) = Cgroups::open(&id, cgroup_root.as_deref()).map_err(unavailable)?;
        if !cgroups.limits() && !without.cgroup {
            let why = missing.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; ");
            let cure = "to run without limits on memory and processes, say so: allow_degraded = [\"cgroup\"]";
            return Err(Error::new(ErrorKind::SandboxUnavailable, format!("{why}; {cure}")));
        }
        let driver = DriverConfig {
            nursery,
            code_dir: registry.code_dir().to_owned(),
            uids,
            rootless,
            without,
            max_body: limits.reply_bytes as usize,
        };
        let driver = Driver::start(driver, cgroups).map_err(unavailable)?;
        let templates = Templates::new(driver.clone(), runtime_dir, pool.spares);
        let queue_limits = QueueLimits::from(&limits);
        let shared = Shared::new(driver, templates, runtimes, registry, Arc::new(logs), metrics, limits, pool);
        let invoker = Arc::new(Invoker::new(shared.clone()));
        let (catalog, made) = Catalog::new(shared.registry.clone(), shared.settings.place.clone());
        let lost = |_| Error::new(ErrorKind::Internal, "the queue could not be opened: see the server's log");
        let (opened, executions) = opening.join().map_err(lost)??;
        let place = shared.settings.place.clone();
        let own = durable::NodeHost {
            invoker: invoker.clone(),
            registry: shared.registry.clone(),
            catalog: catalog.clone(),
            place,
        };
        // Half of what the server runs at once stays for those who call plain functions.
        let durable = Durable::start(executions, Arc::new(own), (shared.limits.concurrency / 2).clamp(1, 256));
        shared.durable.set(durable.gate()).ok();
        let host = Arc::new(NodeHost {
            invoker: invoker.clone(),
            registry: shared.registry.clone(),
            catalog: catalog.clone(),
            durable: durable.clone(),
        });
        let parts = Parts {
            host: host.clone(),
            remote,
            carrier: queue.carrier.clone(),
            catalog: catalog.clone(),
            metrics: source_metrics,
            event_bytes: shared.limits.request_bytes as usize,
        };
        let queue = Queue::start(opened, queue_limits, host, queue.carrier, queue_metrics);
        let sources = Sources::start(&data_dir, parts);
        let (keys, roles) = (Keyring::open(&data_dir)?, Roles::open(&data_dir)?);
        let node = Arc::new(Node {
            shared,
            invoker,
            catalog,
            warm,
            queue,
            sources,
            durable,
            keys,
            roles,
            changing: AtomicUsize::new(0),
        });
        tokio::spawn(make_ready_in_turn(Arc::downgrade(&node), made));
        tokio::spawn(keep_house(Arc::downgrade(&node)));
        tokio::spawn(warm_templates(node.clone()));
        Ok(node)
    }

    /// The control plane's reading side.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// What AWS's dialect knows of functions besides what runs.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Logs.
    pub fn logs(&self) -> &Arc<LogStore> {
        &self.shared.logs
    }

    /// Metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Limits.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Language versions present.
    pub fn runtimes(&self) -> &Arc<RuntimeTable> {
        &self.shared.runtimes
    }

    /// Asynchronous invocations.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Durable executions.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Access keys.
    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// Roles that clients wrote.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// What all pools share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The data plane.
    pub fn invoker(&self) -> &Arc<Invoker> {
        &self.invoker
    }

    /// Deploys, and returns when the function's template is there.
    pub async fn deploy(&self, request: DeployRequest, load: Load) -> Result<Deployed, Error> {
        let _changing = Changing::begin(&self.changing);
        let version = match load {
            Load::Required => self.deploy_if_it_loads(request).await?,
            Load::No | Load::Tried => self.shared.registry.deploy(request).await?,
        };
        self.invoker.changed(&version.config.name);
        Ok(self.make_ready(version, load != Load::No).await)
    }

    async fn deploy_if_it_loads(&self, request: DeployRequest) -> Result<Arc<Version>, Error> {
        let name = request.name.clone();
        let (invoker, runtime) = (self.invoker.clone(), tokio::runtime::Handle::current());
        let try_out = move |version| runtime.block_on(invoker.try_out(version));
        let done = self.shared.registry.deploy_if(request, try_out).await;
        if done.is_err() && self.shared.registry.resolve(&name).is_none() {
            // What it printed and counted while it was tried is nobody's.
            self.shared.metrics.remove(&name);
            self.shared.logs.remove(&name);
        }
        done
    }

    /// Changes a function's configuration.
    pub async fn configure(&self, name: &FunctionName, settings: Settings) -> Result<Deployed, Error> {
        let _changing = Changing::begin(&self.changing);
        let version = self.shared.registry.configure(name, settings).await?;
        self.invoker.changed(name);
        Ok(self.make_ready(version, false).await)
    }

    /// Boots a language's template if it is not there yet. A language that cannot be cloned is known by then, too.
    async fn warm_template(&self, name: RuntimeName) {
        if let Ok(resolved) = self.shared.runtimes.resolve(name) {
            self.shared.templates.get(&resolved.actual).await.ok();
        }
    }

    /// What comes after a change: templates that the function will need, made before the deployment is answered.
    async fn make_ready(&self, version: Arc<Version>, load: bool) -> Deployed {
        if self.warm == Warm::Used {
            self.warm_template(version.config.runtime).await;
        }
        if !version.config.snapshot && !load {
            return Deployed { version, loaded: false, warning: None };
        }
        let warning = self.invoker.warm(&version.config.name).await.err().map(|e| e.message);
        Deployed { version, loaded: warning.is_none(), warning }
    }

    /// Removes a function, its logs and its counters.
    pub async fn delete(&self, name: &FunctionName) -> Result<(), Error> {
        self.shared.registry.delete(name).await?;
        self.invoker.changed(name);
        self.shared.metrics.remove(name);
        self.shared.logs.remove(name);
        Ok(())
    }

    /// Calls a function; of a durable one, begins an execution and waits for its end.
    pub async fn invoke(&self, mut invocation: Invocation<Bytes>) -> Result<Outcome<Bytes>, Error> {
        if self.durable.concerns(&invocation.function) {
            return Box::pin(self.durable.call(invocation, None))
                .await
                .map(|(_, outcome)| outcome)
                .map_err(Error::from);
        }
        self.catalog.count_run(&mut invocation)?;
        self.invoker.invoke(invocation).await
    }

    /// Calls a function and takes its answer as it comes, where it comes in pieces.
    pub async fn invoke_streaming(&self, mut invocation: Invocation<Bytes>) -> Result<Streamed, Error> {
        if self.durable.concerns(&invocation.function) {
            return self.invoke(invocation).await.map(Streamed::Whole);
        }
        self.catalog.count_run(&mut invocation)?;
        self.invoker.invoke_streaming(invocation).await
    }

    /// Takes no new calls and waits until the running ones have ended, at most this long. Returns how many were left.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.sources.stop();
        self.queue.close();
        self.durable.close();
        self.invoker.drain();
        let began = Instant::now();
        // What has begun to be deployed is deployed, and whoever waits for that is answered.
        while self.invoker.in_flight() + self.changing.load(Ordering::Acquire) > 0 && began.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.queue.settled(limit.saturating_sub(began.elapsed())).await;
        self.sources.settled(limit.saturating_sub(began.elapsed())).await;
        self.durable.settled(limit.saturating_sub(began.elapsed())).await;
        self.invoker.in_flight()
    }

    /// Ends everything and leaves nothing behind. Blocks for as long as processes take to die.
    pub fn shut_down(&self) {
        self.queue.abandon();
        self.durable.abandon();
        for pool in self.shared.living_pools() {
            pool.kill_all();
        }
        self.shared.driver.shut_down();
        write_counters(&self.shared.registry);
        self.shared.logs.flush();
        self.shared.driver.cgroups().remove_all();
    }

    fn count(&self) {
        let (mut busy, mut idle, mut starting) = (0u64, 0u64, 0u64);
        for pool in self.shared.living_pools() {
            let (b, i, s) = pool.counts();
            busy += u64::from(b);
            idle += u64::from(i);
            starting += u64::from(s);
        }
        self.shared.metrics.set_concurrency(busy, idle, starting);
    }

    fn collect(self: &Arc<Self>) {
        let pools = self.shared.living_pools();
        let stands_on = |p: &Arc<crate::pool::Pool>| [Some(p.version.code.clone()), p.version.opt.clone()];
        let in_use = pools.iter().flat_map(stands_on).flatten().collect();
        let registry = self.shared.registry.clone();
        tokio::task::spawn_blocking(move || match registry.collect_garbage(&in_use) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "unused code was removed"),
            Err(error) => tracing::warn!(%error, "unused code could not be removed"),
        });
    }
}

/// Makes ready what the catalogue has changed, and tells it when that is done.
async fn make_ready_in_turn(node: std::sync::Weak<Node>, mut made: tokio::sync::mpsc::UnboundedReceiver<Made>) {
    while let Some(change) = made.recv().await {
        let Some(node) = node.upgrade() else { return };
        tokio::spawn(async move {
            node.invoker.changed(&change.name);
            let catalog = node.catalog.clone();
            let version = node.shared.registry.resolve(&change.name).filter(|v| v.revision == change.revision);
            let ready = tokio::spawn(async move {
                match version {
                    Some(version) => node.make_ready(version, false).await.warning,
                    None => None,
                }
            });
            // Also one that was lost has ended: a function must not be pending for ever.
            let failed = ready.await.unwrap_or_else(|lost| Some(format!("it could not be made ready: {lost}")));
            catalog.settled(&change, failed);
        });
    }
}

fn write_counters(registry: &Registry) {
    if let Err(error) = registry.flush_stats() {
        tracing::error!(%error, cause = ?error.source, "the counters could not be written; they are kept and tried again");
    }
}

async fn keep_house(node: std::sync::Weak<Node>) {
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn = 0u32;
    loop {
        clock.tick().await;
        let Some(node) = node.upgrade() else { return };
        turn = turn.wrapping_add(1);
        node.shared.find_room();
        if turn.is_multiple_of(SLOW) {
            node.count();
            let now = Instant::now();
            for pool in node.shared.living_pools() {
                pool.tick(now);
            }
            node.invoker.hold_ready(&node.catalog.all_provisioned(), turn.is_multiple_of(PREDICT));
            let registry = node.shared.registry.clone();
            tokio::task::spawn_blocking(move || write_counters(&registry));
        }
        if turn.is_multiple_of(PREDICT) && node.shared.settings.prewarm {
            let room = node.shared.memory_used.load(Ordering::Relaxed) < node.shared.memory_budget / 2;
            node.invoker.pools().iter().for_each(|pool| pool.predict(room));
        }
        if turn.is_multiple_of(COLLECT) {
            node.collect();
        }
    }
}

async fn warm_templates(node: Arc<Node>) {
    node.shared.runtimes.ready().await;
    let wanted: Vec<RuntimeName> = match &node.warm {
        Warm::None => Vec::new(),
        Warm::These(names) => names.clone(),
        Warm::All => node.shared.runtimes.installed().iter().map(|i| i.name).collect(),
        Warm::Used => node.shared.registry.list().iter().map(|v| v.config.runtime).collect(),
    };
    for name in BTreeSet::from_iter(wanted) {
        node.warm_template(name).await;
    }
}

fn make_data_dir(dir: &std::path::Path) -> Result<(), Error> {
    let shown = dir.display();
    if let Some(file) = dir.ancestors().find(|above| above.exists()).filter(|above| !above.is_dir()) {
        let text = format!(
            "the data directory {shown} cannot be made: {} is a file; choose another with data_dir",
            file.display()
        );
        return Err(Error::new(ErrorKind::Store, text));
    }
    // Code and data of users are nobody else's on the machine; boxes are shown theirs by root.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| {
        let text = format!(
            "the data directory {shown} cannot be made: check who may write there, or choose another with data_dir"
        );
        Error::new(ErrorKind::Store, text).caused_by(e)
    })
}

/// A name for this server's control groups: the same after a restart, different for another data directory.
fn server_id(data_dir: &std::path::Path) -> String {
    use sha2::{Digest, Sha256};
    let path = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    format!("s{}", digest.iter().take(6).map(|b| format!("{b:02x}")).collect::<String>())
}
