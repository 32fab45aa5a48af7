//! The life of one environment, from its first program to its last: starts, calls, ends, and the good-bye when it is retired.
//!
//! It does what `state` decides. It never answers a request itself, and never outlives its box.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offshoot_sandbox::channel::Reader;
use offshoot_sandbox::process::{End, Process};
use offshoot_sandbox::served::{InitSays, output_pipe, worker_channel};
use offshoot_sandbox::{Channel, Init, Sandbox, Served};
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::pump::{Log, Pump};
use super::state::Event;
use super::telemetry::Connecting;
use super::{Environment, Invoke, Load, News, body, durable, http, peer, random_id, relay};
use crate::durable::Gate;
use crate::pool::tap::now_ms;

/// Connections to one environment at once: one call at a time and ten extensions need few. Where calls run side by side, AWS's client
/// for Node.js opens eight for each processor.
const CONNECTIONS: usize = 32;
const CONNECTIONS_CONCURRENT: usize = 64;
/// And for each call that it may serve at once.
const CONNECTIONS_PER_CALL: usize = 4;
/// What the program of the runtime is called towards the box's init.
const RUNTIME: u64 = 0;
/// What is left to programs when the environment is retired: with an external extension, and with internal ones alone (AWS).
const GOODBYE_EXTERNAL: Duration = Duration::from_millis(2000);
const GOODBYE_INTERNAL: Duration = Duration::from_millis(500);
/// The runtime's part of it, in hundredths.
const RUNTIME_PART: u32 = 30;
/// Numbers of connections towards the box's init begin above those of programs.
const FIRST_CONNECTION: u64 = 1000;
/// Where a worker of ours has its channel.
const WORKER_CHANNEL: i32 = 3;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// What an environment is made with.
#[derive(Debug)]
pub struct Setup {
    /// Programs that may be the runtime's, with their arguments, in the order in which they are looked for.
    pub programs: Vec<Vec<String>>,
    /// What is executed instead, with the runtime's program as its arguments (`AWS_LAMBDA_EXEC_WRAPPER`).
    pub wrapper: Option<String>,
    /// The program is a worker of ours, which speaks frames unless its wrapper runs something else.
    pub worker: bool,
    /// External extensions, by their path in the box.
    pub extensions: Vec<String>,
    /// How long initialisation may take before calls are let in to wait for it.
    pub window: Duration,
    /// The largest answer, in bytes.
    pub reply_bytes: usize,
    /// The largest streamed answer, in bytes.
    pub stream_bytes: u64,
    /// Whether `AWS_EXECUTION_ENV` is left out, as for AWS's own custom runtimes.
    pub provided: bool,
    /// Whether the box shares the machine's network, so that others reach the listener too.
    pub host_network: bool,
    /// The way of a durable function to its own executions.
    pub durable: Option<Gate>,
}

/// Serves a box. What is returned is the box with the channel on which it answers as a worker does.
pub fn serve(served: Served, setup: Setup) -> Sandbox {
    let Served { mut sandbox, worker, listener, port, init } = served;
    // What programs print is looked at on its way only where somebody may have subscribed to it.
    let prints = if setup.extensions.is_empty() { None } else { Prints::between(&mut sandbox) };
    let process = sandbox.process.clone();
    let uid = sandbox.uid;
    tokio::spawn(async move {
        let ended = process.clone();
        let door = Door { listener, port, uid };
        if let Err(error) = live(worker, door, init, process, prints, setup).await {
            tracing::debug!(%error, "an environment broke off");
        }
        ended.kill();
    });
    sandbox
}

/// What the box prints, on its way to the function's log. Whoever carries it goes on until the last program has ended.
struct Prints {
    runtime: [pipe::Receiver; 2],
    log: [Log; 2],
}

