//! Drives a real nursery: boots programs in boxes, clones Python and Node.js templates, clones their clones, and looks at
//! each box from inside. Needs root; without it, it says so aloud and passes. Everything it starts lives in the nursery's
//! PID namespace, and every mount in a private mount namespace, so that nothing is left whatever happens here.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use offshoot_jail::frame;
use offshoot_jail::spec::{Answer, Bind, BoxSpec, Cookie, Network, Request, RootSpec};
use serde_json::{Value, json};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("__nursery") => {
            let Err(e) = offshoot_jail::nursery::run(None);
            eprintln!("nursery: {e}");
            std::process::exit(1);
        }
        Some("__probe") => println!("{}", serde_json::to_string(&offshoot_jail::probe::all()).unwrap()),
        _ => run(&arguments[1..]),
    }
}

/// One named check.
type Case = (&'static str, fn(&Ground));

const CASES: &[Case] = &[
    ("probe", probe),
    ("boot", boot),
    ("boot_failures", boot_failures),
    ("rootless", rootless),
    ("python_clone", python_clone),
    ("python_versions", python_versions),
    ("python_nested", python_nested),
    ("node_clone", node_clone),
    ("node_nested", node_nested),
    ("nursery_takes_all_along", nursery_takes_all_along),
    ("cgroups", cgroups),
    ("latency", latency),
];

fn run(filters: &[String]) {
    // SAFETY: reads no memory.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED boxes: building real boxes needs root, and this is not root");
        return;
    }
    let filters: Vec<&String> = filters.iter().filter(|f| !f.starts_with('-')).collect();
    let ground = Ground::new();
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for (name, case) in CASES {
        if filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())) {
            let start = Instant::now();
            case(&ground);
            println!("ok {name} ({} ms)", start.elapsed().as_millis());
        }
    }
    assert_eq!(before, std::fs::read_to_string("/proc/self/mountinfo").unwrap(), "a mount was left on the host");
}

/// What all cases share: a store of code and the library.
struct Ground {
    store: tempfile::TempDir,
    library: PathBuf,
    guests: PathBuf,
}

impl Ground {
    fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        for name in ["mine", "other"] {
            std::fs::create_dir(store.path().join(name)).unwrap();
            std::fs::write(store.path().join(name).join("index.py"), name).unwrap();
        }
        set_mode(store.path(), 0o755);
        let library = build_library();
        Self { store, library, guests: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests") }
    }

    fn root(&self) -> RootSpec {
        RootSpec {
            binds: vec![bind(&self.guests, "/var/runtime"), bind(&self.library, "/opt/libjail.so")],
            code_dir: Some(self.store.path().to_str().unwrap().to_owned()),
            hosts: None,
        }
    }
}

/// Builds the shared library as the server's build does, in a target directory of its own.
fn build_library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("library");
    let status = Command::new(env!("CARGO"))
        .args([
            "rustc",
            "--quiet",
            "--release",
            "--locked",
            "--lib",
            "--crate-type",
            "cdylib",
            "--features",
            "clone-lib",
        ])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--target-dir"])
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success(), "the shared library could not be built");
    target.join("release/liboffshoot_jail.so")
}

