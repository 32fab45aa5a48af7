//! What people are told, and told in time: a deployment of what cannot be loaded, names that nobody has, settings that are taken
//! back, versions by name, and what a stop waits for.

use std::fs;
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::run;
use crate::harness::{
    Conn, Lang, PATIENCE, Server, Shared, base64, binary, eventually, free_port, per_language, signal, skip, zip_of,
};

static SERVER: Shared = Shared::new(&["--limits-init-ms", "3000"]);

/// A directory with one file.
fn dir_of(file: &str, code: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(file), code).unwrap();
    dir
}

fn a_deployment_says_whether_the_function_loads(lang: Lang) {
    let server = SERVER.get();
    let (file, broken, good) = match lang {
        Lang::Node => {
            ("index.js", "console.log('half way'); throw new RangeError('no luck')", "exports.handler = async () => 1")
        }
        Lang::Python => {
            ("index.py", "print('half way')\nraise LookupError('no luck')\n", "def handler(req): return 1\n")
        }
        Lang::Ruby => ("index.rb", "puts 'half way'\nraise RangeError, 'no luck'\n", "def handler(req) = 1\n"),
    };
    let broken = dir_of(file, broken);
    let name = format!("broken-{}", lang.dir());
    for snapshot in ["off", "on"] {
        let args =
            ["deploy", broken.path().to_str().unwrap(), &name, "--handler", "index.handler", "--snapshot", snapshot];
        let done = run(&server, &args).exits(0).says(&["could not be initialised", "no luck", "half way"]);
        assert!(done.out.contains("deployed in") && !done.out.contains("ready"), "{}", done.out);
        let document = run(&server, &[&args[..], &["-o", "json"]].concat()).exits(0).json();
        assert_eq!(document["loaded"], false);
        assert!(document["warning"].as_str().unwrap().contains("no luck"), "{document}");
    }
    let good = dir_of(file, good);
    let done = run(
        &server,
        &["deploy", good.path().to_str().unwrap(), &name, "--handler", "index.handler", "--snapshot", "off"],
    )
    .exits(0);
    assert!(done.out.contains("ready in"), "{}", done.out);
    let native = server.native(&name, "").expect(200);
    assert_eq!(native.header("offshoot-start"), Some("warm"), "what was loaded serves the first call");
    // A client that asks for no load gets none.
    let plain = server.deploy(&format!("{name}-plain"), &lang.zip("init_fails"), &[]);
    assert_eq!((plain.get("loaded"), plain.get("warning")), (None, None));
}

fn a_strict_deployment_keeps_what_works(lang: Lang) {
    let server = SERVER.get();
    let (file, broken, good) = match lang {
        Lang::Node => {
            ("index.js", "throw new RangeError('no luck')", "exports.handler = async () => ({ body: 'works' })")
        }
        Lang::Python => ("index.py", "raise LookupError('no luck')\n", "def handler(req): return {'body': 'works'}\n"),
        Lang::Ruby => ("index.rb", "raise RangeError, 'no luck'\n", "def handler(req) = { body: 'works' }\n"),
    };
    let (broken, good) = (dir_of(file, broken), dir_of(file, good));
    for snapshot in ["off", "on"] {
        let name = format!("strict-{}-{snapshot}", lang.dir());
        let deploy = |dir: &tempfile::TempDir, more: &[&str]| {
            let path = dir.path().to_str().unwrap();
            let args = ["deploy", path, &name, "--handler", "index.handler", "--snapshot", snapshot, "--strict"];
            run(&server, &[&args[..], more].concat())
        };
        // A function that is not there yet is not there afterwards, and nothing of it is.
        deploy(&broken, &[]).exits(4).says(&["could not be initialised", "no luck", "nothing was deployed"]);
        run(&server, &["show", &name]).exits(4);
        run(&server, &["logs", &name]).exits(4);
        let revision = deploy(&good, &["-o", "json"]).exits(0).json()["revision"].clone();
        assert_eq!(server.invoke(&name, "").expect(200).json(), "works");
        let document = deploy(&broken, &["-o", "json"]).exits(4).json();
        assert_eq!((&document["error"]["kind"], &document["error"]["exitCode"]), (&json!("does-not-load"), &json!(4)));
        assert_eq!(run(&server, &["show", &name, "-o", "json"]).exits(0).json()["function"]["revision"], revision);
        let answer = server.native(&name, "").expect(200);
        assert_eq!(
            (answer.json(), answer.header("offshoot-start")),
            (json!("works"), Some("warm")),
            "its instances live on"
        );
        // It prints what it printed while it was tried.
        assert!(server.logs(&name).iter().any(|line| line.contains("no luck")), "{:?}", server.logs(&name));
        let other = deploy(&good, &["--env", "A=b", "-o", "json"]).exits(0).json();
        assert!(other["revision"].as_u64() > revision.as_u64() && other["loaded"] == true, "{other}");
    }
    server.is_well();
}

