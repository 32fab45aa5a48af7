//! What every test needs: a real server on a free port, a blocking HTTP client that can also misbehave, archives made of
//! folders, and the oracle that nothing is left behind.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary under test: the one that cargo built, or what the variable `BINARY` names (a release, say).
pub fn binary() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| std::env::var("BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_offshoot").to_owned()))
}
/// The longest that anything may take which has no time limit of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

// ── Languages ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A language that functions are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    Node,
    Python,
}

impl Lang {
    pub const ALL: [Lang; 2] = [Lang::Node, Lang::Python];

    pub fn dir(self) -> &'static str {
        match self {
            Lang::Node => "node",
            Lang::Python => "python",
        }
    }

    /// The zip of one of `tests/functions`.
    pub fn zip(self, case: &str) -> Vec<u8> {
        let dir = root().join("tests/functions").join(self.dir()).join(case);
        assert!(dir.is_dir(), "there is no function folder {}", dir.display());
        zip_of_dir(&dir)
    }

    /// The zip of a function of the request convention whose only file says this.
    pub fn inline(self, body: &str) -> Vec<u8> {
        match self {
            Lang::Node => zip_of(&[("index.js", format!("exports.handler = async (req) => ({{ body: {body} }});\n").as_bytes())]),
            Lang::Python => zip_of(&[("index.py", format!("def handler(req):\n    return {{\"body\": {body}}}\n").as_bytes())]),
        }
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Makes a module for each language out of functions that take one.
macro_rules! per_language {
    ($($name:ident)*) => {
        mod node { $(#[test] fn $name() { super::$name($crate::harness::Lang::Node) })* }
        mod python { $(#[test] fn $name() { super::$name($crate::harness::Lang::Python) })* }
    };
}
pub(crate) use per_language;

// ── What this machine cannot do ──────────────────────────────────────────────────────────────────────────────────────

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says aloud, past the test runner's capture, that something was not tested, and why.
pub fn skip(what: &str, why: &str) {
    let line = format!("SKIPPED {what}: {why}");
    let _ = writeln!(std::io::stderr(), "{line}");
    lock(&SKIPPED).push(line);
}

/// Everything that was skipped until now.
pub fn skipped() -> Vec<String> {
    lock(&SKIPPED).clone()
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ── Archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A zip with these files.
pub fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, data) in files {
        writer.start_file(*name, options).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A zip of a folder's content.
pub fn zip_of_dir(dir: &Path) -> Vec<u8> {
    fn walk(dir: &Path, prefix: &str, into: &mut Vec<(String, Vec<u8>)>) {
        let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
        entries.sort_by_key(|e| e.file_name());
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), into);
            } else {
                into.push((name, fs::read(entry.path()).unwrap()));
            }
        }
    }
    let mut files = Vec::new();
    walk(dir, "", &mut files);
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), d.as_slice())).collect();
    zip_of(&borrowed)
}

// ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// An answer as it came.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
    /// The same, if the status is this.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text().chars().take(600).collect::<String>());
        self
    }
    /// The member `error` of the body.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