impl Prints {
    /// Puts pipes of ours between the box and whoever reads its log. `None`: there is no room for them, and what is printed
    /// goes straight to the log.
    fn between(sandbox: &mut Sandbox) -> Option<Self> {
        let pipe = || {
            let (read, write) = output_pipe().ok()?;
            let write = pipe::Sender::from_owned_fd(write).ok()?;
            Some((read, Arc::new(tokio::sync::Mutex::new(write))))
        };
        let (out, err) = (pipe()?, pipe()?);
        let (stdout, stderr) = sandbox.logs.replace((out.0, err.0))?;
        Some(Prints { runtime: [stdout, stderr], log: [out.1, err.1] })
    }

    /// Carries what the runtime prints; the answer is where extensions are to print.
    fn carry(self, environment: &Arc<Environment>) -> Log {
        let Prints { runtime, log } = self;
        for (from, to) in runtime.into_iter().zip(&log) {
            let pump = Pump::new("function", from, to.clone());
            environment.prints().push(pump.clone());
            tokio::spawn(pump.run(environment.telemetry.clone()));
        }
        let [out, _] = log;
        out
    }
}

struct Door {
    listener: TcpListener,
    port: u16,
    uid: u32,
}

/// The parts of an environment that only its own task touches.
struct Life {
    environment: Arc<Environment>,
    setup: Setup,
    init: Init,
    /// The box's init is there: it has not become the runtime's program.
    has_init: bool,
    runtime_env: Variables,
    extension_env: Variables,
    /// What our own worker is told first.
    load: Bytes,
    /// The program that is being tried, of `setup.programs`.
    trying: Option<usize>,
    /// Passes frames between the pool and our own worker.
    relay: Option<Abort>,
    runtime_ended: bool,
    /// External extensions that have not ended.
    living: Vec<u64>,
    connecting: Connecting,
    next_connection: u64,
    /// Where extensions print to.
    log: Option<Log>,
}

async fn live(
    worker: Channel,
    door: Door,
    init: Init,
    process: Arc<Process>,
    prints: Option<Prints>,
    setup: Setup,
) -> Result<(), Lost> {
    let Channel { mut reader, writer } = worker;
    let frame = reader.next().await?;
    let load: Load = serde_json::from_slice(&frame.header)?;
    let (tell, mut news) = mpsc::unbounded_channel();
    let mut retired = process.on_retire();
    let environment = Arc::new(Environment::new(&load, &setup, writer, process, tell));
    environment.tell_of_begin();
    let log = prints.map(|prints| prints.carry(&environment));
    let host = setup.host_network.then_some(door.uid);
    let calls = load.max_concurrency as usize;
    let mut variables = load.env;
    if setup.durable.is_some() {
        // Where the SDKs find the operations that `durable` serves, unless the function says otherwise.
        variables.entry(durable::ENDPOINT.to_owned()).or_insert(durable::endpoint(door.port));
    }
    let (runtime_env, extension_env) = environments(variables, door.port, &environment.token, setup.provided);
    let serving = environment.clone();
    let _door =
        Abort(tokio::spawn(accept(door.listener, host, calls, move |stream| http::serve(serving.clone(), stream))));
    let mut life = Life {
        environment,
        has_init: true,
        setup,
        init,
        runtime_env,
        extension_env,
        trying: None,
        relay: None,
        load: frame.header,
        runtime_ended: false,
        living: Vec::new(),
        connecting: Connecting::default(),
        next_connection: FIRST_CONNECTION,
        log,
    };
    life.start_extensions().await?;
    life.serve(&mut reader, &mut news, &mut retired).await
}

