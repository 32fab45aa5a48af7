//! The numbers of a node in Prometheus' text form: OpenTelemetry's FaaS metrics under their Prometheus names, and
//! Offshoot's own with the prefix `offshoot_`.
//!
//! Recording touches counters that were looked up once; labels come from bounded sets, and a deleted function takes its
//! own with it. Request ids never become labels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use offshoot_model::invocation::FailureCause;
use offshoot_model::{Answer, FunctionName, Outcome, StartKind};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The buckets that OpenTelemetry's FaaS conventions name for durations, in seconds.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Starts and waits are far shorter than the handlers those buckets were made for.
const SHORT_SECONDS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Memory in bytes: 1 MiB to 32 GiB, doubling.
const FIRST_MEMORY_BUCKET: u64 = 1 << 20;
const MEMORY_BUCKETS: u32 = 16;

/// Every failure cause, in the order of the error counters.
const CAUSES: [(FailureCause, &str); 8] = [
    (FailureCause::Handler, "handler"),
    (FailureCause::Init, "init"),
    (FailureCause::Timeout, "timeout"),
    (FailureCause::OutOfMemory, "out-of-memory"),
    (FailureCause::Exit, "exit"),
    (FailureCause::ReplyTooLarge, "reply-too-large"),
    (FailureCause::Unserialisable, "unserialisable"),
    (FailureCause::Protocol, "protocol"),
];

/// Why an invocation was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttle {
    /// The function's invocations per second.
    Rate,
    /// The function's own concurrency limit.
    FunctionConcurrency,
    /// The server's concurrency limit.
    ServerConcurrency,
    /// No instance became free or could be started in time.
    QueueWait,
}

impl Throttle {
    const ALL: [Throttle; 4] =
        [Throttle::Rate, Throttle::FunctionConcurrency, Throttle::ServerConcurrency, Throttle::QueueWait];