/// One connection that is kept.
pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Conn {
    pub fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE * 2))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Conn { stream, buffer: Vec::new() })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes these bytes, whatever they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request with a length and reads its answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let mut whole = head.into_bytes();
        whole.extend_from_slice(body);
        // A server that refuses a body early may close its reading side: its answer is still to be read.
        let sent = self.send(&whole);
        self.answer(method == "HEAD").map_err(|e| sent.err().unwrap_or(e))
    }

    /// Reads one answer.
    pub fn answer(&mut self, head_only: bool) -> std::io::Result<Answer> {
        let torn = |what: &str| std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what.to_owned());
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                    break at;
                }
                if self.fill()? == 0 {
                    return Err(torn("closed before the end of the head"));
                }
            };
            let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 4);
            let mut lines = head.split("\r\n");
            let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
            let status: u16 = status.ok_or_else(|| torn("no status line"))?;
            let headers: Vec<(String, String)> =
                lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
            if status == 100 {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new() };
            if head_only || status == 204 || status == 304 {
                return Ok(answer);
            }
            if answer.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
                answer.body = self.chunks()?;
            } else if let Some(length) = answer.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
                while self.buffer.len() < length {
                    if self.fill()? == 0 {
                        return Err(torn("closed in the body"));
                    }
                }
                answer.body = self.buffer.drain(..length).collect();
            } else {
                while self.fill()? > 0 {}
                answer.body = std::mem::take(&mut self.buffer);
            }
            return Ok(answer);
        }
    }

    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let torn = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed in a chunk");
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    break at;
                }
                if self.fill()? == 0 {
                    return Err(torn());
                }
            };
            let size = usize::from_str_radix(String::from_utf8_lossy(&self.buffer[..end]).trim(), 16).map_err(|_| torn())?;
            while self.buffer.len() < end + 2 + size + 2 {
                if self.fill()? == 0 {
                    return Err(torn());
                }
            }
            body.extend_from_slice(&self.buffer[end + 2..end + 2 + size]);
            self.buffer.drain(..end + 2 + size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn fill(&mut self) -> std::io::Result<usize> {
        let mut block = [0; 65536];
        let n = self.stream.read(&mut block)?;
        self.buffer.extend_from_slice(&block[..n]);
        Ok(n)
    }

    /// Everything that still comes until the other side closes; `None` when it does not within this time.
    pub fn rest(&mut self, within: Duration) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let until = Instant::now() + within;
        loop {
            match self.fill() {
                Ok(0) => return Some(std::mem::take(&mut self.buffer)),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(_) => return Some(std::mem::take(&mut self.buffer)),
            }
            if Instant::now() > until {
                return None;
            }
        }
    }
}

pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

/// A `multipart/form-data` body and its content type.
pub fn form(fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> (String, Vec<u8>) {
    const BOUNDARY: &str = "----offshoot-test-boundary-5f1c";
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend_from_slice(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").as_bytes(),
        );
    }
    if let Some((name, data)) = file {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: application/zip\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

// ── Processes ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A process of this machine. The start time tells it from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proc {
    pub pid: u32,
    pub parent: u32,
    pub started: u64,
    pub name: String,
    pub uid: u32,
    pub state: char,
}

impl Proc {
    pub fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let words: Vec<&str> = tail.split_whitespace().collect();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uid = status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()?;
        Some(Proc {
            pid,
            parent: words.get(1)?.parse().ok()?,
            started: words.get(19)?.parse().ok()?,
            name: head.split_once('(')?.1.to_owned(),
            uid,
            state: words.first()?.chars().next()?,
        })
    }
    /// Whether this very process still runs (a zombie does not).
    pub fn alive(&self) -> bool {
        Proc::read(self.pid).is_some_and(|now| now.started == self.started && now.state != 'Z')
    }
    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }
}

/// Every process of this machine.
pub fn processes() -> Vec<Proc> {
    let names = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    names.filter_map(Proc::read).collect()
}

/// Sends a signal to a process of the server under test.
pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(done.is_ok(), "no program 'kill'");
}

/// Waits until the condition holds; the failure says what it was about.
#[track_caller]
pub fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < until, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// All servers are started by one thread that lives as long as the tests: they are killed with it, whatever happens.
fn spawn(command: Command) -> Child {
    type Job = (Command, mpsc::Sender<Child>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, back) in inbox {
                back.send(command.spawn().unwrap()).unwrap();
            }
        });
        Mutex::new(jobs)
    });
    let (back, child) = mpsc::channel();
    lock(spawner).send((command, back)).unwrap();
    child.recv().unwrap()
}

// ── The server ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a server has of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub instances: usize,
    pub processes: usize,
    pub threads: usize,
    pub descriptors: usize,
    pub cgroups: usize,
    pub mounts: usize,
    pub temporary: Vec<String>,
}

