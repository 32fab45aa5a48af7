//! Builds the server from its configuration, binds its port and drains it at the end.
//!
//! It decides nothing about functions: that is `crates/node`; nor about requests: that is `crates/api`.

use std::future::Future;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offshoot_api::{ApiState, Backend, Fallback, Options, serve_connection};
use offshoot_model::{Error, ErrorKind, FunctionName, Invocation, Limits, Outcome};
use offshoot_node::queue::Pace;
use offshoot_node::runtime::RuntimeOptions;
use offshoot_node::{
    Catalog, DeployRequest, Deployed, Durable, Keyring, Load, LogStore, Metrics, Node, NodeConfig, PoolSettings, Queue,
    QueueSettings, Roles, Settings, Streamed, Version, Warm,
};
use offshoot_sandbox::process::Without;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::error::CliError;
use crate::cli::term::complain;
use crate::config::{Auth, Env, LogFormat, ServeConfig, WarmRuntimes};
use crate::outbox::Outbox;
use crate::remote::Endpoints;

/// Serves until it is told to stop.
pub fn run(config: ServeConfig) -> Result<(), CliError> {
    let began = Instant::now();
    start_diagnostics(&config);
    raise_file_limit();
    // The server hands bytes on; the machine is for the instances. One thread moves tens of thousands of calls a second,
    // and a second one would mostly wake the first.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).max(1))
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .map_err(|e| CliError::config(format!("no threads can be started: {e}")))?;
    let outcome = runtime.block_on(serve(config, began));
    // What still runs in blocking threads is housekeeping; it is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: ServeConfig, began: Instant) -> Result<(), CliError> {
    // The port first: a second server on the same address fails before it touches anything.
    let listener = TcpListener::bind(config.listen).await.map_err(|e| cannot_listen(&config, &e))?;
    let address = listener.local_addr().map_err(|e| cannot_listen(&config, &e))?;
    let node = Node::start(node_config(&config)?).map_err(|e| refused(&e))?;
    let options = Options {
        token: config.token.as_ref().filter(|_| config.auth != Auth::None).map(|t| t.expose().to_owned()),
        sigv4: config.auth == Auth::SigV4,
        aws_fallback: config.aws_fallback.as_ref().map(|url| Fallback { host: url.host.clone(), port: url.port }),
        hosts: vec![config.listen.ip().to_string()],
        s3_endpoint: config.s3_endpoint.clone(),
        ..Options::default()
    };
    let tmp_dir = config.data_dir.join("uploads");
    // What a killed server was receiving is worth nothing.
    std::fs::remove_dir_all(&tmp_dir).ok();
    std::fs::create_dir_all(&tmp_dir)
        .map_err(|e| CliError::config(format!("the directory {} cannot be made: {e}", tmp_dir.display())))?;
    tokio::spawn(say_what_is_missing(config.clone(), node.clone()));
    let api = ApiState::new(Served { node: node.clone(), tmp_dir }, options);
    complain(&format!(
        "offshoot {} serves http://{address} after {:.0} ms · data in {}",
        env!("CARGO_PKG_VERSION"),
        began.elapsed().as_secs_f64() * 1000.0,
        config.data_dir.display()
    ));
    let stop = accept_until_told(&listener, &api).await?;
    drop(listener);
    stop_gently(&node, &api, config.drain.duration(), stop).await;
    let last = node.clone();
    tokio::task::spawn_blocking(move || last.shut_down()).await.ok();
    Ok(())
}

/// Settings that name what this machine has not are no reason not to serve, but their author wants to know.
async fn say_what_is_missing(config: ServeConfig, node: Arc<Node>) {
    for (what, cure) in config.remarks() {
        tracing::warn!("{what}; {cure}");
    }
    for dir in config.runtime_paths.iter().filter(|dir| !dir.is_dir()) {
        tracing::warn!("runtime_paths: {} is not a directory: no runtime is looked for there", dir.display());
    }
    let WarmRuntimes::Only(wanted) = &config.warm_runtimes else { return };
    node.runtimes().ready().await;
    let found = node.runtimes().installed();
    for name in wanted.iter().filter(|name| !found.iter().any(|have| have.name == **name)) {
        tracing::warn!("warm_runtimes: {name} is not on this machine; offshoot doctor lists what is");
    }
}