/// Ends a task with its holder.
pub(super) struct Abort(pub(super) tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Environment variables, whole.
type Variables = Vec<(String, String)>;

/// The environment variables of the runtime, and what of them extensions get (AWS's list of what they do not).
fn environments(mut env: BTreeMap<String, String>, port: u16, token: &str, provided: bool) -> (Variables, Variables) {
    let address = format!("127.0.0.1:{port}");
    if provided {
        env.remove("AWS_EXECUTION_ENV");
    }
    env.insert("AWS_LAMBDA_RUNTIME_API".to_owned(), address.clone());
    env.insert("AWS_LAMBDA_METADATA_API".to_owned(), address);
    env.insert("AWS_LAMBDA_METADATA_TOKEN".to_owned(), token.to_owned());
    env.entry("AWS_XRAY_CONTEXT_MISSING".to_owned()).or_insert_with(|| "LOG_ERROR".to_owned());
    const NOT_FOR_EXTENSIONS: &[&str] = &[
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_XRAY_CONTEXT_MISSING",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "_HANDLER",
    ];
    let runtime: Variables = env.into_iter().collect();
    let extensions = runtime.iter().filter(|(k, _)| !NOT_FOR_EXTENSIONS.contains(&k.as_str())).cloned().collect();
    (runtime, extensions)
}

/// Takes connections, as many at once as there may be where so many calls run side by side. `host`: the listener is on the machine's own
/// network, and only this user is let in.
pub(super) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    host: Option<u32>,
    calls: usize,
    serve: impl Fn(TcpStream) -> F,
) {
    let least = if calls > 1 { CONNECTIONS_CONCURRENT } else { CONNECTIONS };
    let places = Arc::new(Semaphore::new(least + CONNECTIONS_PER_CALL * calls));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the connection is gone already: others may still come.
                tracing::debug!(%error, "a connection to the Runtime API could not be taken");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let local = stream.local_addr();
        let serving = serve(stream);
        connections.spawn(async move {
            let _place = place;
            if let Some(uid) = host
                && !is_ours(uid, from, local).await
            {
                tracing::warn!(%from, "a stranger connected to the Runtime API of a function and was refused");
                return;
            }
            serving.await;
        });
    }
}

/// On the machine's own network: whether the connection comes out of the box.
async fn is_ours(uid: u32, from: SocketAddr, local: std::io::Result<SocketAddr>) -> bool {
    let (SocketAddr::V4(from), Ok(SocketAddr::V4(local))) = (from, local) else { return false };
    tokio::task::spawn_blocking(move || peer::is_of(uid, from, local)).await.unwrap_or(false)
}

/// Waits for the end of a process.
async fn over(ended: &mut watch::Receiver<Option<End>>) {
    ended.wait_for(Option::is_some).await.map(drop).ok();
}

/// The frames that the pool sends.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    t: std::borrow::Cow<'a, str>,
}

type Lost = Box<dyn std::error::Error + Send + Sync>;

impl Life {
    async fn start_extensions(&mut self) -> Result<(), Lost> {
        let name = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
        let begun = self.setup.extensions.iter().map(|path| (name(path), random_id())).collect();
        self.environment.on(Event::Begin(begun)).map_err(|m| format!("{m:?}"))?;
        for (at, path) in self.setup.extensions.iter().enumerate() {
            let id = at as u64 + 1;
            self.living.push(id);
            let printed = self.log.clone().and_then(|log| Some((log, output_pipe().ok()?)));
            let places = printed.as_ref().map(|(_, (_, theirs))| [(1, theirs.as_fd()), (2, theirs.as_fd())]);
            let places = places.as_ref().map_or(&[][..], |p| &p[..]);
            self.init.run(id, std::slice::from_ref(path), &self.extension_env, false, places).await?;
            if let Some((log, (from, _))) = printed {
                tokio::spawn(Pump::new("extension", from, log).run(self.environment.telemetry.clone()));
            }
        }
        Ok(())
    }

    /// Tries the next program that may be the runtime's; `false` when there is none left.
    async fn try_bootstrap(&mut self) -> Result<bool, Lost> {
        let next = self.trying.map_or(0, |at| at + 1);
        let Some(program) = self.setup.programs.get(next) else { return Ok(false) };
        self.trying = Some(next);
        let argv: Vec<String> = self.setup.wrapper.iter().chain(program).cloned().collect();
        let replace = self.setup.extensions.is_empty();
        if !self.setup.worker {
            self.init.run(RUNTIME, &argv, &self.runtime_env, replace, &[]).await?;
            return Ok(true);
        }
        let (ours, theirs) = worker_channel(self.setup.reply_bytes)?;
        let places = [(WORKER_CHANNEL, theirs.as_fd())];
        self.init.run(RUNTIME, &argv, &self.runtime_env, replace, &places).await?;
        self.relay = Some(relay::start(self.environment.clone(), ours, self.load.clone()));
        Ok(true)
    }

