//! A real server and its processes, what it has of the machine, and the oracle that nothing of it is left behind.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Answer, Conn, Lang, PATIENCE, binary, form, lock};

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
        // Apart from those of another run of the tests, which may have left something.
        let run = std::process::id() % 1000 * 1_000_000;
        Self::start_as(data, 1_000_000 + run + number % 300 * UIDS, flags)
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
        if !flags.contains(&"--spares") && !std::env::var("SPARES").is_ok_and(|on| on == "1") {
            // Spares come and go by themselves; the tests that count processes and groups would have to guess.
            command.args(["--spares", "0"]);
        }
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
        Ok(Server {
            child: Mutex::new(child),
            pid,
            port,
            data: data.to_owned(),
            log,
            first_uid,
            seen: Mutex::default(),
            _dir: None,
        })
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
        // A name of its own: tests that share a server run side by side.
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("{case}-{}-{number}", lang.dir());
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
        let answer = self
            .request("GET", &format!("/logs/{name}?limit=10000"), &[("Accept", "application/x-ndjson")], b"")
            .expect(200);
        let lines = answer.text();
        lines
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .filter_map(|v| v["text"].as_str().map(str::to_owned))
            .collect()
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
            let more: Vec<u32> =
                all.iter().filter(|p| wanted.contains(&p.parent) && !wanted.contains(&p.pid)).map(|p| p.pid).collect();
            if more.is_empty() {
                break;
            }
            wanted.extend(more);
        }
        let family: Vec<Proc> =
            all.into_iter().filter(|p| p.pid != self.pid && (wanted.contains(&p.pid) || self.owns(p.uid))).collect();
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
    /// The processes of languages that are cloned: neither boxed, nor the server's own program.
    pub fn language_templates(&self) -> Vec<Proc> {
        let exe = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let own = exe(self.pid);
        let spare = |p: &Proc| p.name == "spare";
        self.family().into_iter().filter(|p| !self.owns(p.uid) && exe(p.pid) != own && !spare(p)).collect()
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
        fs::read_to_string(format!("/proc/{}/mountinfo", std::process::id()))
            .unwrap()
            .lines()
            .filter(|l| l.contains(&data))
            .count()
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
            assert!(
                Instant::now() < until,
                "left behind: {now:?}\nbefore: {before:?}\n{:?}\n{}",
                self.family(),
                self.said()
            );
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
            self.signal("TERM");
            for _ in 0..300 {
                if !self.running() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
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
        matches!(
            name,
            "lock"
                | "token"
                | "keys.json"
                | "roles.json"
                | "code"
                | "code.meta"
                | "archives"
                | "logs"
                | "runtime"
                | "workers"
                | "assets"
        ) || name.starts_with("registry.db")
            || name.starts_with("queue.db")
            || name.starts_with("executions.db")
            || name.starts_with("sources.db")
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
            Ok(kind) if kind.is_dir() => found.extend(
                fs::read_dir(entry.path()).into_iter().flatten().flatten().map(|e| e.path().display().to_string()),
            ),
            _ => found.push(entry.path().display().to_string()),
        }
    }
    let hex = |name: &str| {
        name.trim_end_matches(".json").len() == 64
            && name.trim_end_matches(".json").bytes().all(|b| b.is_ascii_hexdigit())
    };
    for dir in ["code", "code.meta"] {
        for entry in fs::read_dir(data.join(dir)).into_iter().flatten().flatten() {
            if !hex(&entry.file_name().to_string_lossy()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}
