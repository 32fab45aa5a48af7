//! A node made of a map, whose functions do what the path of the request asks; and a client that speaks bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use offshoot_api::{ApiState, Backend, Options, serve_connection};
use offshoot_model::function::defaults;
use offshoot_model::invocation::FailureCause;
use offshoot_model::{
    Answer, CodeDigest, Convention, Error, ErrorKind, FunctionConfig, FunctionError, FunctionName, HttpReply,
    Invocation, Limits, Network, Outcome, Phases, Place, Reason, Report, RuntimeName, SandboxKind, StartKind,
};
use offshoot_node::durable::{self, Durable};
use offshoot_node::observe::LogEntry;
use offshoot_node::queue::{
    Boxed, Context, EventInvokeConfig, Host, NoCarrier, Opened, Pace, QueueLimits, QueueMetrics,
};
use offshoot_node::registry::Stats;
use offshoot_node::{
    Catalog, DeployRequest, Deployed, Keyring, Load, LogStore, Metrics, Queue, Registry, Roles, Settings, Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub struct Node {
    functions: Mutex<BTreeMap<FunctionName, Arc<Version>>>,
    logs: LogStore,
    queue: Queue,
    durable: Durable,
    keys: Keyring,
    roles: Roles,
    metrics: Metrics,
    limits: Limits,
    catalog: Arc<Catalog>,
    dir: tempfile::TempDir,
    uploads: PathBuf,
    pub invoked: AtomicU64,
    pub running: AtomicUsize,
    pub uploaded: AtomicU64,
}

/// Counts an invocation as running until it is dropped.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn config(name: FunctionName, convention: Convention) -> FunctionConfig {
    FunctionConfig {
        name,
        runtime: RuntimeName::parse("nodejs20.x").unwrap(),
        handler: "index.handler".into(),
        convention,
        memory: defaults::MEMORY,
        timeout: defaults::TIMEOUT,
        env: BTreeMap::new(),
        sandbox: SandboxKind::Process,
        network: Network::None,
        cpu: None,
        tmp: defaults::TMP,
        snapshot: false,
        max_concurrency: 1,
        concurrency: None,
        rate_limit: 0,
        keep_alive: None,
    }
}

/// Functions that refuse every asynchronous call, so that what is queued stays to be looked at.
struct Refusing;

impl Host for Refusing {
    fn run(&self, _: Invocation<Bytes>, _: Context) -> Boxed<'_, Result<Outcome<Bytes>, Error>> {
        Box::pin(async { Err(Error::new(ErrorKind::InvalidInput, "not here")) })
    }
    fn concurrency(&self, _: &FunctionName) -> Option<u32> {
        None
    }
    fn settings_for(&self, _: &FunctionName, _: Option<&str>) -> EventInvokeConfig {
        EventInvokeConfig::default()
    }
    fn arn(&self, function: &FunctionName, qualifier: &str) -> String {
        format!("{function}:{qualifier}")
    }
}

/// No function of this node is durable.
struct NotDurable(Place);

impl durable::Host for NotDurable {
    fn meant(&self, _: &FunctionName, _: Option<&str>) -> Option<durable::Meant> {
        None
    }
    fn is_durable(&self, _: &FunctionName) -> bool {
        false
    }
    fn run(&self, _: Invocation<Bytes>) -> Boxed<'_, Result<Outcome<Bytes>, Error>> {
        Box::pin(async { Err(Error::new(ErrorKind::InvalidInput, "not here")) })
    }
    fn runtime(&self, _: &FunctionName) -> Option<RuntimeName> {
        None
    }
    fn place(&self) -> &Place {
        &self.0
    }
    fn next_trace(&self, _: &FunctionName, trace: &str) -> Result<String, Error> {
        Ok(trace.to_owned())
    }
}

fn queue(dir: &Path, limits: &Limits) -> Queue {
    let (host, carrier) = (Arc::new(Refusing), Arc::new(NoCarrier));
    let opened = Opened::open(dir, Pace::AWS).unwrap();
    Queue::start(opened, QueueLimits::from(limits), host, carrier, QueueMetrics::default())
}

