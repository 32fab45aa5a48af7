//! How an instance comes to be: the one place where a language's program, an origin and a box meet.
//!
//! A start clones the function's own template when it has one, else the language's; where that cannot be done it boots,
//! and says so. No start is given up because a template died.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offshoot_model::invocation::FailureCause;
use offshoot_model::{Error, ErrorKind, FunctionError, Language, Network, RuntimeName, StartKind};
use offshoot_sandbox::control::State;
use offshoot_sandbox::process::Exit;
use offshoot_sandbox::served::PORT;
use offshoot_sandbox::{BoxRequest, Listener, Origin, Sandbox, SandboxError, Template};
use serde::Serialize;
use tokio::sync::SemaphorePermit;

use super::instance::{Birth, Breach, Instance, Said, breach_of};
use super::tap::{LogTap, now_ms};
use super::{InitFailure, Pool, Refusal};
use crate::observe::InitAbout;
use crate::runtime_api::{self, Whose};
use crate::templates::{LIBRARY_PATH, Mode, program};

/// How long a template may take to clone itself before the start goes another way.
const CLONE: Duration = Duration::from_secs(3);
/// So many clones that took longer, one after the other, and the template is taken for hung.
pub(crate) const LATE_CLONES: u32 = 3;
/// How long a start may keep others from starting; initialisation that takes longer goes on without holding them up.
const HOLD: Duration = Duration::from_millis(100);
/// Processes and threads of one instance.
const PIDS: u32 = 512;
/// Open files of one instance (AWS Lambda's limit).
const NOFILE: u64 = 1024;
/// The credentials in a function's environment. There is no role behind them and they are no secret: they are the same everywhere, and have the
/// shape of AWS's temporary ones for tools that look at it. The id names the account 000000000000 to those that read an account out of it
/// (what AWS calls GetAccessKeyInfo), the token is a sentence in base64.
const NOBODY: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "ASIAQAAAAAAAOFFSHOOT"),
    ("AWS_SECRET_ACCESS_KEY", "Offshoot/functions+have/no+role+EXAMPLEs"),
    (
        "AWS_SESSION_TOKEN",
        concat!(
            "Tm9ib2R5J3Mgc2Vzc2lvbjogYSBmdW5jdGlvbiBvbiBPZmZzaG9vdCBoYXMgbm8gcm9sZSwgc28gdGhpcyB0b2tlbi",
            "BvcGVucyBub3RoaW5nLiBJdCBzdGFuZHMgaGVyZSBiZWNhdXNlIGNsaWVudHMgbG9vayBmb3Igb25lLg=="
        ),
    ),
];
/// AWS's place for the Runtime API (recorded there). A worker of ours speaks another protocol, so nobody listens there, in a
/// network that ends at its box; programs that look whether they run on Lambda look for the name.
const RUNTIME_API: &str = "169.254.100.1:9001";
/// AWS's value, with its slash too many.
const PATH: &str = "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin";
/// How much longer than its initialisation may take an environment has to say that it did.
const SERVED_GRACE: Duration = Duration::from_secs(1);
/// How long a function that could not be made a template is started the ordinary way before that is tried again.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(30);

/// The function's own template.
#[derive(Debug, Default)]
pub(super) struct SnapshotState {
    live: Option<Arc<Template>>,
    /// When it was made.
    made: Option<Instant>,
    failed: Option<Instant>,
}

impl SnapshotState {
    pub(super) fn forget(&mut self) {
        self.live = None;
    }
    /// Since when nobody has needed the template that lives, given when a call last ended.
    pub(super) fn idle_since(&self, last_done: Option<Instant>) -> Option<Instant> {
        self.live()?;
        last_done.max(self.made)
    }
    pub(super) fn live(&self) -> Option<Arc<Template>> {
        self.live.clone().filter(|t| *t.state().borrow() != State::Gone)
    }
}