per_language! {
    a_strict_deployment_keeps_what_works
    a_deployment_says_whether_the_function_loads
}

/// The exit code of a command whose reader has gone before it says a word, as by `… | true`; `both`: nobody reads its complaints either.
fn unread(server: &Server, args: &[&str], both: bool) -> i32 {
    let (read, write) = std::io::pipe().unwrap();
    let mut command = Command::new(binary());
    command.args(args).env("OFFSHOOT_SERVER", format!("http://127.0.0.1:{}", server.port));
    command.stdin(Stdio::null()).stdout(write.try_clone().unwrap());
    if both {
        command.stderr(write)
    } else {
        command.stderr(Stdio::piped())
    };
    drop(read);
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!said.contains("panicked") && !said.contains("pipe"), "{args:?}: {said}");
    done.status.code().unwrap_or_else(|| panic!("{args:?} was killed: {}", done.status))
}

#[test]
fn who_stops_reading_changes_no_exit_code() {
    let server = SERVER.get();
    server.deploy("unread", &zip_of(&[("index.py", b"def handler(req):\n    print('line')\n    return 1\n")]), &[]);
    server.deploy("unread-fails", &zip_of(&[("index.py", b"def handler(req):\n    raise LookupError('no')\n")]), &[]);
    for (args, code) in [
        (&["ls"][..], 0),
        (&["ls", "-o", "json"], 0),
        (&["show", "unread"], 0),
        (&["invoke", "unread"], 0),
        (&["invoke", "unread-fails"], 1),
        (&["invoke", "unread-fails", "-o", "json"], 1),
        (&["logs", "unread"], 0),
        (&["logs", "unread", "-f"], 0),
        (&["logs", "nobody"], 4),
        (&["queue", "ls"], 0),
        (&["--help"], 0),
        (&["nonsense"], 2),
        (&["deploy", "--name", "x"], 2),
    ] {
        for both in [false, true] {
            assert_eq!(unread(&server, args, both), code, "{args:?}, errors unread: {both}");
        }
    }
    // One line, and then no more, while no other line comes.
    let address = format!("http://127.0.0.1:{}", server.port);
    let mut follows = Command::new(binary())
        .args(["logs", "unread", "-f"])
        .env("OFFSHOOT_SERVER", address)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(follows.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    drop(lines);
    let mut ended = None;
    eventually("the reader has gone", PATIENCE, || {
        ended = follows.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[test]
fn a_server_goes_on_that_nobody_listens_to() {
    let data = tempfile::tempdir().unwrap();
    let port = free_port();
    let (read, write) = std::io::pipe().unwrap();
    let mut command = Server::command(data.path(), port, 700_000, &["--log", "debug"]);
    let mut server = command.stdout(write.try_clone().unwrap()).stderr(write).spawn().unwrap();
    drop(command);
    let mut said = std::io::BufReader::new(read);
    let mut line = String::new();
    while !line.contains("serves") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0);
    }
    drop(said);
    for _ in 0..3 {
        assert_eq!(Conn::open(port).unwrap().request("GET", "/health", &[], b"").unwrap().status, 200);
    }
    signal(server.id(), "TERM");
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn a_token_that_can_be_guessed_is_remarked_on_where_others_reach_it() {
    let said_of = |listen: &str, token: &str| {
        let data = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", &format!("{listen}:{port}"), "--warm-runtimes", "none", "--data-dir"]);
        command.arg(data.path()).env("OFFSHOOT_TOKEN", token).env("XDG_CONFIG_HOME", "/nonexistent");
        let mut server = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("it serves", PATIENCE, || {
            Conn::open(port).and_then(|mut c| c.request("GET", "/health", &[], b"")).is_ok_and(|a| a.status == 200)
        });
        thread::sleep(Duration::from_millis(100));
        signal(server.id(), "TERM");
        assert_eq!(server.wait().unwrap().code(), Some(0));
        std::io::read_to_string(server.stderr.take().unwrap()).unwrap()
    };
    let said = said_of("0.0.0.0", "changeme");
    assert!(said.contains("it can be guessed") && said.contains("openssl rand -hex 32"), "{said}");
    assert!(!said.contains("changeme"), "{said}");
    for (listen, token) in [("127.0.0.1", "changeme"), ("0.0.0.0", "3b241101-e2bb-4255-8caf-4136c566a962")] {
        let said = said_of(listen, token);
        assert!(!said.contains("guessed"), "{said}");
    }
}

#[test]
fn a_bootstrap_that_cannot_be_executed_is_told_at_once() {
    let server = SERVER.get();
    let dir = dir_of("bootstrap", "#!/bin/sh\nexit 0\n");
    run(&server, &["deploy", dir.path().to_str().unwrap(), "unexecutable"]).exits(0).says(&["chmod +x"]);
}

#[test]
fn nobody_searches_for_names_that_are_not_there() {
    let server = SERVER.get();
    server.deploy("sorter", &Lang::Node.zip("echo"), &[]);
    for args in [
        &["queue", "ls", "sortre"][..],
        &["queue", "redrive", "--function", "sortre"],
        &["queue", "purge", "--function", "sortre"],
    ] {
        run(&server, args).exits(4).says(&["sortre", "did you mean 'sorter'?"]);
    }
    run(&server, &["queue", "ls", "sorter"]).exits(0).says(&["sorter: 0 waiting, 0 running, 0 delivering, 0 dead"]);
    let unknown = "ffffffff-ffff-4fff-bfff-ffffffffffff";
    for verb in ["redrive", "purge"] {
        run(&server, &["queue", verb, unknown]).exits(4).says(&[unknown, "is not in the queue"]);
    }
    let refused = server.request(
        "POST",
        "/v1/functions/sorter/invoke",
        &[("Offshoot-Invocation-Type", "Event"), ("Offshoot-On-Failure", "nobody")],
        b"",
    );
    assert!(
        refused.status == 400 && refused.text().contains("Offshoot-On-Failure names the function nobody"),
        "{}",
        refused.text()
    );
}

#[test]
fn keys_say_when_nobody_checks_them() {
    let server = SERVER.get();
    let done = run(&server, &["keys", "new", "tests"]).exits(0).says(&["--auth sigv4"]);
    assert!(done.out.contains("export AWS_SECRET_ACCESS_KEY="), "{}", done.out);
    let made = run(&server, &["keys", "new", "-o", "json"]).exits(0).json();
    assert_eq!(made["signaturesChecked"], false);
}

#[test]
fn versions_and_aliases_are_called_from_the_command_line() {
    let server = SERVER.get();
    let code = |n: u32| {
        base64(&zip_of(&[(
            "index.js",
            format!("exports.handler = async (e, c) => [{n}, c.functionVersion]").as_bytes(),
        )]))
    };
    let probe = server.deploy_case(Lang::Node, "echo", &[]);
    let runtime = server.get(&format!("/info/{probe}")).expect(200).json()["runtime"].clone();
    let functions = "/2015-03-31/functions";
    let made = json!({"FunctionName": "named", "Runtime": runtime, "Handler": "index.handler", "Role": "arn:aws:iam::000000000000:role/r",
        "Publish": true, "Code": {"ZipFile": code(1)}});
    server.post(functions, made.to_string()).expect(201);
    eventually("it is active", PATIENCE, || {
        server.get(&format!("{functions}/named/configuration")).json()["State"] == "Active"
    });
    server
        .request("PUT", &format!("{functions}/named/code"), &[], json!({"ZipFile": code(2)}).to_string().as_bytes())
        .expect(200);
    server.post(&format!("{functions}/named/aliases"), r#"{"Name":"live","FunctionVersion":"1"}"#).expect(201);
    for args in [&["named:live"][..], &["named", "--qualifier", "live"], &["named:1"], &["named:1", "--qualifier", "1"]]
    {
        assert_eq!(run(&server, &[&["invoke"], args].concat()).exits(0).json(), json!([1, "1"]), "{args:?}");
    }
    assert_eq!(run(&server, &["invoke", "named"]).exits(0).json(), json!([2, "$LATEST"]));
    run(&server, &["invoke", "named:absent"]).exits(4).says(&["has no version or alias 'absent'"]);
    run(&server, &["invoke", "named:1", "--qualifier", "2"]).exits(2).says(&["give one of them"]);
    let id = run(&server, &["invoke", "named:live", "--async", "--max-retries", "0", "--max-age", "5m"]).exits(0).out;
    eventually("the version was called", PATIENCE, || {
        server.logs("named").iter().any(|l| l.contains(id.trim()) && l.ends_with("Version: 1"))
    });
    run(&server, &["invoke", "named", "--max-retries", "1"]).exits(2).says(&["--async"]);
    run(&server, &["invoke", "named", "--async", "--max-retries", "9"]).exits(2).says(&["--max-retries"]);
}

#[test]
fn logs_are_found_by_the_beginning_of_an_id() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "echo", &[]);
    let ids: Vec<String> = (0..40)
        .map(|_| server.native(&name, "").expect(200).header("offshoot-request-id").unwrap().to_owned())
        .collect();
    let done = run(&server, &["logs", &name, "--request-id", &ids[0][..13]]).exits(0);
    let starts: Vec<&str> = done.out.lines().filter(|l| l.contains("START RequestId")).collect();
    assert!(starts.len() == 1 && starts[0].contains(&ids[0]), "{}", done.out);
    // Of forty ids at least two begin with the same hexadecimal digit.
    let twice = ids.iter().find(|a| ids.iter().filter(|b| b[..1] == a[..1]).count() > 1).unwrap();
    run(&server, &["logs", &name, "--request-id", &twice[..1]])
        .exits(4)
        .says(&["invocations have an id that begins with"]);
}

#[test]
fn functions_without_a_network_are_told_of_it() {
    let server = SERVER.get();
    for (lang, code) in [
        (Lang::Node, "exports.handler = async () => { await fetch('http://example.com/') }"),
        (Lang::Python, "import urllib.request\ndef handler(req): urllib.request.urlopen('http://example.com/')\n"),
    ] {
        let file = if lang == Lang::Node { "index.js" } else { "index.py" };
        let name = format!("reaches-{}", lang.dir());
        server.deploy(&name, &zip_of(&[(file, code.as_bytes())]), &[]);
        server.invoke(&name, "").expect(500);
        let hints = |name: &str| server.logs(name).iter().filter(|l| l.contains("--network host")).count();
        assert_eq!(hints(&name), 1, "{:?}", server.logs(&name));
    }
    let name = server.deploy_case(Lang::Node, "fails", &[]);
    server.invoke(&name, "").expect(500);
    assert!(!server.logs(&name).iter().any(|l| l.contains("--network")), "another error is another matter");
}

#[test]
fn events_are_handed_in_at_glambdars_route_too() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "echo", &[]);
    let accepted = server
        .request("PUT", &format!("/invoke/{name}/a/b?c=d"), &[("Offshoot-Invocation-Type", "Event")], b"x")
        .expect(202);
    let id = accepted.json()["requestId"].as_str().unwrap().to_owned();
    eventually("it was made", PATIENCE, || {
        server.logs(&name).iter().any(|l| l.starts_with("REPORT") && l.contains(&id))
    });
    server.request("POST", &format!("/invoke/{name}"), &[("Offshoot-Invocation-Type", "event")], b"").expect(400);
}