/// A running server.
pub struct Server {
    child: Mutex<Child>,
    pub pid: u32,
    pub port: u16,
    pub data: PathBuf,
    log: PathBuf,
    first_uid: u32,
    seen: Mutex<HashSet<Proc>>,
    _dir: Option<tempfile::TempDir>,
}

/// User ids of one server: servers of one machine must not share them.
const UIDS: u32 = 3000;
static SERVERS: AtomicU32 = AtomicU32::new(0);

/// Variables that must never reach a function.
pub const HOST_SECRET: &str = "canary-of-the-host-6c1f";

impl Server {
    /// A server on a data directory of its own.
    pub fn start(flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("offshoot-it-").tempdir().unwrap();
        let data = dir.path().join("data");
        let mut server = Self::start_on(&data, flags);
        server._dir = Some(dir);
        server
    }

    /// A server on this data directory.
    pub fn start_on(data: &Path, flags: &[&str]) -> Self {
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        Self::start_as(data, 300_000 + number % 10_000 * UIDS, flags)
    }

    /// A server on this data directory whose instances have these user ids.
    pub fn start_as(data: &Path, first_uid: u32, flags: &[&str]) -> Self {
        for attempt in 0.. {
            match Self::try_start(data, first_uid, flags) {
                Ok(server) => return server,
                // Somebody else took the port between our look at it and the server's.
                Err(said) if attempt < 3 && said.to_lowercase().contains("in use") => {}
                Err(said) => panic!("the server does not start: {said}"),
            }
        }
        unreachable!()
    }

    /// The command that starts a server.
    pub fn command(data: &Path, port: u16, first_uid: u32, flags: &[&str]) -> Command {
        let mut command = if Path::new("/usr/bin/setpriv").exists() {
            let mut wrapped = Command::new("/usr/bin/setpriv");
            wrapped.args(["--pdeathsig", "KILL", binary()]);
            wrapped
        } else {
            Command::new(binary())
        };
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"]).arg(data);
        command.args(["--uid-range", &format!("{first_uid}-{}", first_uid + UIDS - 1)]).args(flags);
        if !flags.contains(&"--warm-runtimes") {
            // A machine may have many languages, and a test needs one or two of them.
            command.args(["--warm-runtimes", "none"]);
        }
        for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("OFFSHOOT_")) {
            command.env_remove(name);
        }
        command.env("HOST_SECRET", HOST_SECRET).env("XDG_CONFIG_HOME", "/nonexistent");
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn try_start(data: &Path, first_uid: u32, flags: &[&str]) -> Result<Self, String> {
        let port = free_port();
        fs::create_dir_all(data).unwrap();
        let log = data.parent().unwrap().join(format!("server-{}.log", data.file_name().unwrap().to_str().unwrap()));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Self::command(data, port, first_uid, flags);
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let mut child = spawn(command);
        let until = Instant::now() + PATIENCE;
        loop {
            let healthy = Conn::open(port).and_then(|mut c| c.request("GET", "/health", &[], b""));
            if healthy.is_ok_and(|a| a.status == 200) {
                break;
            }
            if let Some(status) = child.try_wait().unwrap() {
                return Err(format!("it ended with {status}: {}", fs::read_to_string(&log).unwrap_or_default()));
            }
            if Instant::now() > until {
                let _ = child.kill();
                return Err(format!("it does not answer /health: {}", fs::read_to_string(&log).unwrap_or_default()));
            }
            thread::sleep(Duration::from_millis(10));
        }
        let pid = child.id();
        Ok(Server { child: Mutex::new(child), pid, port, data: data.to_owned(), log, first_uid, seen: Mutex::default(), _dir: None })
    }