/// The `load` and `resume` frames of docs/design/002-channel.md.
#[derive(Serialize)]
struct Load<'a> {
    t: &'static str,
    handler: &'a str,
    convention: offshoot_model::Convention,
    env: Vec<(&'a str, &'a str)>,
    max_concurrency: u32,
    snapshot: bool,
    seed: String,
    time_ms: u64,
    max_reply: u64,
    function: FunctionPart<'a>,
}

#[derive(Serialize)]
struct FunctionPart<'a> {
    name: &'a str,
    version: &'a str,
    memory_mib: u32,
    arn: String,
    log_group: String,
    log_stream: String,
}

/// A worker that has said `ready`, with what it took.
pub(super) struct Loaded {
    sandbox: Sandbox,
    birth: Birth,
    tap: Arc<LogTap>,
    /// Whom the door of a durable function's clone is for.
    whose: Option<Whose>,
}

impl Pool {
    /// Starts one instance. The permit is let go early when initialisation takes long.
    pub(super) async fn start_one(
        self: &Arc<Self>,
        permit: Option<SemaphorePermit<'_>>,
    ) -> Result<Arc<Instance>, Refusal> {
        if self.shared.memory_used.load(Ordering::Relaxed) >= self.shared.memory_budget {
            self.room().await?;
        }
        self.shared.runtimes.ready().await;
        let began = Instant::now();
        for tree in std::iter::once(&self.version.code).chain(&self.version.opt) {
            self.shared.registry.verify_code(tree).await.map_err(Refusal::Platform)?;
        }
        let mut starting = std::pin::pin!(self.start_somehow());
        let loaded = match tokio::time::timeout(HOLD, &mut starting).await {
            Ok(done) => done,
            Err(_) => {
                drop(permit);
                starting.await
            }
        }?;
        self.note_start(began.elapsed());
        self.shared.metrics.started(loaded.birth.kind, loaded.birth.start, loaded.birth.init);
        let pool = self.clone();
        let gone = move |instance: Arc<Instance>| pool.forget(&instance);
        let Loaded { mut sandbox, birth, tap, whose } = loaded;
        sandbox.keep();
        let process = sandbox.process.clone();
        let (channel, claims) = (sandbox.channel, sandbox.claims);
        let instance = Instance::adopt(self.shared.next_id(), birth, process.clone(), channel, claims, tap, gone);
        if let Some(whose) = whose {
            whose.is(&instance);
        }
        if self.shared.settings.cpu_limits {
            let cpu = self.version.config.cpu_millis();
            tokio::task::spawn_blocking(move || process.settle(cpu));
        }
        Ok(instance)
    }