impl Node {
    pub fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uploads = dir.path().join("tmp");
        std::fs::create_dir(&uploads).unwrap();
        let runtimes = offshoot_node::RuntimeTable::start(offshoot_node::runtime::RuntimeOptions::default());
        let registry = Registry::open(&dir.path().join("data"), limits.clone(), runtimes).unwrap();
        let (catalog, _) = Catalog::new(registry, offshoot_model::Place::default());
        let node = Node {
            catalog,
            functions: Mutex::default(),
            logs: LogStore::open(&dir.path().join("logs"), limits.function_log_bytes).unwrap(),
            queue: queue(dir.path(), &limits),
            durable: Durable::start(
                durable::Opened::open(dir.path()).unwrap(),
                Arc::new(NotDurable(Place::default())),
                1,
            ),
            keys: Keyring::open(dir.path()).unwrap(),
            roles: Roles::open(dir.path()).unwrap(),
            metrics: Metrics::new("0"),
            limits,
            dir,
            uploads,
            invoked: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            uploaded: AtomicU64::new(0),
        };
        node.put("event", Convention::Event, &Settings::default(), 1);
        node.put("web", Convention::Request, &Settings::default(), 1);
        node
    }

    pub fn uploads_left(&self) -> usize {
        let _ = self.dir.path();
        std::fs::read_dir(&self.uploads).unwrap().count()
    }

    fn put(&self, name: &str, convention: Convention, settings: &Settings, size: u64) -> Arc<Version> {
        let name = FunctionName::parse(name).unwrap();
        let mut functions = self.functions.lock().unwrap();
        let mut config = config(name.clone(), settings.convention.unwrap_or(convention));
        config.rate_limit = settings.rate_limit.unwrap_or(0);
        config.timeout = settings.timeout.unwrap_or(config.timeout);
        let version = Arc::new(Version {
            config,
            revision: functions.get(&name).map_or(1, |v| v.revision + 1),
            code: CodeDigest::from_bytes(&[7; 32]),
            code_bytes: size,
            created_ms: 0,
            updated_ms: 1_000,
            stats: Arc::new(Stats::default()),
            number: None,
            opt: None,
            fields: None,
        });
        functions.insert(name, Arc::clone(&version));
        version
    }

    async fn web(&self, invocation: &Invocation<Bytes>) -> Result<Answer<Bytes>, Error> {
        let http = invocation.http.as_ref().unwrap();
        let reply = |status, headers: &[(&str, &str)], body: Bytes| {
            let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            Ok(Answer::Reply { http: Some(HttpReply { status, headers }), body })
        };
        let failed = |cause, body: &str| Ok(Answer::Failed(FunctionError { cause, body: body.into() }));
        let word = Bytes::from_static(b"body");
        match http.path.as_str() {
            "/hang" => std::future::pending().await,
            "/panic" => panic!("a bug on purpose"),
            "/big" => reply(200, &[], Bytes::from(vec![b'x'; 32 << 20])),
            "/inject" => reply(200, &[("x", "a\r\nSet-Cookie: b=c")], word),
            "/inject-name" => reply(200, &[("x\r\ny", "a")], word),
            "/framing" => {
                reply(200, &[("Transfer-Encoding", "chunked"), ("Content-Length", "1"), ("Connection", "x")], word)
            }
            "/many" => reply(200, &vec![("x", "y"); 10_000], word),
            "/status/999" => reply(999, &[], word),
            "/status/42" => reply(42, &[], word),
            "/status/101" => reply(101, &[], word),
            "/status/204" => reply(204, &[("x-a", "é")], word),
            "/spoof" => reply(200, &[("Offshoot-Request-Id", "mine")], word),
            "/fail/handler" => {
                failed(FailureCause::Handler, r#"{"errorType":"TypeError","errorMessage":"no such thing"}"#)
            }
            "/fail/timeout" => failed(FailureCause::Timeout, r#"{"errorMessage":"Task timed out after 3.00 seconds"}"#),
            "/fail/memory" => failed(FailureCause::OutOfMemory, "not json"),
            "/fail/init" => failed(FailureCause::Init, "{}"),
            "/fail/rate" => {
                let error = Error::new(ErrorKind::Throttled, "rate limit of 5 per second reached");
                Err(error.because(Reason::RateLimit))
            }
            "/fail/busy" => Err(Error::new(ErrorKind::Throttled, "all 3 instances are busy")),
            _ => {
                let body = serde_json::to_vec(&serde_json::json!({
                    "method": http.method, "path": http.path, "query": http.query, "headers": http.headers,
                    "body": String::from_utf8_lossy(&invocation.payload),
                }));
                reply(0, &[("content-type", "application/json")], body.unwrap().into())
            }
        }
    }
}

impl Backend for Node {
    async fn deploy(&self, request: DeployRequest, load: Load) -> Result<Deployed, Error> {
        let bytes = std::fs::read(&request.archive).unwrap();
        self.uploaded.store(bytes.len() as u64, Ordering::SeqCst);
        if bytes.starts_with(b"bad") {
            return Err(Error::new(ErrorKind::BadArchive, "error opening zip: it has no directory"));
        }
        let version = self.put(request.name.as_str(), Convention::Event, &request.settings, bytes.len() as u64);
        let warning = bytes.starts_with(b"sick").then(|| "it cannot be loaded".to_owned());
        Ok(Deployed { version, loaded: load != Load::No && warning.is_none(), warning })
    }
    async fn configure(&self, name: &FunctionName, settings: Settings) -> Result<Deployed, Error> {
        if self.get(name).is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no function {name}")));
        }
        let version = self.put(name.as_str(), Convention::Event, &settings, 1);
        Ok(Deployed { version, loaded: false, warning: None })
    }
    async fn delete(&self, name: &FunctionName) -> Result<(), Error> {
        let gone = self.functions.lock().unwrap().remove(name);
        gone.map(|_| self.logs.remove(name))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no function {name}")))
    }
    fn list(&self) -> Vec<Arc<Version>> {
        self.functions.lock().unwrap().values().cloned().collect()
    }
    fn get(&self, name: &FunctionName) -> Option<Arc<Version>> {
        self.functions.lock().unwrap().get(name).cloned()
    }
    async fn invoke(&self, invocation: Invocation<Bytes>) -> Result<Outcome<Bytes>, Error> {
        self.invoked.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&self.running);
        let result = match invocation.http {
            None => Answer::Reply { http: None, body: invocation.payload.clone() },
            Some(_) => self.web(&invocation).await?,
        };
        let line = LogEntry::platform(5, Some(Arc::from(invocation.id.as_str())), "said\x1b[31m");
        self.logs.append(&invocation.function, &[line]);
        Ok(Outcome {
            result,
            version: None,
            start: StartKind::Clone,
            phases: Phases { run: Duration::from_micros(900), ..Phases::default() },
            report: Report { peak_memory: 41 << 20, memory_limit: 128 << 20 },
            runtime: offshoot_model::RuntimeName::parse("nodejs20.x").unwrap(),
            log_tail: b"END\n".to_vec(),
        })
    }
    fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }
    fn instances(&self, _: &Version) -> u32 {
        0
    }
    fn keys(&self) -> &Keyring {
        &self.keys
    }
    fn roles(&self) -> &Roles {
        &self.roles
    }
    fn queue(&self) -> &Queue {
        &self.queue
    }
    fn durable(&self) -> &Durable {
        &self.durable
    }
    fn logs(&self) -> &LogStore {
        &self.logs
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn tmp_dir(&self) -> &Path {
        &self.uploads
    }
    fn ready(&self) -> bool {
        true
    }
}