#[test]
fn settings_are_taken_back() {
    let server = SERVER.get();
    let zip = Lang::Node.zip("echo");
    server.deploy("back", &zip, &[("cpu", "0.5"), ("keepAlive", "90")]);
    let now = || -> (Value, Value) {
        let info = server.get("/info/back").expect(200).json();
        (info["cpu"].clone(), info["keepAlive"].clone())
    };
    assert_eq!(now(), (json!(0.5), json!(90_000)));
    server.deploy("back", &zip, &[("memory", "256")]);
    assert_eq!(now(), (json!(0.5), json!(90_000)), "what is not said stays");
    server.post("/config/back", r#"{"cpu":null}"#).expect(200);
    assert_eq!(now(), (Value::Null, json!(90_000)));
    server.deploy("back", &zip, &[("keepAlive", "default")]);
    assert_eq!(now(), (Value::Null, Value::Null));
    let refused = server.try_deploy("back", &zip, &[("timeout", "2h")]).expect(400);
    assert!(refused.text().contains("timeout is 2h: it must be from 1ms to 90m"), "{}", refused.text());
}

#[test]
fn refused_calls_are_not_counted() {
    let server = Server::start(&["--limits-queue-wait-ms", "50"]);
    server.deploy(
        "one",
        &zip_of(&[("index.js", b"exports.handler = () => new Promise((r) => setTimeout(r, 1500))")]),
        &[("concurrency", "1")],
    );
    thread::scope(|scope| {
        let first = scope.spawn(|| server.invoke("one", "").expect(200));
        eventually("it runs", PATIENCE, || server.get("/info/one").json()["invokeCount"] == 1);
        thread::sleep(Duration::from_millis(300));
        server.invoke("one", "").expect(429);
        server.invoke("one", "").expect(429);
        first.join().unwrap();
    });
    assert_eq!(server.get("/info/one").json()["invokeCount"], 1);
}

/// A deployment that has begun when the server is told to stop is carried out and answered.
#[test]
fn a_stop_waits_for_deployments() {
    let server = Server::start(&["--prewarm=false"]);
    let slow = zip_of(&[(
        "index.js",
        b"Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500); exports.handler = async () => 1",
    )]);
    thread::scope(|scope| {
        let deploying = scope.spawn(|| server.try_deploy("slow", &slow, &[("snapshot", "on")]));
        eventually("it is being made ready", PATIENCE, || server.get("/info/slow").status == 200);
        server.signal("TERM");
        deploying.join().unwrap().expect(201);
    });
    assert_eq!(server.wait(PATIENCE), Some(0));
}

/// Memory that the templates of idle functions hold is found when there is too little.
#[test]
fn templates_of_idle_functions_give_their_memory_back() {
    let server = Server::start(&["--limits-memory-budget-mib", "1", "--prewarm=false", "--spares", "0"]);
    server.deploy("snap", &Lang::Python.zip("echo"), &[("snapshot", "on")]);
    if server.cgroups().is_empty() {
        return skip("templates of idle functions", "this machine counts no memory of instances");
    }
    eventually("nothing of the function is left", PATIENCE, || server.boxed().is_empty());
    assert_eq!(server.native("snap", "").expect(200).header("offshoot-start"), Some("restore"), "and it is made again");
}

/// Without root everything that has to be accepted is said at once.
#[test]
fn without_root_all_that_is_missing_is_said_at_once() {
    // Where another user can execute it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("offshoot");
    fs::copy(binary(), &copy).unwrap();
    let refused = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(["serve", "--port", "0", "--data-dir", "/nonexistent/data"])
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .output();
    let Ok(refused) = refused else { return skip("a server without root", "there is no setpriv") };
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("--allow-degraded uid,cgroup"), "{said}");
}