    fn name(self) -> &'static str {
        match self {
            Throttle::Rate => "rate",
            Throttle::FunctionConcurrency => "function-concurrency",
            Throttle::ServerConcurrency => "server-concurrency",
            Throttle::QueueWait => "queue-wait",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFunction {
    faas_name: Arc<str>,
    faas_trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfError {
    faas_name: Arc<str>,
    faas_trigger: &'static str,
    error_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    kind: &'static str,
    phase: &'static str,
}

#[derive(Clone)]
struct Buckets(Vec<f64>);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Histograms<L> = Family<L, Histogram, Buckets>;

/// The metrics of one function, looked up once and held: recording takes no look-up.
pub struct FunctionMetrics {
    name: Arc<str>,
    removed: AtomicBool,
    succeeded: Counter,
    cold_starts: Counter,
    timeouts: Counter,
    errors: [OnceLock<Counter>; CAUSES.len()],
    error_family: Family<OfError, Counter>,
    invoke_duration: Histogram,
    init_duration: Histogram,
    memory: Histogram,
    queue_wait: Histogram,
}

/// All metrics of a node.
pub struct Metrics {
    registry: Registry,
    handles: RwLock<HashMap<FunctionName, Arc<FunctionMetrics>>>,
    /// Making and removing handles is one at a time, so that the families hold exactly the functions that `handles` does.
    changing: Mutex<()>,
    invocations: Family<OfFunction, Counter>,
    cold_starts: Family<OfFunction, Counter>,
    timeouts: Family<OfFunction, Counter>,
    errors: Family<OfError, Counter>,
    invoke_duration: Histograms<OfFunction>,
    init_duration: Histograms<OfFunction>,
    memory: Histograms<OfFunction>,
    queue_wait: Histogram,
    throttles: [Counter; Throttle::ALL.len()],
    busy: Gauge,
    idle: Gauge,
    starting: Gauge,
    limit: Gauge,
    starts: Family<OfKind, Counter>,
    start_duration: Histograms<OfPhase>,
}

impl Metrics {
    /// Metrics of a node of this version.
    pub fn new(version: &str) -> Metrics {
        let seconds = || Histograms::new_with_constructor(Buckets(SECONDS.into()));
        let memory_buckets = (0..MEMORY_BUCKETS).map(|i| (FIRST_MEMORY_BUCKET << i) as f64).collect();
        let throttle_family = Family::<OfReason, Counter>::default();
        let state_family = Family::<OfState, Gauge>::default();
        let state = |state| state_family.get_or_create_owned(&OfState { state });
        let mut metrics = Metrics {
            registry: Registry::default(),
            handles: RwLock::default(),
            changing: Mutex::default(),
            invocations: Family::default(),
            cold_starts: Family::default(),
            timeouts: Family::default(),
            errors: Family::default(),
            invoke_duration: seconds(),
            init_duration: seconds(),
            memory: Histograms::new_with_constructor(Buckets(memory_buckets)),
            queue_wait: Histogram::new(SHORT_SECONDS),
            throttles: Throttle::ALL.map(|t| throttle_family.get_or_create_owned(&OfReason { reason: t.name() })),
            busy: state("busy"),
            idle: state("idle"),
            starting: state("starting"),
            limit: Gauge::default(),
            starts: Family::default(),
            start_duration: Histograms::new_with_constructor(Buckets(SHORT_SECONDS.into())),
        };
        metrics.register_functions();
        metrics.register_node(version, throttle_family, state_family);
        metrics
    }

    fn register_functions(&mut self) {
        let r = &mut self.registry;
        r.register("faas_invocations", "Successful invocations", self.invocations.clone());
        r.register("faas_errors", "Invocations that failed, by cause", self.errors.clone());
        r.register("faas_timeouts", "Invocations that ran into their time limit", self.timeouts.clone());
        r.register("faas_coldstarts", "Invocations that had to start an instance", self.cold_starts.clone());
        let help = "Time of the handler";
        r.register_with_unit("faas_invoke_duration", help, Unit::Seconds, self.invoke_duration.clone());
        let help = "Time of loading and initialising a function";
        r.register_with_unit("faas_init_duration", help, Unit::Seconds, self.init_duration.clone());
        let help = "Highest memory of the instance that served an invocation";
        r.register_with_unit("faas_mem_usage", help, Unit::Bytes, self.memory.clone());
    }

    fn register_node(&mut self, version: &str, throttles: Family<OfReason, Counter>, states: Family<OfState, Gauge>) {
        let r = &mut self.registry;
        r.register("offshoot_throttles", "Invocations refused, by reason", throttles);
        r.register("offshoot_concurrency", "Instances, by state", states);
        r.register("offshoot_concurrency_limit", "Most invocations running at once", self.limit.clone());
        let help = "Time that invocations waited for an instance";
        r.register_with_unit("offshoot_queue_wait", help, Unit::Seconds, self.queue_wait.clone());
        r.register("offshoot_env_starts", "Instances started, by how they came to be", self.starts.clone());
        let help = "Time of starting an instance, by how it came to be and by phase";
        r.register_with_unit("offshoot_start_duration", help, Unit::Seconds, self.start_duration.clone());
        r.register("offshoot_build", "The build that is running", Info::new(vec![("version", version.to_owned())]));
        r.register_collector(Box::new(Process { started: SystemTime::now() }));
    }

    /// Adds metrics of another part of the node, before the node starts to serve.
    pub fn extend(&mut self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry);
    }

    /// The handle of one function. Keep it: recording on it is what is cheap.
    pub fn function(&self, name: &FunctionName) -> Arc<FunctionMetrics> {
        if let Some(handle) = self.handles.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(handle);
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(handles.entry(name.clone()).or_insert_with(|| Arc::new(self.make(name))))
    }

    fn make(&self, name: &FunctionName) -> FunctionMetrics {
        let name: Arc<str> = Arc::from(name.as_str());
        let labels = labels(&name);
        FunctionMetrics {
            removed: AtomicBool::new(false),
            succeeded: self.invocations.get_or_create_owned(&labels),
            cold_starts: self.cold_starts.get_or_create_owned(&labels),
            timeouts: self.timeouts.get_or_create_owned(&labels),
            errors: Default::default(),
            error_family: self.errors.clone(),
            invoke_duration: self.invoke_duration.get_or_create_owned(&labels),
            init_duration: self.init_duration.get_or_create_owned(&labels),
            memory: self.memory.get_or_create_owned(&labels),
            queue_wait: self.queue_wait.clone(),
            name,
        }
    }

    /// Forgets a deleted function. Handles that are still held record into nothing.
    pub fn remove(&self, name: &FunctionName) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(handle) = self.handles.write().unwrap_or_else(PoisonError::into_inner).remove(name) else { return };
        handle.removed.store(true, Ordering::SeqCst);
        let of = labels(&handle.name);
        for counters in [&self.invocations, &self.cold_starts, &self.timeouts] {
            counters.remove(&of);
        }
        for histograms in [&self.invoke_duration, &self.init_duration, &self.memory] {
            histograms.remove(&of);
        }
        for (_, error_type) in CAUSES {
            self.errors.remove(&handle.error_labels(error_type));
        }
    }

    /// Records an answered invocation: `function(name).record(outcome)`, for callers that hold no handle.
    pub fn record<B>(&self, name: &FunctionName, outcome: &Outcome<B>) {
        self.function(name).record(outcome);
    }

    /// Records a refused invocation.
    pub fn throttled(&self, reason: Throttle) {
        self.throttles[reason as usize].inc();
    }

    /// Records that an instance was started, for an invocation or ahead of one.
    pub fn started(&self, kind: StartKind, start: Duration, init: Duration) {
        let kind = kind.name();
        self.starts.get_or_create(&OfKind { kind }).inc();
        self.start_duration.get_or_create(&OfPhase { kind, phase: "start" }).observe(start.as_secs_f64());
        self.start_duration.get_or_create(&OfPhase { kind, phase: "init" }).observe(init.as_secs_f64());
    }

    /// How many instances are in which state now.
    pub fn set_concurrency(&self, busy: u64, idle: u64, starting: u64) {
        for (gauge, value) in [(&self.busy, busy), (&self.idle, idle), (&self.starting, starting)] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// The limit that `set_concurrency` is to be compared with.
    pub fn set_concurrency_limit(&self, limit: u64) {
        self.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Everything in OpenMetrics' text form (`application/openmetrics-text; version=1.0.0; charset=utf-8`).
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        if let Err(e) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::error!(error = %e, "metrics could not be written");
        }
        text
    }
}

fn labels(name: &Arc<str>) -> OfFunction {
    OfFunction { faas_name: Arc::clone(name), faas_trigger: "http" }
}

impl FunctionMetrics {
    /// Records an answered invocation.
    pub fn record<B>(&self, outcome: &Outcome<B>) {
        let phases = &outcome.phases;
        self.invoke_duration.observe(phases.run.as_secs_f64());
        self.queue_wait.observe(phases.queue.as_secs_f64());
        if outcome.report.peak_memory > 0 {
            self.memory.observe(outcome.report.peak_memory as f64);
        }
        if outcome.start != StartKind::Warm {
            self.cold_starts.inc();
            self.init_duration.observe(phases.init.as_secs_f64());
        }
        match &outcome.result {
            Answer::Reply { .. } => {
                self.succeeded.inc();
            }
            Answer::Failed(error) => self.failed(error.cause),
        }
    }