/// A server on a port of its own.
pub struct Server {
    pub address: SocketAddr,
    pub state: Arc<ApiState<Node>>,
}

pub fn short() -> Options {
    let brief = Duration::from_millis(400);
    Options { head_timeout: brief, body_timeout: brief, write_timeout: brief, linger: brief, ..Options::default() }
}

pub fn small() -> Limits {
    Limits { request_bytes: 100_000, zipped_bytes: 1_000_000, ..Limits::default() }
}

impl Server {
    pub async fn start() -> Server {
        Self::with(Options::default(), small()).await
    }

    pub async fn with(options: Options, limits: Limits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = ApiState::new(Node::new(limits), options);
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((io, peer)) = listener.accept().await {
                io.set_nodelay(true).unwrap();
                tokio::spawn(serve_connection(io, Arc::clone(&shared), Some(peer)));
            }
        });
        Server { address, state }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes, keeps the sending side open, and reads until the server closes; gives up after three seconds.
    pub async fn raw(&self, bytes: &[u8]) -> Said {
        let mut io = self.connect().await;
        let _ = io.write_all(bytes).await;
        Said::until_close(&mut io).await
    }

    /// One request on its own connection.
    pub async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            text.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let said = self.raw(&[text.as_bytes(), body].concat()).await;
        Reply::parse(&said.bytes)
    }
}

/// What a server said on one connection.
pub struct Said {
    pub bytes: Vec<u8>,
    pub closed: bool,
}

impl Said {
    pub async fn until_close(io: &mut TcpStream) -> Said {
        let mut bytes = Vec::new();
        let read = async {
            let mut block = vec![0u8; 65_536];
            while let Ok(n) = io.read(&mut block).await {
                if n == 0 {
                    break;
                }
                bytes.extend_from_slice(&block[..n]);
            }
        };
        let closed = tokio::time::timeout(Duration::from_secs(3), read).await.is_ok();
        Said { bytes, closed }
    }

    /// How many answers there are, each told by its status line.
    pub fn answers(&self) -> usize {
        String::from_utf8_lossy(&self.bytes).matches("HTTP/1.").count()
    }

    pub fn status(&self) -> u16 {
        let text = String::from_utf8_lossy(&self.bytes);
        text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }
}

/// An answer taken apart.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Reply {
        let at = bytes
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: bytes[at + 4..].to_vec() }
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.split("\r\n").skip(1);
        lines.filter_map(|l| l.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}