    async fn serve(
        &mut self,
        reader: &mut Reader,
        news: &mut mpsc::UnboundedReceiver<News>,
        retired: &mut oneshot::Receiver<()>,
    ) -> Result<(), Lost> {
        let window = tokio::time::sleep(self.setup.window);
        tokio::pin!(window);
        let mut waiting = true;
        let mut ended = self.environment.process.ended();
        loop {
            tokio::select! {
                frame = reader.next() => {
                    let frame = frame?;
                    let kind: Kind<'_> = serde_json::from_slice(&frame.header)?;
                    if kind.t == "more" {
                        self.environment.more(frame.header);
                        continue;
                    }
                    if kind.t != "invoke" {
                        return Err(format!("a frame '{}' for an environment", kind.t).into());
                    }
                    let invoke: Invoke = serde_json::from_slice(&frame.header)?;
                    self.environment.call(invoke, frame.header, frame.body);
                }
                said = self.init.next(), if self.has_init => {
                    if !self.hear(said?).await? {
                        return Ok(());
                    }
                }
                Some(told) = news.recv() => {
                    if !self.take(told).await? {
                        return Ok(());
                    }
                }
                () = &mut window, if waiting => {
                    waiting = false;
                    self.environment.on(Event::WindowOver).ok();
                }
                Ok(()) = &mut *retired => return self.goodbye(news).await,
                () = over(&mut ended) => return Ok(()),
            }
        }
    }

    /// `false`: it is over.
    async fn take(&mut self, news: News) -> Result<bool, Lost> {
        match news {
            News::StartRuntime => {
                if !self.try_bootstrap().await? {
                    return self.no_bootstrap().await;
                }
            }
            News::Ready => self.environment.say_ready().await,
            News::Failed { kind, name } => {
                let message = format!("the extension {name} failed");
                self.environment.fail_all("exit", |id| under(id, kind, &message)).await;
                return Ok(false);
            }
            News::Connect { port, tell } => self.connect(port, tell).await?,
            News::Idle { id } => self.environment.say_idle(&id).await,
            News::Over => return Ok(false),
        }
        Ok(true)
    }

    async fn connect(&mut self, port: u16, tell: oneshot::Sender<OwnedFd>) -> Result<(), Lost> {
        self.next_connection += 1;
        self.connecting.wait(self.next_connection, tell);
        self.init.connect(self.next_connection, port).await?;
        Ok(())
    }

    /// Takes a connection that the box's init has made, or its failure. `true` if it was one.
    fn connection(&mut self, said: &InitSays) -> bool {
        match said {
            InitSays::Connected { id } => {
                let made = self.init.descriptor();
                self.connecting.made(*id, made);
                true
            }
            InitSays::NotRun { id, .. } => self.connecting.made(*id, None),
            _ => false,
        }
    }

    /// What the box's init says. `false`: it is over.
    async fn hear(&mut self, said: Option<InitSays>) -> Result<bool, Lost> {
        match said {
            Some(said) if self.connection(&said) => {}
            // It has become the runtime's program, or it is gone, which its process tells.
            None => self.has_init = false,
            Some(InitSays::NotRun { id: RUNTIME, missing: true, .. }) if self.setup.wrapper.is_none() => {
                if !self.try_bootstrap().await? {
                    return self.no_bootstrap().await;
                }
            }
            Some(InitSays::NotRun { id: RUNTIME, errno, missing, first_line, .. }) => {
                let at = self.trying.unwrap_or(0);
                let program = self.setup.programs.get(at).and_then(|argv| argv.first());
                let program = self.setup.wrapper.as_ref().or(program).map_or("", String::as_str);
                let message = not_executable(program, errno, missing, first_line.as_deref());
                self.environment.fail_all("exit", |id| under(id, "Runtime.InvalidEntrypoint", &message)).await;
                return Ok(false);
            }
            Some(InitSays::Ended { id: RUNTIME, status }) => {
                self.runtime_ended = true;
                let (kind, end) = self.environment.end_of(status);
                self.environment.fail_all(kind, |id| crate::invoker::ended(id, end).1).await;
                return Ok(false);
            }
            Some(InitSays::Ended { id, .. }) => self.extension_ended(id),
            Some(InitSays::NotRun { id, errno, missing, first_line, .. }) => {
                self.living.retain(|living| *living != id);
                let path = self.setup.extensions.get(id as usize - 1).map_or("", String::as_str);
                let message = not_executable(path, errno, missing, first_line.as_deref());
                self.environment.fail_all("exit", |call| under(call, "Extension.LaunchError", &message)).await;
                return Ok(false);
            }
            Some(InitSays::BoxError { error }) => return Err(error.into()),
            Some(InitSays::Running { .. } | InitSays::Listening { .. } | InitSays::Connected { .. }) => {}
        }
        Ok(true)
    }