    fn failed(&self, cause: FailureCause) {
        if cause == FailureCause::Timeout {
            self.timeouts.inc();
        }
        let Some(at) = CAUSES.iter().position(|(c, _)| *c == cause) else { return };
        let counter = match self.errors[at].get() {
            Some(counter) => counter,
            None => {
                let of = self.error_labels(CAUSES[at].1);
                let counter = self.errors[at].get_or_init(|| self.error_family.get_or_create_owned(&of));
                // A handle that outlived its function must not bring its labels back.
                if self.removed.load(Ordering::SeqCst) {
                    self.error_family.remove(&of);
                }
                counter
            }
        };
        counter.inc();
    }

    fn error_labels(&self, error_type: &'static str) -> OfError {
        OfError { faas_name: Arc::clone(&self.name), faas_trigger: "http", error_type }
    }
}

/// What Prometheus' client libraries say of every process, read when asked for.
#[derive(Debug)]
struct Process {
    started: SystemTime,
}

impl prometheus_client::collector::Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit, prometheus_client::metrics::MetricType::Gauge)?)
        };
        if let Some(bytes) = resident_bytes() {
            gauge("process_resident_memory", "Resident memory of the server", Some(&Unit::Bytes), bytes)?;
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open file descriptors of the server", None, fds.count() as u64)?;
        }
        let started = self.started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        gauge("process_start_time", "When the server started, since 1970", Some(&Unit::Seconds), started)?;
        if let Some(seconds) = cpu_seconds() {
            let help = "User and system CPU time of the server";
            let kind = prometheus_client::metrics::MetricType::Counter;
            ConstCounter::new(seconds).encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                kind,
            )?)?;
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn cpu_seconds() -> Option<f64> {
    // Fields 14 and 15 after the name, in ticks of a hundredth of a second on every Linux that this runs on.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let user: f64 = fields.nth(11)?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use offshoot_model::{FunctionError, Phases, Report};

    fn outcome(start: StartKind, failed: Option<FailureCause>) -> Outcome<()> {
        Outcome {
            result: match failed {
                None => Answer::Reply { http: None, body: () },
                Some(cause) => Answer::Failed(FunctionError { cause, body: String::new() }),
            },
            version: None,
            start,
            phases: Phases { run: Duration::from_millis(7), ..Phases::default() },
            report: Report { peak_memory: 40 << 20, memory_limit: 128 << 20 },
            runtime: offshoot_model::RuntimeName::parse("nodejs20.x").unwrap(),
            log_tail: Vec::new(),
        }
    }

    #[test]
    fn names_and_labels_are_the_conventional_ones() {
        let metrics = Metrics::new("1.2.3");
        let name = FunctionName::parse("hello").unwrap();
        metrics.record(&name, &outcome(StartKind::Clone, None));
        metrics.record(&name, &outcome(StartKind::Warm, Some(FailureCause::Timeout)));
        metrics.throttled(Throttle::Rate);
        metrics.started(StartKind::Clone, Duration::from_millis(2), Duration::from_millis(1));
        metrics.set_concurrency(1, 2, 3);
        metrics.set_concurrency_limit(1000);
        let text = metrics.render();
        for line in [
            "faas_invocations_total{faas_name=\"hello\",faas_trigger=\"http\"} 1",
            "faas_coldstarts_total{faas_name=\"hello\",faas_trigger=\"http\"} 1",
            "faas_timeouts_total{faas_name=\"hello\",faas_trigger=\"http\"} 1",
            "faas_errors_total{faas_name=\"hello\",faas_trigger=\"http\",error_type=\"timeout\"} 1",
            "faas_invoke_duration_seconds_bucket{le=\"0.01\",faas_name=\"hello\",faas_trigger=\"http\"} 2",
            "faas_init_duration_seconds_count{faas_name=\"hello\",faas_trigger=\"http\"} 1",
            "faas_mem_usage_bytes_count{faas_name=\"hello\",faas_trigger=\"http\"} 2",
            "offshoot_throttles_total{reason=\"rate\"} 1",
            "offshoot_throttles_total{reason=\"queue-wait\"} 0",
            "offshoot_concurrency{state=\"starting\"} 3",
            "offshoot_concurrency_limit 1000",
            "offshoot_queue_wait_seconds_count 2",
            "offshoot_env_starts_total{kind=\"clone\"} 1",
            "offshoot_start_duration_seconds_count{kind=\"clone\",phase=\"start\"} 1",
            "offshoot_build_info{version=\"1.2.3\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        for name in ["process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total "] {
            assert!(text.contains(name), "{name}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_deleted_function_leaves_nothing() {
        let metrics = Metrics::new("1");
        let name = FunctionName::parse("gone").unwrap();
        let handle = metrics.function(&name);
        handle.record(&outcome(StartKind::Boot, Some(FailureCause::Exit)));
        assert!(metrics.render().contains("\"gone\""));
        metrics.remove(&name);
        handle.record(&outcome(StartKind::Boot, Some(FailureCause::Exit)));
        handle.record(&outcome(StartKind::Boot, Some(FailureCause::Handler)));
        assert!(!metrics.render().contains("\"gone\""));
    }

    #[test]
    fn every_cause_has_a_counter() {
        let metrics = Metrics::new("1");
        let name = FunctionName::parse("f").unwrap();
        for (cause, error_type) in CAUSES {
            metrics.record(&name, &outcome(StartKind::Warm, Some(cause)));
            let label = serde_json::to_value(cause).unwrap();
            assert_eq!(label, error_type);
            assert!(metrics.render().contains(&format!("error_type=\"{error_type}\"}} 1")));
        }
    }
}