    /// Waits until the memory budget has room for a start; idle instances make it, the longest idle first.
    async fn room(&self) -> Result<(), Refusal> {
        let until = Instant::now() + Duration::from_millis(self.shared.limits.queue_wait_ms);
        while !self.shared.find_room() {
            if Instant::now() >= until {
                let used = self.shared.memory_used.load(Ordering::Relaxed) >> 20;
                let budget = self.shared.memory_budget >> 20;
                let text = format!(
                    "instances use {used} of {budget} MiB, and none is idle: retry later, or raise limits.memory_budget_mib"
                );
                return Err(Refusal::Platform(Error::new(ErrorKind::NoCapacity, text)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn start_somehow(self: &Arc<Self>) -> Result<Loaded, Refusal> {
        if self.version.config.snapshot {
            match self.restore().await {
                Ok(Some(loaded)) => return Ok(loaded),
                Ok(None) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let installed = self.shared.runtimes.resolve(self.version.config.runtime).map_err(Refusal::Platform)?.actual;
        if self.is_served() {
            // As with a clone: what was killed from outside before it was ready gets a second start.
            return match self.start_served(&installed).await {
                Err(Refusal::Init(failure)) if failure.killed => self.start_served(&installed).await,
                other => other,
            };
        }
        if let Ok(template) = self.shared.templates.get(&installed).await {
            match self.clone_box(&template, false).await {
                Ok((sandbox, start)) => {
                    let loaded = self.load(sandbox, StartKind::Clone, start, false).await;
                    self.shared.templates.refill(installed.name, &template);
                    if !matches!(&loaded, Err(Refusal::Init(failure)) if failure.killed) {
                        return loaded;
                    }
                    // Something outside killed it before it was ready: not the function's doing, so it gets a second start.
                }
                Err(error) => {
                    tracing::warn!(%error, runtime = %installed.name, "a clone failed; this start boots");
                    // What failed on our own side says nothing about the template.
                    if matches!(error, SandboxError::Gone(_) | SandboxError::Failed(_)) {
                        self.shared.templates.suspect(installed.name, &template).await;
                    } else if matches!(error, SandboxError::Late(_)) {
                        self.shared.templates.late(installed.name, &template).await;
                    }
                }
            }
        }
        if self.is_durable() {
            // Without a template: the way to its executions is that of programs that bring their own runtime.
            return self.start_served(&installed).await;
        }
        let began = Instant::now();
        let boot = program(&installed, Mode::Boot, self.shared.templates.runtime_dir());
        let sandbox = self.shared.driver.start_box(Origin::Boot(&boot), &self.request(false)).await.map_err(refused)?;
        self.load(sandbox, StartKind::Boot, began.elapsed(), false).await
    }

    async fn clone_box(&self, template: &Arc<Template>, snapshot: bool) -> Result<(Sandbox, Duration), SandboxError> {
        let began = Instant::now();
        // In a task of its own: when nobody waits any more, what comes of it late is still taken down in order.
        let (driver, from, request) = (self.shared.driver.clone(), template.clone(), self.request(snapshot));
        let made = tokio::spawn(async move { driver.start_box(Origin::Clone(&from), &request).await });
        match tokio::time::timeout(CLONE, made).await {
            Ok(Ok(sandbox)) => Ok((sandbox?, began.elapsed())),
            Ok(Err(lost)) => Err(SandboxError::Failed(lost.to_string())),
            // On a machine that is busy enough a healthy template may be late; on a quiet one it hangs.
            Err(_) if self.shared.crowd.more_than(2 * self.shared.cores) => Err(SandboxError::Late(CLONE.as_secs())),
            Err(_) => Err(SandboxError::Failed(format!("no clone after {} s", CLONE.as_secs()))),
        }
    }

    /// The function's own template, made now if there is none. `None`: not possible now, start another way.
    pub(crate) async fn snapshot(self: &Arc<Self>) -> Result<Option<Arc<Template>>, Refusal> {
        if self.is_served() || (self.is_durable() && self.version.config.network == Network::Host) {
            // On the machine's network every box has another port for its door, which a function that is loaded already does not hear of.
            return Ok(None);
        }
        let mut state = self.snapshot.lock().await;
        if let Some(live) = state.live() {
            return Ok(Some(live));
        }
        if state.failed.is_some_and(|when| when.elapsed() < SNAPSHOT_RETRY) {
            return Ok(None);
        }
        match self.make_snapshot().await {
            Ok(template) => {
                self.shared.driver.brew_spares(&template, &self.request(false), self.shared.settings.spares.min(1));
                *state = SnapshotState { live: Some(template.clone()), made: Some(Instant::now()), failed: None };
                Ok(Some(template))
            }
            Err(refusal @ Refusal::Init(_)) => Err(refusal),
            Err(other) => {
                tracing::warn!(function = %self.version.config.name, why = ?other, "no snapshot could be made; starts clone the language template");
                *state = SnapshotState { failed: Some(Instant::now()), ..SnapshotState::default() };
                Ok(None)
            }
        }
    }

    /// Clones the function's own template. `None`: not possible now, start another way.
    async fn restore(self: &Arc<Self>) -> Result<Option<Loaded>, Refusal> {
        let Some(template) = self.snapshot().await? else { return Ok(None) };
        match self.clone_box(&template, false).await {
            Ok((sandbox, start)) => {
                self.late_clones.store(0, Ordering::Relaxed);
                let loaded = self.load(sandbox, StartKind::Restore, start, false).await;
                self.shared.driver.brew_spares(&template, &self.request(false), self.shared.settings.spares.min(1));
                match loaded {
                    Err(Refusal::Init(failure)) if failure.killed => Ok(None),
                    other => other.map(Some),
                }
            }
            Err(error @ SandboxError::Late(_))
                if self.late_clones.fetch_add(1, Ordering::Relaxed) + 1 < LATE_CLONES =>
            {
                tracing::warn!(%error, function = %self.version.config.name, "a function template was too slow for this start");
                Ok(None)
            }
            Err(error) => {
                self.late_clones.store(0, Ordering::Relaxed);
                tracing::warn!(%error, function = %self.version.config.name, "a function template does not clone and is replaced");
                template.process().kill();
                let mut state = self.snapshot.lock().await;
                if state.live.as_ref().is_some_and(|live| Arc::ptr_eq(live, &template)) {
                    state.live = None;
                }
                Ok(None)
            }
        }
    }

    /// Loads the function in a clone of the language template and keeps that as the function's own template.
    async fn make_snapshot(self: &Arc<Self>) -> Result<Arc<Template>, Refusal> {
        let failed = |why: String| Refusal::Platform(Error::new(ErrorKind::StartFailed, why));
        let installed = self.shared.runtimes.resolve(self.version.config.runtime).map_err(Refusal::Platform)?.actual;
        let language = self.shared.templates.get(&installed).await.map_err(failed)?;
        let (sandbox, start) = self.clone_box(&language, true).await.map_err(refused)?;
        let loaded = self.load(sandbox, StartKind::Clone, start, true).await?;
        let template = loaded.sandbox.into_template();
        template.map(Arc::new).ok_or_else(|| failed("this worker cannot be made a template".into()))
    }

    pub(super) fn request(&self, snapshot: bool) -> BoxRequest {
        let config = &self.version.config;
        BoxRequest {
            code: self.version.code.as_str().to_owned(),
            opt: self.version.opt.as_ref().map(|opt| opt.as_str().to_owned()),
            memory: config.memory.bytes(),
            pids: PIDS,
            nofile: NOFILE,
            tmp: config.tmp.bytes(),
            host_network: config.network == Network::Host,
            snapshot,
            // A function template runs nobody's calls.
            listens: self.is_durable() && !snapshot,
        }
    }

    /// Tells the worker what to load, and waits until it has.
    pub(super) async fn load(
        self: &Arc<Self>,
        mut sandbox: Sandbox,
        kind: StartKind,
        start: Duration,
        snapshot: bool,
    ) -> Result<Loaded, Refusal> {
        let began = Instant::now();
        let more = if self.is_served() {
            // A program of the function's own that takes longer is said to be ready, and its first call waits for it (AWS).
            SERVED_GRACE
        } else if self.is_durable() {
            // An execution is not to fail because the machine is busy while its function loads: as long as a call may take.
            self.version.config.timeout.duration()
        } else {
            Duration::ZERO
        };
        let limit = Duration::from_millis(self.shared.limits.init_ms) + more;
        let runtime = self.shared.runtimes.resolve(self.version.config.runtime).map_err(Refusal::Platform)?.actual.name;
        let Some((stdout, stderr)) = sandbox.logs.take() else {
            return Err(Refusal::Platform(Error::new(ErrorKind::Internal, "a box without log pipes")));
        };
        let tap = LogTap::new(
            self.version.config.name.clone(),
            self.shared.logs.clone(),
            self.shared.limits.invocation_log_bytes,
            self.system,
            stdout,
            stderr,
        );
        let asked = self.version.config.runtime;
        if runtime != asked {
            tap.note(&format!("offshoot: {asked} is not on this machine; this instance runs on {runtime}"));
        }
        let about = InitAbout {
            kind,
            name: self.version.config.name.as_str(),
            version: &self.version.label(),
            runtime,
            initialization: self.initialization(),
        };
        tap.tell(self.system.init_start(&about));
        let door = match &sandbox.listener {
            Some(listener) => Some(listener.port),
            None => (snapshot && self.is_durable()).then_some(PORT),
        };
        let whose = sandbox.listener.take().map(|listener| self.open_door(listener, &sandbox));
        let header = self.load_header(kind == StartKind::Restore, snapshot, door).map_err(Refusal::Platform)?;
        sandbox.channel.writer.send(&header, &[]).await.ok();
        let answer = tokio::time::timeout(limit, sandbox.channel.reader.next()).await;
        let init = began.elapsed();
        let failure = |cause: FailureCause, body: String| {
            let error = FunctionError { cause, body };
            tap.tell(self.system.init_done(&about, init, Some(&error)));
            Refusal::Init(Box::new(InitFailure {
                error,
                kind,
                runtime,
                killed: false,
                start,
                init,
                printed: tap.take_all(),
            }))
        };
        let refusal = match answer {
            Ok(Ok(frame)) => match serde_json::from_slice::<Said<'_>>(&frame.header) {
                Ok(Said::Ready { version, init_us, snapshot: able }) if able || !snapshot => {
                    tracing::debug!(
                        function = %self.version.config.name, %version, kind = kind.name(), ?start, ?init, worker_us = init_us, "started"
                    );
                    tap.tell(self.system.init_done(&about, init, None));
                    return Ok(Loaded { sandbox, birth: Birth { kind, runtime, start, init }, tap, whose });
                }
                Ok(Said::Ready { .. }) => {
                    let why = "this worker cannot be made a template on this machine";
                    Refusal::Platform(Error::new(ErrorKind::StartFailed, why))
                }
                Ok(Said::InitError) => failure(FailureCause::Init, text(frame.body)),
                Ok(Said::BoxError { error }) => Refusal::Platform(
                    Error::new(
                        ErrorKind::StartFailed,
                        "the box could not be made: see the server's log, and run offshoot doctor",
                    )
                    .caused_by(error),
                ),
                _ => failure(
                    FailureCause::Protocol,
                    error_json("Runtime.ProtocolError", "the worker said something else than 'ready'"),
                ),
            },
            Ok(Err(error)) => match breach_of(&sandbox.process, error).await {
                Breach::Ended(end) => {
                    let (cause, body) = crate::invoker::ended("", end);
                    let outside = !end.out_of_memory && matches!(end.exit, Exit::Unknown | Exit::Signal(9));
                    let failed = failure(if end.out_of_memory { cause } else { FailureCause::Init }, body);
                    match failed {
                        Refusal::Init(mut told) => {
                            told.killed = outside;
                            Refusal::Init(told)
                        }
                        other => other,
                    }
                }
                other => failure(FailureCause::Protocol, error_json("Runtime.ProtocolError", &format!("{other:?}"))),
            },
            Err(_) => {
                let message = format!("Initialisation timed out after {:.2} seconds", limit.as_secs_f64());
                failure(FailureCause::Init, error_json("Sandbox.Timedout", &message))
            }
        };
        if let Refusal::Platform(error) = &refusal {
            tracing::error!(function = %self.version.config.name, %error, cause = ?error.source, "a start failed");
        }
        sandbox.process.kill();
        Err(refusal)
    }

    /// AWS's name of how instances come to be.
    fn initialization(&self) -> &'static str {
        match self.floor.load(Ordering::Relaxed) {
            _ if self.version.config.snapshot => "snap-start",
            0 => "on-demand",
            _ => "provisioned-concurrency",
        }
    }

    /// Lets the programs of a clone to the executions of their function.
    fn open_door(&self, listener: Listener, sandbox: &Sandbox) -> Whose {
        let host = (self.version.config.network == Network::Host).then_some(sandbox.uid);
        let calls = self.version.config.max_concurrency as usize;
        runtime_api::serve_door(listener, self.shared.durable.get().cloned(), sandbox.process.clone(), host, calls)
    }

    /// `door`: the port at which a durable function reaches its own executions.
    fn load_header(&self, resume: bool, snapshot: bool, door: Option<u16>) -> Result<Vec<u8>, Error> {
        let config = &self.version.config;
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|e| Error::new(ErrorKind::Internal, "no random bytes").caused_by(e))?;
        let name = config.name.as_str();
        let version = self.version.label();
        let logging = self.version.fields.as_deref().map(|f| f.logging.clone()).unwrap_or_default();
        let log_group = logging.log_group.clone().unwrap_or_else(|| format!("/aws/lambda/{name}"));
        // In a group that several functions may share, streams carry the function's name (AWS).
        let shared = logging.log_group.as_ref().map_or("", |_| name);
        let log_stream = log_stream(now_ms(), shared, &version, &seed);
        let place = &self.shared.settings.place;
        let memory = config.memory.0.to_string();
        let runtime = config.runtime.to_string();
        let execution = format!("AWS_Lambda_{runtime}");
        let concurrency = config.max_concurrency.to_string();
        let kind = self.initialization();
        let mut env: Vec<(&str, &str)> = vec![
            ("PATH", PATH),
            ("LD_LIBRARY_PATH", LIBRARY_PATH),
            ("LANG", "en_US.UTF-8"),
            ("TZ", ":UTC"),
            ("LAMBDA_TASK_ROOT", "/var/task"),
            ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
            ("AWS_REGION", &place.region),
            ("AWS_DEFAULT_REGION", &place.region),
            // There is no role to assume: SDKs find credentials, and no service takes them for somebody's.
            NOBODY[0],
            NOBODY[1],
            NOBODY[2],
            // Nobody listens there: the SDKs of X-Ray drop what they cannot send.
            ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"),
            ("AWS_XRAY_DAEMON_ADDRESS", "169.254.100.1:2000"),
            ("_AWS_XRAY_DAEMON_ADDRESS", "169.254.100.1"),
            ("_AWS_XRAY_DAEMON_PORT", "2000"),
            ("AWS_EXECUTION_ENV", &execution),
            ("AWS_LAMBDA_FUNCTION_NAME", name),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory),
            ("AWS_LAMBDA_FUNCTION_VERSION", &version),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", kind),
            ("AWS_LAMBDA_LOG_GROUP_NAME", &log_group),
            ("AWS_LAMBDA_LOG_STREAM_NAME", &log_stream),
            ("_HANDLER", &config.handler),
        ];
        if config.network == Network::None {
            env.push(("AWS_LAMBDA_RUNTIME_API", RUNTIME_API));
        }
        if !self.shared.driver.names_users() {
            // Programs look here first, and then for their user's account, which is `/tmp` too.
            env.push(("HOME", "/tmp"));
        }
        let own = of_language(config.runtime);
        for (key, value) in &own {
            env.retain(|(have, _)| have != key);
            env.push((key, value));
        }
        if logging.log_format == "JSON" {
            env.push(("AWS_LAMBDA_LOG_FORMAT", "JSON"));
            env.extend(logging.application_log_level.as_deref().map(|level| ("AWS_LAMBDA_LOG_LEVEL", level)));
        }
        if config.max_concurrency > 1 {
            env.push(("AWS_LAMBDA_MAX_CONCURRENCY", &concurrency));
        }
        let endpoint = door.map(runtime_api::endpoint);
        env.extend(endpoint.as_deref().map(|endpoint| (runtime_api::ENDPOINT, endpoint)));
        for (key, value) in &config.env {
            env.retain(|(have, _)| have != key);
            env.push((key, value));
        }
        let load = Load {
            t: if resume { "resume" } else { "load" },
            handler: &config.handler,
            convention: config.convention,
            env,
            max_concurrency: config.max_concurrency,
            snapshot,
            seed: seed.iter().map(|b| format!("{b:02x}")).collect(),
            time_ms: now_ms(),
            max_reply: self.shared.limits.reply_bytes,
            function: FunctionPart {
                name,
                version: &version,
                memory_mib: config.memory.0,
                arn: place.function(name, self.version.number.is_some().then_some(version.as_str())),
                log_group: log_group.clone(),
                log_stream: log_stream.clone(),
            },
        };
        let mut value =
            serde_json::to_value(&load).map_err(|e| Error::new(ErrorKind::Internal, "a frame").caused_by(e))?;
        // An object, not a list of pairs, is what workers expect of an environment.
        let pairs = load.env.iter().map(|(k, v)| ((*k).to_owned(), serde_json::Value::from(*v))).collect();
        value["env"] = serde_json::Value::Object(pairs);
        Ok(value.to_string().into_bytes())
    }
}

/// What only the environments of one language have, and where they differ from the others (recorded from AWS).
fn of_language(runtime: RuntimeName) -> Vec<(&'static str, String)> {
    let (major, minor) = (runtime.major, runtime.minor);
    let of_shell = [("PWD", "/var/task".to_owned()), ("SHLVL", "0".to_owned())];
    let own: Vec<(&'static str, String)> = match runtime.language {
        Language::Node => {
            let path = format!(
                "/opt/nodejs/node{major}/node_modules:/opt/nodejs/node_modules:/var/runtime/node_modules:/var/runtime:/var/task"
            );
            let authorities = (major <= 18).then(|| ("NODE_EXTRA_CA_CERTS", "/var/runtime/ca-cert.pem".to_owned()));
            [("NODE_PATH", path)].into_iter().chain(authorities).collect()
        }
        Language::Python => {
            let locale = (minor >= 12).then(|| ("LC_CTYPE", "C.UTF-8".to_owned()));
            [("PYTHONPATH", "/var/runtime".to_owned())].into_iter().chain(locale).collect()
        }
        // Some of the directories are not here: what is not there is passed over.
        Language::Ruby => vec![
            ("GEM_HOME", "/var/runtime".to_owned()),
            (
                "GEM_PATH",
                format!(
                    "/var/task/vendor/bundle/ruby/{major}.{minor}.0:/opt/ruby/gems/{major}.{minor}.0:/var/runtime:/var/runtime/ruby/{major}.{minor}.0"
                ),
            ),
            (
                "RUBYLIB",
                "/var/runtime/gems/aws_lambda_ric-3.1.3/lib:/var/task:/var/runtime/lib:/opt/ruby/lib".to_owned(),
            ),
            ("PATH", format!("/var/lang/bin:{PATH}")),
            ("LD_LIBRARY_PATH", format!("/var/lang/lib:{LIBRARY_PATH}")),
        ],
        Language::Provided | Language::Java | Language::Dotnet => return Vec::new(),
    };
    own.into_iter().chain(of_shell).collect()
}

/// AWS's form: `YYYY/MM/DD/[version]<32 hex digits>`, with a name before the version or without.
fn log_stream(now_ms: u64, name: &str, version: &str, seed: &[u8; 32]) -> String {
    let (y, m, d) = civil(now_ms / 86_400_000);
    let hex: String = seed[16..].iter().map(|b| format!("{b:02x}")).collect();
    // The seed itself is secret; what is shown of it is turned around so that nothing of it can be read off.
    let shown = sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(hex.as_bytes()));
    let shown: String = shown.iter().take(16).map(|b| format!("{b:02x}")).collect();
    format!("{y:04}/{m:02}/{d:02}/{name}[{version}]{shown}")
}

/// Year, month and day of a day number since 1970-01-01 (Gregorian; Hinnant, "chrono-compatible low-level date algorithms").
pub(crate) fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + u64::from(m <= 2), m, d)
}

pub(crate) fn error_json(kind: &str, message: &str) -> String {
    serde_json::json!({"errorType": kind, "errorMessage": message}).to_string()
}

fn text(body: Bytes) -> String {
    String::from_utf8_lossy(&body).into_owned()
}

pub(super) fn refused(error: SandboxError) -> Refusal {
    let kind = match &error {
        SandboxError::NoRoom(_) => ErrorKind::NoCapacity,
        _ => ErrorKind::StartFailed,
    };
    let message = match kind {
        ErrorKind::NoCapacity => "this machine has no room for another instance: retry later, or raise its limits",
        _ => "no instance could be started: see the server's log, and run offshoot doctor",
    };
    tracing::error!(%error, "a start failed");
    Refusal::Platform(Error::new(kind, message).caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_777), (2026, 11, 20));
    }
}