/// The signals that end a server.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, CliError> {
        let failed = |e| CliError::config(format!("signals cannot be watched: {e}"));
        Ok(Stop {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How long to wait when the machine has no descriptor for another connection: trying at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn accept_until_told(listener: &TcpListener, api: &Arc<ApiState<Served>>) -> Result<Stop, CliError> {
    let mut stop = Stop::new()?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    stream.set_nodelay(true).ok();
                    tokio::spawn(serve_connection(stream, api.clone(), Some(peer)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = stop.told() => return Ok(stop),
        }
    }
}

/// Lets running invocations finish, at most for the drain time; a second signal ends the wait.
async fn stop_gently(node: &Node, api: &ApiState<Served>, limit: Duration, mut stop: Stop) {
    let running = node.invoker().in_flight();
    if running > 0 {
        let most = limit.as_secs();
        complain(&format!("offshoot: finishing {running} invocations, at most {most} s; signal again to stop now"));
    }
    api.drain();
    tokio::select! {
        left = node.drain(limit) => {
            if left > 0 {
                complain(&format!("offshoot: {left} invocations did not finish in time and are stopped"));
            }
            // The last answers are on their way: connections close by themselves once they are written.
            let written = Instant::now();
            while api.open_connections() > 0 && written.elapsed() < Duration::from_millis(500) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        () = stop.told() => complain("offshoot: stopping now"),
    }
}

/// The node's part of the configuration.
pub fn node_config(config: &ServeConfig) -> Result<NodeConfig, CliError> {
    let env = Env::of_process();
    let given_up = |name: &str| config.allow_degraded.iter().any(|have| have == name);
    let rootless = !rustix::process::geteuid().is_root();
    if rootless {
        check_rootless(config, &given_up)?;
    }
    let nursery =
        std::env::current_exe().map_err(|e| CliError::config(format!("this program cannot find itself: {e}")))?;
    let remote = Arc::new(Endpoints {
        sqs: config.sqs_endpoint.clone(),
        kinesis: config.kinesis_endpoint.clone(),
        dynamodb_streams: config.dynamodb_streams_endpoint.clone(),
        ec2: config.ec2_endpoint.clone(),
        eventbridge: config.eventbridge_endpoint.clone(),
        sns: config.sns_endpoint.clone(),
        key_id: config.aws_access_key_id.clone(),
        secret: config.aws_secret_access_key.clone(),
    });
    Ok(NodeConfig {
        data_dir: config.data_dir.clone(),
        limits: config.limits.clone(),
        pool: PoolSettings {
            keep_alive: config.keep_alive.duration(),
            template_keep_alive: config.template_keep_alive.map_or(Duration::MAX, |ms| ms.duration()),
            freeze_after: config.freeze_after.map_or(Duration::MAX, |ms| ms.duration()),
            prewarm: config.prewarm,
            spares: config.spares as usize,
            cpu_limits: true,
            place: config.place.clone(),
        },
        runtimes: RuntimeOptions {
            extra: config.runtime_paths.clone(),
            path_dirs: env.get("PATH").map(|p| std::env::split_paths(p).collect()).unwrap_or_default(),
            home: env.get("HOME").map(PathBuf::from),
            cache_file: Some(config.data_dir.join("runtimes.json")),
            allow_nearest: config.allow_nearest_runtime,
            accept_unrunnable: config.accept_unrunnable,
        },
        nursery,
        uids: *config.uid_range.start()..config.uid_range.end().saturating_add(1),
        rootless,
        without: Without { landlock: given_up("landlock"), userns: given_up("userns"), cgroup: given_up("cgroup") },
        cgroup_root: config.cgroup_root.clone(),
        warm: match &config.warm_runtimes {
            WarmRuntimes::Used => Warm::Used,
            WarmRuntimes::All => Warm::All,
            WarmRuntimes::None => Warm::None,
            WarmRuntimes::Only(names) => Warm::These(names.clone()),
        },
        queue: QueueSettings {
            pace: Pace { retry_ms: config.async_retry_base.0 },
            carrier: Arc::new(Outbox::new(remote.clone(), config.http_destinations.clone())),
        },
        remote,
    })
}

/// Without root a machine lacks several things, and each is accepted by its own name: all of them are said at once.
fn check_rootless(config: &ServeConfig, given_up: &dyn Fn(&str) -> bool) -> Result<(), CliError> {
    let mut lacks = Vec::new();
    if !given_up("uid") {
        lacks.push(("uid", "instances cannot have user ids of their own".to_owned()));
    }
    if !given_up("cgroup")
        && let Some(why) = offshoot_sandbox::Cgroups::lacking(config.cgroup_root.as_deref())
    {
        lacks.push(("cgroup", format!("memory and processes cannot be limited ({why})")));
    }
    if lacks.is_empty() {
        return Ok(());
    }
    let (names, whys): (Vec<_>, Vec<_>) = lacks.into_iter().unzip();
    let text = format!("without root, {}", whys.join("; and "));
    let hint = format!("start the server as root, or accept it: --allow-degraded {}", names.join(","));
    Err(CliError::config(text).hint(hint))
}

/// The node, as the API sees it.
struct Served {
    node: Arc<Node>,
    tmp_dir: PathBuf,
}

impl Backend for Served {
    async fn deploy(&self, request: DeployRequest, load: Load) -> Result<Deployed, Error> {
        let node = self.node.clone();
        to_its_end(async move { node.deploy(request, load).await }).await.inspect(warn)
    }
    async fn configure(&self, name: &FunctionName, settings: Settings) -> Result<Deployed, Error> {
        let (node, whom) = (self.node.clone(), name.clone());
        to_its_end(async move { node.configure(&whom, settings).await }).await.inspect(warn)
    }
    async fn delete(&self, name: &FunctionName) -> Result<(), Error> {
        let (node, name) = (self.node.clone(), name.clone());
        to_its_end(async move { node.delete(&name).await }).await
    }
    fn list(&self) -> Vec<Arc<Version>> {
        self.node.registry().list()
    }
    fn get(&self, name: &FunctionName) -> Option<Arc<Version>> {
        self.node.registry().resolve(name)
    }
    fn invoke(&self, invocation: Invocation<Bytes>) -> impl Future<Output = Result<Outcome<Bytes>, Error>> + Send {
        self.node.invoke(invocation)
    }
    fn invoke_streaming(&self, invocation: Invocation<Bytes>) -> impl Future<Output = Result<Streamed, Error>> + Send {
        self.node.invoke_streaming(invocation)
    }
    fn catalog(&self) -> &Arc<Catalog> {
        self.node.catalog()
    }
    fn instances(&self, version: &Version) -> u32 {
        self.node.invoker().instances(version)
    }
    fn keys(&self) -> &Keyring {
        self.node.keys()
    }
    fn roles(&self) -> &Roles {
        self.node.roles()
    }
    fn queue(&self) -> &Queue {
        self.node.queue()
    }
    fn durable(&self) -> &Durable {
        self.node.durable()
    }
    fn logs(&self) -> &LogStore {
        self.node.logs()
    }
    fn metrics(&self) -> &Metrics {
        self.node.metrics()
    }
    fn limits(&self) -> &Limits {
        self.node.limits()
    }
    fn tmp_dir(&self) -> &Path {
        &self.tmp_dir
    }
    fn ready(&self) -> bool {
        !self.node.invoker().draining()
    }
}

/// A change that has begun is carried out, also when whoever asked for it hangs up.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(lost) => Err(Error::new(ErrorKind::Internal, "a change was lost: see the server's log").caused_by(lost)),
    }
}

fn warn(deployed: &Deployed) {
    if let Some(warning) = &deployed.warning {
        // One line: what a function says must not look like the server's own.
        let warning = warning.replace('\n', "\\n");
        tracing::warn!(function = %deployed.version.config.name, %warning, "deployed, but it could not be loaded");
    }
}

fn cannot_listen(config: &ServeConfig, error: &std::io::Error) -> CliError {
    let text = format!("{} cannot be listened on: {error}", config.listen);
    match error.kind() {
        std::io::ErrorKind::AddrInUse => CliError::config(text).hint(
            "another program, or another offshoot server, has this port: stop it, or choose another with --port"
                .to_owned(),
        ),
        _ => {
            CliError::config(text).hint("choose another address with --listen, or another port with --port".to_owned())
        }
    }
}

fn refused(error: &Error) -> CliError {
    let cause = error.source.as_ref().map(|s| format!(" ({s})")).unwrap_or_default();
    let text = format!("{}{cause}", error.message);
    match error.kind {
        ErrorKind::SandboxUnavailable => CliError::config(text)
            .hint("offshoot doctor tells what this machine can do, and how to mend the rest".to_owned()),
        _ => CliError::config(text),
    }
}

/// Every instance takes a handful of descriptors: as many as the machine allows without privilege.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
}

/// The server's own diagnostics, on standard error.
fn start_diagnostics(config: &ServeConfig) {
    let colour = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_max_level(config.log).with_writer(std::io::stderr).with_target(false);
    // Whoever read it may have gone: that would be told to standard error too, and nobody listens there.
    let builder = builder.log_internal_errors(false);
    match config.log_format {
        LogFormat::Json => drop(builder.json().try_init()),
        LogFormat::Text => drop(builder.with_ansi(colour).try_init()),
    }
}