    fn extension_ended(&mut self, id: u64) {
        self.living.retain(|living| *living != id);
        let path = self.setup.extensions.get((id as usize).wrapping_sub(1));
        if let Some(name) = path.and_then(|p| p.rsplit('/').next()) {
            self.environment.on(Event::ExtensionEnded(name.to_owned())).ok();
        }
    }

    async fn no_bootstrap(&mut self) -> Result<bool, Lost> {
        let looked: Vec<&str> =
            self.setup.programs.iter().filter_map(|argv| argv.first()).map(String::as_str).collect();
        let message = format!("Couldn't find valid bootstrap(s): [{}]", looked.join(" "));
        self.environment.fail_all("exit", |id| under(id, "Runtime.InvalidEntrypoint", &message)).await;
        Ok(false)
    }

    /// Retired: programs that asked for it hear of the end and get the time that AWS gives them, others get none.
    async fn goodbye(&mut self, news: &mut mpsc::UnboundedReceiver<News>) -> Result<(), Lost> {
        let (external, internal) = {
            let inner = self.environment.lock();
            let external = inner.state.extensions().iter().any(|e| e.external);
            (external, !external && !inner.state.extensions().is_empty())
        };
        let window = match (external, internal) {
            (true, _) => GOODBYE_EXTERNAL,
            (_, true) => GOODBYE_INTERNAL,
            _ => return Ok(()),
        };
        let began = Instant::now();
        if self.has_init {
            self.init.signal(RUNTIME, SIGTERM).await?;
        } else {
            self.environment.process.terminate();
        }
        self.until(news, began + window * RUNTIME_PART / 100, |life| life.runtime_ended).await;
        if external {
            self.end_extensions(news, began, window).await?;
        }
        Ok(())
    }

    /// External extensions hear of the end, those that asked to, and get the rest of the time.
    async fn end_extensions(
        &mut self,
        news: &mut mpsc::UnboundedReceiver<News>,
        began: Instant,
        window: Duration,
    ) -> Result<(), Lost> {
        if !self.runtime_ended {
            self.init.signal(RUNTIME, SIGKILL).await?;
        }
        let left = window.saturating_sub(began.elapsed());
        self.environment.lock().shutdown_ms = now_ms() + u64::try_from(left.as_millis()).unwrap_or(0);
        self.environment.telemetry().flush();
        self.environment.on(Event::Shutdown).ok();
        let unasked: Vec<u64> = {
            let inner = self.environment.lock();
            let external = inner.state.extensions().iter().enumerate().filter(|(_, e)| e.external && !e.shutdown);
            external.map(|(at, _)| at as u64 + 1).collect()
        };
        for id in unasked {
            self.init.signal(id, SIGKILL).await?;
        }
        self.until(news, began + window, |life| life.living.is_empty()).await;
        Ok(())
    }