    /// A new connection.
    #[track_caller]
    pub fn connect(&self) -> Conn {
        Conn::open(self.port).unwrap_or_else(|e| panic!("no connection: {e}; the server said: {}", self.said()))
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.connect().request(method, path, headers, body);
        answer.unwrap_or_else(|e| panic!("{method} {path}: {e}; the server said: {}", self.said()))
    }
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }
    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.request("POST", path, &[], body.as_ref())
    }

    /// Deploys whatever this is.
    #[track_caller]
    pub fn try_deploy(&self, name: &str, archive: &[u8], fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("funcName", name)];
        all.extend_from_slice(fields);
        let (kind, body) = form(&all, Some(("function.zip", archive)));
        self.request("POST", "/deploy", &[("Content-Type", &kind)], &body)
    }
    /// Deploys what can be deployed.
    #[track_caller]
    pub fn deploy(&self, name: &str, archive: &[u8], fields: &[(&str, &str)]) -> Value {
        self.try_deploy(name, archive, fields).expect(201).json()
    }
    /// Deploys one of `tests/functions` under the name `<case>-<language>`, which is returned.
    #[track_caller]
    pub fn deploy_case(&self, lang: Lang, case: &str, fields: &[(&str, &str)]) -> String {
        let name = format!("{case}-{}", lang.dir());
        self.deploy(&name, &lang.zip(case), fields);
        name
    }
    /// Calls by Glambdar's route.
    #[track_caller]
    pub fn invoke(&self, name: &str, body: impl AsRef<[u8]>) -> Answer {
        self.post(&format!("/invoke/{name}"), body)
    }
    /// Calls by the native route.
    #[track_caller]
    pub fn native(&self, name: &str, body: impl AsRef<[u8]>) -> Answer {
        self.post(&format!("/v1/functions/{name}/invoke"), body)
    }
    #[track_caller]
    pub fn delete(&self, name: &str) {
        self.request("DELETE", &format!("/del/{name}"), &[], b"").expect(204);
    }
    /// Deletes everything.
    pub fn clear(&self) {
        for function in self.get("/info").expect(200).json()["functions"].as_array().unwrap() {
            self.request("DELETE", &format!("/del/{}", function["name"].as_str().unwrap()), &[], b"");
        }
    }
    /// The texts of a function's log lines.
    pub fn logs(&self, name: &str) -> Vec<String> {
        let answer = self.request("GET", &format!("/logs/{name}?limit=10000"), &[("Accept", "application/x-ndjson")], b"").expect(200);
        let lines = answer.text();
        lines.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).filter_map(|v| v["text"].as_str().map(str::to_owned)).collect()
    }

    /// The end of what the server itself wrote.
    pub fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(6000)..]).into_owned()
    }

    /// The server's descendants, remembered for the end.
    pub fn family(&self) -> Vec<Proc> {
        let all = processes();
        let mut wanted = HashSet::from([self.pid]);
        loop {
            let more: Vec<u32> = all.iter().filter(|p| wanted.contains(&p.parent) && !wanted.contains(&p.pid)).map(|p| p.pid).collect();
            if more.is_empty() {
                break;
            }
            wanted.extend(more);
        }
        let family: Vec<Proc> = all.into_iter().filter(|p| p.pid != self.pid && (wanted.contains(&p.pid) || self.owns(p.uid))).collect();
        lock(&self.seen).extend(family.iter().cloned());
        family
    }
    fn owns(&self, uid: u32) -> bool {
        (self.first_uid..self.first_uid + UIDS).contains(&uid)
    }
    /// Processes that run in boxes: instances, function templates and what they started.
    pub fn boxed(&self) -> Vec<Proc> {
        self.family().into_iter().filter(|p| self.owns(p.uid) && p.state != 'Z').collect()
    }
    /// The process of each language that is cloned.
    pub fn language_templates(&self) -> Vec<Proc> {
        let family = self.family();
        let nurseries: Vec<u32> = family.iter().filter(|p| p.parent == self.pid).map(|p| p.pid).collect();
        family.into_iter().filter(|p| nurseries.contains(&p.parent) && !self.owns(p.uid)).collect()
    }

    /// What the server has of the machine now.
    pub fn usage(&self) -> Usage {
        let count = |dir: &str| fs::read_dir(dir).map(Iterator::count).unwrap_or(0);
        let family: Vec<Proc> = self.family().into_iter().filter(|p| p.state != 'Z').collect();
        Usage {
            instances: family.iter().filter(|p| self.owns(p.uid)).count(),
            processes: family.len(),
            threads: count(&format!("/proc/{}/task", self.pid)),
            descriptors: count(&format!("/proc/{}/fd", self.pid)),
            cgroups: self.cgroups().len(),
            mounts: self.mounts(),
            temporary: self.temporary(),
        }
    }
    /// Control groups of this server, below its own directory in each hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let id = server_id(&self.data);
        let mut found = Vec::new();
        for root in cgroup_roots() {
            let own = root.join("offshoot").join(&id);
            found.extend(fs::read_dir(own).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()));
        }
        found
    }
    fn mounts(&self) -> usize {
        let data = self.data.to_str().unwrap().to_owned();
        fs::read_to_string(format!("/proc/{}/mountinfo", std::process::id())).unwrap().lines().filter(|l| l.contains(&data)).count()
    }
    /// Files that nothing refers to: neither the registry, code of a deployed function, logs, nor the server's own files.
    pub fn temporary(&self) -> Vec<String> {
        leftovers(&self.data)
    }

    /// Waits until the server has no more of the machine than it had; threads and descriptors of the async runtime may
    /// breathe a little.
    #[track_caller]
    pub fn settles_to(&self, before: &Usage) {
        let mut now = self.usage();
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let within = now.instances <= before.instances
                && now.processes <= before.processes
                && now.threads <= before.threads + 8
                && now.descriptors <= before.descriptors + 4
                && now.cgroups <= before.cgroups
                && now.mounts <= before.mounts
                && now.temporary.len() <= before.temporary.len();
            if within {
                return;
            }
            assert!(Instant::now() < until, "left behind: {now:?}\nbefore: {before:?}\n{:?}\n{}", self.family(), self.said());
            thread::sleep(Duration::from_millis(50));
            now = self.usage();
        }
    }

    /// The server still serves, and has not noticed a bug of its own.
    #[track_caller]
    pub fn is_well(&self) {
        self.get("/health").expect(200);
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let panicked = said.lines().find(|l| l.contains("panicked at"));
        assert_eq!(panicked, None, "the server panicked: {}", self.said());
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }
    /// Waits for the server's end: its exit code, or `None` when a signal killed it.
    #[track_caller]
    pub fn wait(&self, within: Duration) -> Option<i32> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = lock(&self.child).try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "the server still runs after {within:?}: {}", self.said());
            thread::sleep(Duration::from_millis(10));
        }
    }
    pub fn running(&self) -> bool {
        lock(&self.child).try_wait().unwrap().is_none()
    }
    /// SIGKILL, and waits until nothing of the server is left.
    #[track_caller]
    pub fn kill(&self) {
        self.family();
        let _ = lock(&self.child).kill();
        let _ = lock(&self.child).wait();
        self.all_gone();
    }
    /// SIGTERM, a clean exit, and nothing left.
    #[track_caller]
    pub fn stop(&self) {
        self.family();
        self.signal("TERM");
        assert_eq!(self.wait(PATIENCE * 2), Some(0), "exit code after SIGTERM; {}", self.said());
        self.all_gone();
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new(), "control groups after the server's end");
        assert_eq!(self.mounts(), 0, "mounts after the server's end");
    }
    #[track_caller]
    fn all_gone(&self) {
        let seen: Vec<Proc> = lock(&self.seen).iter().cloned().collect();
        let mine = |p: &Proc| self.owns(p.uid) || seen.iter().any(|s| s.pid == p.pid && s.started == p.started);
        let mut left = Vec::new();
        for _ in 0..500 {
            left = processes().into_iter().filter(|p| p.state != 'Z' && mine(p)).collect();
            if left.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the server is gone and these still run: {left:?}");
    }
}