fn bind(from: &Path, to: &str) -> Bind {
    Bind { from: from.to_str().unwrap().to_owned(), to: to.to_owned(), writable: false }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

fn a_box() -> BoxSpec {
    BoxSpec {
        uid: 200_017,
        hostname: "sandbox".into(),
        network: Network::None,
        code: Some("mine".into()),
        opt: None,
        tmp_bytes: 16 << 20,
        tmp_inodes: 500,
        nofile: 1024,
        nproc: 64,
        core: 0,
        userns: true,
        landlock: true,
        nested: false,
        may_snapshot: false,
        cookie: None,
        rootless: false,
        waits: false,
        listens: false,
        writable: Vec::new(),
    }
}

/// A control socket, seen from the server.
struct Control {
    socket: UnixStream,
    next: u64,
    answers: Vec<(Answer, Option<OwnedFd>)>,
}

/// A started process, seen from the server.
struct Worker {
    id: u64,
    channel: UnixStream,
    stderr: OwnedFd,
    pidfd: Option<OwnedFd>,
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are then owned here.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

impl Control {
    fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, next: 1, answers: Vec::new() }
    }

    fn ask(&mut self, request: &mut Request, cgroups: &[RawFd]) -> Worker {
        request.id = self.next;
        self.next += 1;
        let (channel, theirs) = UnixStream::pair().unwrap();
        let (_, stdout) = pipe();
        let (stderr, stderr_in) = pipe();
        let (claims, _) = pipe();
        let mut fds = vec![theirs.as_raw_fd(), stdout.as_raw_fd(), stderr_in.as_raw_fd(), claims.as_raw_fd()];
        fds.extend(cgroups);
        frame::send(self.socket.as_raw_fd(), &serde_json::to_vec(request).unwrap(), &[], &fds).unwrap();
        channel.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Worker { id: request.id, channel, stderr, pidfd: None }
    }

    /// The first answer that fits, whatever comes before it.
    fn wait(&mut self, fits: impl Fn(&Answer) -> bool) -> (Answer, Option<OwnedFd>) {
        loop {
            if let Some(at) = self.answers.iter().position(|(a, _)| fits(a)) {
                return self.answers.remove(at);
            }
            let mut frame = recv(&self.socket).expect("the control socket is open");
            self.answers.push((serde_json::from_slice(&frame.header).unwrap(), frame.fds.pop()));
        }
    }

    fn start(&mut self, mut request: Request) -> Worker {
        self.start_in(&mut request, &[]).unwrap_or_else(|e| panic!("{e}"))
    }

    fn start_in(&mut self, request: &mut Request, cgroups: &[RawFd]) -> Result<Worker, String> {
        let mut worker = self.ask(request, cgroups);
        let id = worker.id;
        match self.wait(|a| matches!(a, Answer::Started { id: i } | Answer::Failed { id: i, .. } if *i == id)) {
            (Answer::Failed { error, .. }, _) => Err(error),
            (_, pidfd) => {
                worker.pidfd = Some(pidfd.expect("a pidfd comes with `started`"));
                Ok(worker)
            }
        }
    }

    fn exit_of(&mut self, worker: &Worker) -> i32 {
        let id = worker.id;
        match self.wait(|a| matches!(a, Answer::Exited { id: i, .. } if *i == id)) {
            (Answer::Exited { status, .. }, _) => status,
            other => panic!("{other:?}"),
        }
    }
}

/// A frame, or `None` at end of file; a timeout is an error in the test.
fn recv(socket: &UnixStream) -> Option<frame::Frame> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives across the call.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 20_000) }, 1, "nothing came for 20 seconds");
    frame::recv(socket.as_raw_fd(), 0).unwrap()
}

/// Whether a first byte arrives, and not the end of file.
fn ready(socket: &UnixStream) -> bool {
    let mut byte = [0u8; 1];
    // SAFETY: room for one byte; MSG_PEEK leaves it where it is, and descriptors with it.
    unsafe { libc::recv(socket.as_raw_fd(), byte.as_mut_ptr().cast(), 1, libc::MSG_PEEK) == 1 }
}