/// A process that keeps a processor busy, until this goes.
struct Busy(std::process::Child);

impl Busy {
    fn begin() -> Self {
        Busy(std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// On a busy machine one clone that is late is no reason to end a template.
#[test]
fn a_template_may_be_late_on_a_busy_machine() {
    let server = Server::start(&["--spares", "0", "--prewarm=false"]);
    server.deploy("fn", &Lang::Node.zip("echo"), &[]);
    server.native("fn", "").expect(200);
    let templates = server.language_templates();
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let busy: Vec<_> = (0..cores * 4).map(|_| Busy::begin()).collect();
    templates.iter().for_each(|t| t.signal("STOP"));
    server.post("/config/fn", r#"{"env":{"A":"1"}}"#).expect(200);
    let began = Instant::now();
    let booted = server.native("fn", "").expect(200);
    templates.iter().for_each(|t| t.signal("CONT"));
    drop(busy);
    assert_eq!(booted.header("offshoot-start"), Some("boot"), "after {:?}", began.elapsed());
    assert!(templates.iter().all(|t| t.alive()), "one late clone");
    server.post("/config/fn", r#"{"env":{"A":"2"}}"#).expect(200);
    assert_eq!(server.native("fn", "").expect(200).header("offshoot-start"), Some("clone"));
}