impl Drop for Server {
    /// A server that is still there must end well, with nothing left; a failed test does not care.
    fn drop(&mut self) {
        if !self.running() {
            return;
        }
        if thread::panicking() {
            let _ = lock(&self.child).kill();
            let _ = lock(&self.child).wait();
            if std::env::var_os("SHOW_SERVER_LOG").is_some() {
                let _ = writeln!(std::io::stderr(), "{}", self.said());
            }
            return;
        }
        self.is_well();
        self.stop();
    }
}

/// A server that the tests of one module share while any of them runs.
pub struct Shared {
    server: Mutex<Weak<Server>>,
    flags: &'static [&'static str],
}

impl Shared {
    pub const fn new(flags: &'static [&'static str]) -> Self {
        Shared { server: Mutex::new(Weak::new()), flags }
    }
    pub fn get(&self) -> Arc<Server> {
        let mut slot = lock(&self.server);
        if let Some(server) = slot.upgrade() {
            return server;
        }
        let server = Arc::new(Server::start(self.flags));
        *slot = Arc::downgrade(&server);
        server
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Every mounted hierarchy of control groups.
pub fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let words = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    words.filter(|w| w.get(2).is_some_and(|k| k.starts_with("cgroup"))).map(|w| PathBuf::from(w[1])).collect()
}