impl Worker {
    fn read(&self) -> Value {
        let mut poll = libc::pollfd { fd: self.channel.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives across the call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 15_000) }, 1, "no answer; the worker said: {}", self.said());
        match recv(&self.channel) {
            Some(frame) => serde_json::from_slice(&frame.header).unwrap(),
            None => panic!("the worker closed its channel; it said: {}", self.said()),
        }
    }

    fn said(&self) -> String {
        let mut text = String::new();
        let mut poll = libc::pollfd { fd: self.stderr.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives across the call.
        if unsafe { libc::poll(&raw mut poll, 1, 500) } == 1 {
            let mut buffer = [0; 4096];
            let mut file = std::fs::File::from(self.stderr.try_clone().unwrap());
            let n = file.read(&mut buffer).unwrap_or(0);
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        text
    }

    fn ask(&self, command: &Value) -> Value {
        self.tell(command);
        self.read()
    }

    fn tell(&self, command: &Value) {
        frame::send(self.channel.as_raw_fd(), &serde_json::to_vec(command).unwrap(), &[], &[]).unwrap();
    }
}

/// A nursery, with its process.
struct Nursery {
    control: Control,
    process: Child,
}

impl Nursery {
    fn start() -> Self {
        Self::start_as(None)
    }

    fn start_as(uid: Option<u32>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd();
        let mut command = Command::new("/proc/self/exe");
        command.arg("__nursery").stdin(Stdio::null());
        // SAFETY: dup2 and setresuid are async-signal-safe; the socket stays open until after the spawn.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(fd, 3) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                if let Some(uid) = uid {
                    libc::setgroups(0, std::ptr::null());
                    if libc::setresgid(uid, uid, uid) < 0 || libc::setresuid(uid, uid, uid) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let process = command.spawn().unwrap();
        Self { control: Control::new(ours), process }
    }

    fn template(&mut self, ground: &Ground, argv: &[&str], extra: &[Bind]) -> (Control, Worker, String) {
        let mut root = ground.root();
        root.binds.extend_from_slice(extra);
        let mut request = spawn(argv, root, None);
        // An interpreter built with a shared library knows only the directory that it was installed in.
        request.env.push("LD_LIBRARY_PATH=/var/lang/lib".to_owned());
        let worker = self.control.start(request);
        let mut control = Control::new(worker.channel.try_clone().unwrap());
        // A template that dies says why before its socket closes.
        assert!(ready(&control.socket), "the template closed its socket; it said: {}", worker.said());
        let announced = control.wait(|a| matches!(a, Answer::Template { .. } | Answer::BoxError { .. })).0;
        match announced {
            Answer::Template { version, threads } => {
                println!("   template {version}, {threads} thread(s)");
                (control, worker, version)
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        let _ = self.control.socket.shutdown(std::net::Shutdown::Both);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.process.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = self.process.kill();
                let _ = self.process.wait();
                if !std::thread::panicking() {
                    panic!("the nursery did not leave when its control socket closed");
                }
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn spawn(argv: &[&str], root: RootSpec, sandbox: Option<BoxSpec>) -> Request {
    let env = vec!["PATH=/usr/bin:/bin".to_owned(), "LANG=C.UTF-8".to_owned()];
    Request {
        t: "spawn".into(),
        id: 0,
        argv: argv.iter().map(|s| (*s).to_owned()).collect(),
        env,
        init: false,
        root,
        sandbox: sandbox.map(|b| BoxSpec { nested: false, ..b }),
    }
}

fn clone(sandbox: BoxSpec) -> Request {
    Request {
        t: "clone".into(),
        id: 0,
        argv: Vec::new(),
        env: Vec::new(),
        init: false,
        root: RootSpec::default(),
        sandbox: Some(sandbox),
    }
}

const PYTHON: &[&str] = &["/usr/bin/python3", "-B", "-I", "/var/runtime/template.py"];
const NODE: &[&str] = &["/usr/bin/node", "--single-threaded", "--v8-pool-size=0", "/var/runtime/template.js"];

fn probe(_: &Ground) {
    let out = Command::new("/proc/self/exe").arg("__probe").output().unwrap();
    let features: Vec<offshoot_jail::probe::Feature> = serde_json::from_slice(&out.stdout).unwrap();
    for f in &features {
        println!("   {} {}: {} {}", if f.available { "yes" } else { "NO " }, f.name, f.reason, f.remedy);
        assert!(f.available || !f.remedy.is_empty());
    }
    assert!(features.iter().filter(|f| f.required).all(|f| f.available));
}

/// User and group as a program sees them.
fn inside(spec: &BoxSpec) -> (u32, u32) {
    if spec.userns || spec.rootless { (993, 990) } else { (spec.uid, spec.uid) }
}

/// What every box must look like from inside.
fn check_inside(seen: &Value, spec: &BoxSpec) {
    let pretty = serde_json::to_string_pretty(seen).unwrap();
    let eq =
        |what: &str, want: Value| assert_eq!(seen.pointer(what).unwrap_or(&Value::Null), &want, "{what} in {pretty}");
    let (uid, gid) = inside(spec);
    eq("/pid", json!(1));
    eq("/ids", json!([[uid, uid, uid], [gid, gid, gid], []]));
    let home = "/tmp";
    eq("/user", json!(["sbx_user1051", "x", uid, gid, "", home, "/sbin/nologin"]));
    eq("/people", json!(["root", "sbx_user1051", "nobody"]));
    eq("/groups", json!(["root", "sbx_user1051", "nobody"]));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk"] {
        eq(&format!("/status/{set}"), json!("0000000000000000"));
    }
    eq("/status/NoNewPrivs", json!("1"));
    eq("/status/Seccomp", json!("2"));
    assert!(seen["pids"].as_array().unwrap().len() <= 2, "{pretty}");
    eq("/hostname", json!(spec.hostname));
    eq("/cwd", json!("/var/task"));
    eq("/task", json!(["index.py"]));
    eq("/code_dir_list", json!([]));
    eq(
        "/root",
        json!(["bin", "dev", "etc", "home", "lib", "lib64", "opt", "proc", "root", "run", "sbin", "tmp", "usr", "var"]),
    );
    eq("/dev", json!(["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]));
    eq("/interfaces", json!(["lo"]));
    eq("/loopback", json!("ok"));
    assert_eq!(seen["fds"].as_array().unwrap()[..5], [0, 1, 2, 3, 4].map(|fd| json!(fd)), "{pretty}");
    // What the function template left open (a file, a helper's pipe) has nothing behind it in its clones.
    assert!(seen["fds"].as_array().unwrap().len() <= 5 + 2 * usize::from(spec.nested), "{pretty}");
    eq("/limits", json!([[spec.nofile, spec.nofile], [spec.nproc, spec.nproc], [0, 0]]));
    for (path, want) in [
        ("/usr/x", "no"),
        ("/x", "no"),
        ("/etc/passwd", "no"),
        ("/etc/group", "no"),
        ("/var/task/x", "no"),
        ("/run/x", "no"),
        ("/var/runtime/x", "no"),
        ("/tmp/x", "ok"),
        ("/dev/shm/x", "ok"),
        ("/dev/null", "ok"),
    ] {
        let got = seen["write"][path].as_str().unwrap();
        assert_eq!(got == "ok", want == "ok", "write {path}: {got}");
    }
    eq("/fill", json!("ENOSPC"));
    assert_eq!(seen["inodes"][1], "ENOSPC", "{pretty}");
    for (path, exists) in seen["exists"].as_object().unwrap() {
        assert_eq!(exists, false, "{path}");
    }
    for (name, got) in seen["calls"].as_object().unwrap() {
        let want = match name.as_str() {
            "clone3" | "unknown" => "ENOSYS",
            _ => "EPERM",
        };
        // In a user namespace that has no 0 there is nothing to become.
        assert!(got == want || (name == "setuid0" && got == "EINVAL"), "{name}: {got}");
    }
    for (name, got) in seen["sockets"].as_object().unwrap() {
        match name.as_str() {
            "tcp" | "unix" => assert_eq!(got, "ok", "{name}"),
            "egress" => assert_eq!(got, "ENETUNREACH"),
            _ => assert_eq!(got, "EPERM", "{name}"),
        }
    }
    eq("/landlock", json!("ok"));
    eq("/child", json!(uid.to_string()));
    eq("/shm", json!("ok"));
    assert!(
        seen["cgroup"].as_array().unwrap().iter().all(|l| l == "" || l.as_str().unwrap().ends_with(":/")),
        "{pretty}"
    );
}

fn boot(ground: &Ground) {
    let mut nursery = Nursery::start();
    let spec = a_box();
    let worker = nursery.control.start(spawn(
        &["/usr/bin/python3", "-B", "/var/runtime/inside.py"],
        ground.root(),
        Some(spec.clone()),
    ));
    let seen = worker.read();
    check_inside(&seen, &spec);
    assert_eq!(seen["uid_map"], json!(["993", "200017", "1"]));
    assert_eq!(seen["env"], json!({"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}));
    assert_eq!(nursery.control.exit_of(&worker), 0);
    // Without its user namespace and Landlock: the mounts and the filter hold alone.
    let plain = BoxSpec { userns: false, landlock: false, ..a_box() };
    let worker = nursery.control.start(spawn(
        &["/usr/bin/python3", "-B", "/var/runtime/inside.py"],
        ground.root(),
        Some(plain.clone()),
    ));
    check_inside(&worker.read(), &plain);
    // A writable bind stays writable under Landlock.
    let shared = tempfile::tempdir().unwrap();
    set_mode(shared.path(), 0o777);
    let mut root = ground.root();
    root.binds.push(Bind { writable: true, ..bind(shared.path(), "/mnt/shared") });
    let worker = nursery.control.start(spawn(
        &["/bin/sh", "-c", "echo hi > /mnt/shared/x && mkdir /mnt/shared/d"],
        root,
        Some(spec),
    ));
    assert_eq!(nursery.control.exit_of(&worker), 0, "{}", worker.said());
    assert!(shared.path().join("x").exists() && shared.path().join("d").exists());
}

fn boot_failures(ground: &Ground) {
    let mut nursery = Nursery::start();
    let mut missing = ground.root();
    missing.binds.push(bind(Path::new("/nonexistent"), "/opt/x"));
    let mut climbing = ground.root();
    climbing.binds.push(bind(Path::new("/usr"), "/opt/../etc"));
    let cases: Vec<(Request, &str)> = vec![
        (spawn(&["/nope"], ground.root(), Some(a_box())), "execute /nope"),
        (spawn(&["/bin/true"], missing, Some(a_box())), "bind /nonexistent on /opt/x"),
        (spawn(&["/bin/true"], climbing, Some(a_box())), "not a plain absolute path"),
        (
            spawn(&["/bin/true"], ground.root(), Some(BoxSpec { code: Some("../etc".into()), ..a_box() })),
            "not the name of a code directory",
        ),
        (
            spawn(&["/bin/true"], ground.root(), Some(BoxSpec { code: Some("absent".into()), ..a_box() })),
            "/run/offshoot/code/absent",
        ),
        (spawn(&["/bin/true"], ground.root(), Some(BoxSpec { rootless: true, ..a_box() })), "rootless"),
        (spawn(&["/bin/true"], ground.root(), Some(BoxSpec { may_snapshot: true, ..a_box() })), "cookie"),
    ];
    for (request, want) in cases {
        let worker = nursery.control.start(request);
        let error = worker.read();
        assert_eq!(error["t"], "box_error");
        assert!(error["error"].as_str().unwrap().contains(want), "{error}");
        assert_eq!(nursery.control.exit_of(&worker), 125 << 8);
    }
    let error = nursery.control.start_in(&mut clone(a_box()), &[]).err().unwrap();
    assert!(error.contains("spawn"), "{error}");
    let signalled = nursery.control.start(spawn(&["/bin/sh", "-c", "sleep 60"], ground.root(), Some(a_box())));
    // SAFETY: a pidfd and a signal number.
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, signalled.pidfd.as_ref().unwrap().as_raw_fd(), libc::SIGKILL, 0, 0)
    };
    assert_eq!(nursery.control.exit_of(&signalled), libc::SIGKILL);
}

fn rootless(ground: &Ground) {
    // The test binary, the store and the library must be reachable for another user.
    let copy = tempfile::tempdir().unwrap();
    set_mode(copy.path(), 0o755);
    for (from, to) in [(std::env::current_exe().unwrap(), "boxes"), (ground.library.clone(), "libjail.so")] {
        std::fs::copy(from, copy.path().join(to)).unwrap();
    }
    std::fs::create_dir(copy.path().join("guests")).unwrap();
    for entry in std::fs::read_dir(&ground.guests).unwrap().flatten().filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), copy.path().join("guests").join(entry.file_name())).unwrap();
    }
    let root = RootSpec {
        binds: vec![
            bind(&copy.path().join("guests"), "/var/runtime"),
            bind(&copy.path().join("libjail.so"), "/opt/libjail.so"),
        ],
        ..ground.root()
    };
    let mut nursery = Nursery::start_as(Some(65534));
    let spec = BoxSpec { rootless: true, ..a_box() };
    let worker = nursery.control.start(spawn(
        &["/usr/bin/python3", "-B", "/var/runtime/inside.py"],
        root.clone(),
        Some(spec.clone()),
    ));
    let seen = worker.read();
    assert_eq!(seen["uid_map"], json!(["993", "0", "1"]), "{seen}");
    // The supplementary groups cannot be changed here, only emptied before; the rest is the same box.
    check_inside(&seen, &spec);
    let worker = nursery.control.start(spawn(&["/bin/true"], root.clone(), Some(a_box())));
    assert!(worker.read()["error"].as_str().unwrap().contains("set the user id") || worker.said().is_empty());
    let template = nursery.control.start(spawn(PYTHON, root, None));
    let mut control = Control::new(template.channel.try_clone().unwrap());
    control.wait(|a| matches!(a, Answer::Template { .. }));
    let worker = control.start(clone(spec.clone()));
    check_inside(&worker.ask(&json!({"do": "look"})), &spec);
}

fn python_clone(ground: &Ground) {
    let mut nursery = Nursery::start();
    let (mut control, template, _) = nursery.template(ground, PYTHON, &[]);
    let spec = a_box();
    let first = control.start(clone(spec.clone()));
    let second = control.start(clone(BoxSpec { uid: 200_018, code: Some("other".into()), ..spec.clone() }));
    check_inside(&first.ask(&json!({"do": "look"})), &spec);
    check_inside(&second.ask(&json!({"do": "look"})), &BoxSpec { uid: 200_018, ..spec.clone() });
    // Without a user namespace a clone is called the same under its own id.
    let plain = BoxSpec { uid: 200_019, userns: false, ..spec.clone() };
    check_inside(&control.start(clone(plain.clone())).ask(&json!({"do": "look"})), &plain);
    first.ask(&json!({"do": "threads"}));
    let random = |w: &Worker| w.ask(&json!({"do": "reseed"}))["ssl"].as_str().unwrap().to_owned();
    assert_ne!(random(&first), random(&second));
    first.tell(&json!({"do": "exit", "code": 7}));
    assert_eq!(control.exit_of(&first), 7 << 8);
    let error = control.start_in(&mut clone(BoxSpec { nested: true, ..spec.clone() }), &[]).err().unwrap();
    assert!(error.contains("nested"), "{error}");
    let broken = control.start(clone(BoxSpec { code: Some("absent".into()), ..spec.clone() }));
    assert!(broken.read()["error"].as_str().unwrap().contains("absent"));
    assert_eq!(control.exit_of(&broken), 125 << 8);
    // A clone outlives its template.
    drop(control);
    template.channel.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(nursery.control.exit_of(&template), 0);
    second.ask(&json!({"do": "ping"}));
}

/// Every interpreter of this machine that pyenv has built, where there is pyenv.
fn python_versions(ground: &Ground) {
    let home = std::env::var("PYENV_ROOT").or_else(|_| std::env::var("HOME").map(|h| format!("{h}/.pyenv"))).unwrap();
    let Ok(versions) = std::fs::read_dir(Path::new(&home).join("versions")) else {
        println!("   SKIPPED: no pyenv here");
        return;
    };
    let mut paths: Vec<PathBuf> = versions.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        let minor: u32 = name.split('.').nth(1).and_then(|m| m.parse().ok()).unwrap_or(0);
        if !name.starts_with("3.") || minor < 9 {
            continue;
        }
        let mut nursery = Nursery::start();
        let argv = ["/var/lang/bin/python3", "-B", "-I", "/var/runtime/template.py"];
        let (mut control, _template, _) = nursery.template(ground, &argv, &[bind(&path, "/var/lang")]);
        let worker = control.start(clone(a_box()));
        check_inside(&worker.ask(&json!({"do": "look"})), &a_box());
    }
}

const COOKIE: Cookie = Cookie([0x81c6_2b9e_f035_7da4, 0x9d3f_60c2_e58a_b719, 0xe3a1_4f0c_77d2_5b96]);

/// The cookie as it could lie in memory (its text, its words), each byte flipped so as not to be found itself.
fn needles() -> Value {
    let text = serde_json::to_string(&COOKIE).unwrap();
    let mut needles = vec![text.trim_matches('"').as_bytes().to_vec()];
    needles.extend(COOKIE.0.iter().map(|w| w.to_le_bytes().to_vec()));
    let hex = |b: Vec<u8>| b.iter().map(|b| format!("{:02x}", b ^ 0x55)).collect::<String>();
    json!(needles.into_iter().map(hex).collect::<Vec<_>>())
}

fn function_template(control: &mut Control) -> (Control, Worker) {
    let spec = BoxSpec { may_snapshot: true, cookie: Some(COOKIE), ..a_box() };
    let worker = control.start(clone(spec));
    worker.ask(&json!({"do": "ping"}));
    (Control::new(worker.channel.try_clone().unwrap()), worker)
}

fn nested_box(first: bool) -> BoxSpec {
    BoxSpec { nested: true, hostname: "nested".into(), cookie: first.then_some(COOKIE), ..a_box() }
}

fn python_nested(ground: &Ground) {
    let mut nursery = Nursery::start();
    let (mut language, _template, _) = nursery.template(ground, PYTHON, &[]);
    let (mut control, function) = function_template(&mut language);
    let found = function.ask(&json!({"do": "find", "needles": needles()}));
    assert_eq!(found, json!([]), "the function template can read its cookie");
    assert_eq!(function.ask(&json!({"do": "look"}))["calls"]["unshare"], "EPERM");
    assert_eq!(function.ask(&json!({"do": "snapshot"}))["t"], "ready");
    let mut workers = Vec::new();
    for i in 0..3 {
        let spec = nested_box(i == 0);
        let worker = control.start(clone(spec.clone()));
        check_inside(&worker.ask(&json!({"do": "look"})), &spec);
        let found = worker.ask(&json!({"do": "find", "needles": needles()}));
        assert_eq!(found, json!([]), "a clone can read the cookie");
        workers.push(worker);
    }
    workers[0].tell(&json!({"do": "exit", "code": 3}));
    assert_eq!(control.exit_of(&workers[0]), 3 << 8);
    let wrong = control.start_in(&mut clone(BoxSpec { cookie: Some(Cookie([1, 2, 3])), ..nested_box(true) }), &[]);
    assert!(wrong.err().unwrap().contains("namespaces"), "a wrong cookie opens nothing");
    // The language template still serves.
    language.start(clone(a_box())).ask(&json!({"do": "ping"}));
}

/// The descriptors of a Node.js clone that another process could hold too.
fn check_descriptors(mine: &Value, other: &Value) {
    let table = |v: &Value| -> BTreeMap<String, String> { serde_json::from_value(v.clone()).unwrap() };
    let (mine, other) = (table(mine), table(other));
    for (fd, target) in &mine {
        let private = target.starts_with("anon_inode:") || target == "/dev/null" || other.get(fd) != Some(target);
        assert!(private, "descriptor {fd} ({target}) is shared: {mine:?} {other:?}");
        assert!(!target.contains("/var/runtime"), "{target}");
    }
}

fn node_clone(ground: &Ground) {
    let mut nursery = Nursery::start();
    let (mut control, _template, _) = nursery.template(ground, NODE, &[]);
    let first = control.start(clone(a_box()));
    let second = control.start(clone(BoxSpec { uid: 200_018, ..a_box() }));
    let (a, b) = (first.ask(&json!({"do": "fds"})), second.ask(&json!({"do": "fds"})));
    println!("   descriptors of a clone: {a}");
    check_descriptors(&a, &b);
    check_work(&first.ask(&json!({"do": "work"})), 993);
    check_work(&second.ask(&json!({"do": "work"})), 993);
    assert_eq!(first.ask(&json!({"do": "uid"})), json!({"uid": 993, "pid": 1, "user": ["sbx_user1051", "/tmp"]}));
    let random = |w: &Worker| w.ask(&json!({"do": "reseed"}))["random"].as_str().unwrap().to_owned();
    assert_ne!(random(&first), random(&second));
    first.tell(&json!({"do": "exit", "code": 7}));
    assert_eq!(control.exit_of(&first), 7 << 8);
    second.ask(&json!({"do": "ping"}));
}

fn check_work(seen: &Value, uid: u32) {
    let key = seen["key"].as_str().map(str::len);
    assert_eq!(
        (&seen["text"], key, &seen["status"], &seen["thread"]),
        (&json!("hello"), Some(32), &json!(200), &json!(42)),
        "{seen}"
    );
    assert_eq!((&seen["child"], &seen["wasm"]), (&json!(uid.to_string()), &json!(42)), "{seen}");
}

fn node_nested(ground: &Ground) {
    let mut nursery = Nursery::start();
    let (mut language, _template, _) = nursery.template(ground, NODE, &[]);
    let (mut control, function) = function_template(&mut language);
    assert_eq!(function.ask(&json!({"do": "snapshot"}))["t"], "ready");
    let first = control.start(clone(nested_box(true)));
    let second = control.start(clone(nested_box(false)));
    check_descriptors(&first.ask(&json!({"do": "fds"})), &second.ask(&json!({"do": "fds"})));
    let random = |w: &Worker| w.ask(&json!({"do": "reseed"}))["random"].as_str().unwrap().to_owned();
    assert_ne!(random(&first), random(&second));
    check_work(&first.ask(&json!({"do": "work"})), 993);
    second.tell(&json!({"do": "exit", "code": 4}));
    assert_eq!(control.exit_of(&second), 4 << 8);
}

fn nursery_takes_all_along(ground: &Ground) {
    let mut nursery = Nursery::start();
    let (mut control, template, _) = nursery.template(ground, PYTHON, &[]);
    let worker = control.start(clone(a_box()));
    worker.ask(&json!({"do": "ping"}));
    drop(nursery);
    for ended in [&worker, &template] {
        let fd = ended.pidfd.as_ref().unwrap().as_raw_fd();
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives across the call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 5000) }, 1, "a process outlived the nursery");
    }
}

/// How long a start takes, from the request to the worker's first answer.
fn latency(ground: &Ground) {
    let mut nursery = Nursery::start();
    measure("boot of /bin/true to its end", 100, || {
        let start = Instant::now();
        let worker = nursery.control.start(spawn(&["/bin/true"], ground.root(), Some(a_box())));
        nursery.control.exit_of(&worker);
        start.elapsed()
    });
    for (name, argv) in [("python", PYTHON), ("node", NODE)] {
        let (mut control, _template, _) = nursery.template(ground, argv, &[]);
        for network in [Network::None, Network::Host] {
            let request = clone(BoxSpec { network, ..a_box() });
            measure(&format!("{name} clone, network {network:?}"), 200, || start_and_end(&mut control, &request));
        }
        let (mut function, worker) = function_template(&mut control);
        worker.ask(&json!({"do": "snapshot"}));
        let request = clone(nested_box(true));
        measure(&format!("{name} clone of a clone"), 200, || start_and_end(&mut function, &request));
        let crowd: Vec<Worker> = (0..20).map(|_| control.start(clone(a_box()))).collect();
        crowd.iter().for_each(|w| assert_eq!(w.ask(&json!({"do": "ping"}))["t"], "pong"));
    }
}

/// The time from the request to the first answer. The end that follows is not counted.
fn start_and_end(control: &mut Control, request: &Request) -> Duration {
    let start = Instant::now();
    let worker = control.start(request.clone());
    worker.ask(&json!({"do": "ping"}));
    let time = start.elapsed();
    worker.tell(&json!({"do": "exit", "code": 0}));
    assert_eq!(control.exit_of(&worker), 0);
    time
}

fn measure(name: &str, times: usize, run: impl FnMut() -> Duration) {
    let mut all: Vec<Duration> = std::iter::repeat_with(run).take(times).collect();
    all.sort();
    println!("   {name}: min {:?}, median {:?}, p99 {:?}", all[0], all[times / 2], all[times * 99 / 100]);
}

/// A cgroup of the test's own, removed at its end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let parent = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
            .into_iter()
            .find(|p| Path::new(p).join("cgroup.procs").exists())?;
        let path = Path::new(parent).join(format!("offshoot-test-{}", std::process::id()));
        std::fs::create_dir(&path).ok().map(|()| Self(path))
    }

    fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Booted, cloned, and cloned from a clone: each is in the cgroup that came with its request.
fn cgroups(ground: &Ground) {
    let Some(group) = Cgroup::new() else {
        println!("   SKIPPED: no cgroup can be made here");
        return;
    };
    let procs = std::fs::OpenOptions::new().write(true).open(group.procs()).unwrap();
    let count = || std::fs::read_to_string(group.procs()).unwrap().lines().count();
    let mut nursery = Nursery::start();
    let mut booting = spawn(&["/bin/sleep", "60"], ground.root(), Some(a_box()));
    let _booted = nursery.control.start_in(&mut booting, &[procs.as_raw_fd()]).unwrap();
    let (mut language, _template, _) = nursery.template(ground, PYTHON, &[]);
    let cloned = language.start_in(&mut clone(a_box()), &[procs.as_raw_fd()]).unwrap();
    cloned.ask(&json!({"do": "ping"}));
    assert_eq!(count(), 2);
    let (mut control, function) = function_template(&mut language);
    function.ask(&json!({"do": "snapshot"}));
    let nested = control.start_in(&mut clone(nested_box(true)), &[procs.as_raw_fd()]).unwrap();
    nested.ask(&json!({"do": "ping"}));
    assert_eq!(count(), 3);
    drop(nursery);
}