    /// Listens to the box's init until this holds, or until then, or until the box is gone.
    async fn until(&mut self, news: &mut mpsc::UnboundedReceiver<News>, when: Instant, holds: impl Fn(&Life) -> bool) {
        let mut process = self.environment.process.ended();
        while !holds(self) {
            let has_init = self.has_init;
            tokio::select! {
                said = self.init.next(), if has_init => match said {
                    Ok(Some(said)) if self.connection(&said) => {}
                    Ok(Some(InitSays::Ended { id: RUNTIME, .. })) => self.runtime_ended = true,
                    Ok(Some(InitSays::Ended { id, .. })) => self.extension_ended(id),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => self.has_init = false,
                },
                // The last telemetry still goes out.
                Some(told) = news.recv() => if let News::Connect { port, tell } = told {
                    self.connect(port, tell).await.ok();
                },
                () = over(&mut process) => return,
                () = tokio::time::sleep_until(when.into()) => return,
            }
        }
    }
}

/// A platform's error under the call that it answers; at initialisation nobody knows that yet.
fn under(id: &str, kind: &str, message: &str) -> String {
    match id {
        "" => body::error(kind, message),
        id => body::error(kind, &format!("RequestId: {id} Error: {message}")),
    }
}

/// Why a program could not be executed: as AWS says it, and what to do.
fn not_executable(program: &str, errno: i32, missing: bool, first_line: Option<&str>) -> String {
    if let (2, false, Some(line)) = (errno, missing, first_line) {
        let interpreter: String =
            line.trim_start_matches("#!").trim().chars().take(80).flat_map(char::escape_default).collect();
        let cure = match line.ends_with('\r') {
            true => {
                "its lines end in CRLF, and the kernel takes the CR for a part of the name: write them with LF alone"
                    .to_owned()
            }
            false => format!("{interpreter} in its first line is not in the box"),
        };
        return format!("fork/exec {program}: no such file or directory ({cure})");
    }
    let (why, cure) = match errno {
        2 if missing => ("no such file or directory", "it is neither in the function's code nor in a layer"),
        2 => {
            ("no such file or directory", "the interpreter in its first line, or its dynamic loader, is not in the box")
        }
        8 => (
            "exec format error",
            "it is a program for another processor, or a script without a first line like #!/bin/sh",
        ),
        13 => ("permission denied", "make it executable with chmod +x before it is zipped"),
        _ => ("it cannot be executed", "see the server's log"),
    };
    format!("fork/exec {program}: {why} ({cure})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_see_less_of_the_environment() {
        let env = ["_HANDLER", "AWS_EXECUTION_ENV", "MINE", "LAMBDA_TASK_ROOT"];
        let env: BTreeMap<_, _> = env.iter().map(|k| ((*k).to_owned(), "v".to_owned())).collect();
        let (runtime, extension) = environments(env, 9001, "t", true);
        let has = |env: &[(String, String)], key: &str| env.iter().any(|(k, _)| k == key);
        assert!(has(&runtime, "_HANDLER") && has(&runtime, "MINE") && !has(&runtime, "AWS_EXECUTION_ENV"));
        assert!(has(&extension, "MINE") && !has(&extension, "_HANDLER") && !has(&extension, "LAMBDA_TASK_ROOT"));
        let api = ("AWS_LAMBDA_RUNTIME_API".to_owned(), "127.0.0.1:9001".to_owned());
        assert!(runtime.contains(&api) && extension.contains(&api));
    }

    #[test]
    fn a_program_that_cannot_run_says_what_to_do() {
        for (errno, missing, part) in
            [(2, true, "layer"), (2, false, "interpreter"), (8, false, "#!"), (13, false, "chmod +x")]
        {
            let text = not_executable("/var/task/bootstrap", errno, missing, None);
            assert!(text.starts_with("fork/exec /var/task/bootstrap: ") && text.contains(part), "{text}");
        }
        for (line, part) in [("#!/bin/bahs -e", "/bin/bahs -e in its first line"), ("#!/bin/sh\r", "CRLF")] {
            let text = not_executable("/var/task/bootstrap", 2, false, Some(line));
            assert!(text.starts_with("fork/exec /var/task/bootstrap: no such file") && text.contains(part), "{text}");
        }
    }
}