/// The name of a server's control groups: from its data directory, so that a restart finds what a crash left.
fn server_id(data: &Path) -> String {
    static KNOWN: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let path = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    if let Some(id) = lock(&KNOWN).get(&path) {
        return id.clone();
    }
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(path.to_str().unwrap().as_bytes()).unwrap();
    let digest = child.wait_with_output().unwrap().stdout;
    let id = format!("s{}", String::from_utf8_lossy(&digest[..12]));
    lock(&KNOWN).insert(path, id.clone());
    id
}

/// What lies in a data directory that is neither code, nor a log, nor one of the server's known files.
pub fn leftovers(data: &Path) -> Vec<String> {
    let known = |name: &str| {
        matches!(name, "lock" | "token" | "code" | "code.meta" | "logs" | "runtime" | "workers" | "assets")
            || name.starts_with("registry.db")
            || name.starts_with("runtime")
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(data).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if known(&name) {
            continue;
        }
        match entry.file_type() {
            // A working directory is fine, something in it is not.
            Ok(kind) if kind.is_dir() => found.extend(fs::read_dir(entry.path()).into_iter().flatten().flatten().map(|e| e.path().display().to_string())),
            _ => found.push(entry.path().display().to_string()),
        }
    }
    let hex = |name: &str| name.trim_end_matches(".json").len() == 64 && name.trim_end_matches(".json").bytes().all(|b| b.is_ascii_hexdigit());
    for dir in ["code", "code.meta"] {
        for entry in fs::read_dir(data.join(dir)).into_iter().flatten().flatten() {
            if !hex(&entry.file_name().to_string_lossy()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

// ── Small things ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// A generator of pseudo-random numbers that a seed makes again (xorshift64*).
pub struct Random(u64);

impl Random {
    /// From the variable `SEED`, else from the clock. The seed is said aloud by whoever fails.
    pub fn seed() -> u64 {
        let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
        given.unwrap_or_else(|| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1)
    }
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }
}

/// Runs the job in this many threads and gives back what each returned.
pub fn parallel<T: Send>(threads: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let job = &job;
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|i| scope.spawn(move || job(i))).collect();
        all.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    })
}

/// Compares with a file of `tests/golden`; `UPDATE_GOLDEN=1` writes it.
#[track_caller]
pub fn golden(name: &str, text: &str) {
    let path = root().join("tests/golden").join(name);
    let text = format!("{}\n", text.trim_end());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let wanted = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert_eq!(text, wanted, "{} differs; if that is meant, UPDATE_GOLDEN=1 writes it anew", path.display());
}

/// Base64 with padding, for the few bytes that tests put into JSON.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |all, b| all << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            out.push(if i <= group.len() { ALPHABET[(bits >> (18 - 6 * i)) as usize & 63] as char } else { '=' });
        }
    }
    out
}
