//! AWS's emulator of the Runtime API against this server: the same program runs under both, gets the same events, and what callers
//! and the program itself see has to be the same. The emulator is the binary in the wheel of AWS's SAM CLI (`scripts/clients/python.sh`); where it and
//! AWS's service differ, or it cannot know better, the difference is listed at the end with its reason, both sides word for word.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::custom_runtimes::{misuse, too_late, zip_with_modes};
use crate::harness::{Answer, Conn, Server, Shared, base64, eventually, free_port, installed, root, skip};
use crate::official_clients::{python_client, zip};

static SERVER: Shared = Shared::new(&["--keep-alive-ms", "60000"]);

const FUNCTIONS: &str = "/2015-03-31/functions";

/// A program, its settings, and the events that it gets one after the other.
struct Story {
    name: &'static str,
    program: Program,
    env: &'static [(&'static str, &'static str)],
    timeout: u32,
    /// Whether the extension `watcher` runs beside it.
    watched: bool,
    events: Vec<Event>,
}

#[derive(Clone, Copy)]
enum Program {
    /// `tests/functions/provided/probe`.
    Probe,
    /// AWS's runtime client for Python with this handler of `APP`.
    Python(&'static str),
    /// A program of `target/clients` on a runtime client: the folder and the file in it.
    Built(&'static str, &'static str),
}

impl Program {
    /// Whether it is on this machine; said aloud if it is not.
    fn is_here(self) -> bool {
        match self {
            Program::Probe => true,
            Program::Python(_) => python_client().is_some(),
            Program::Built(part, file) => installed("a client under AWS's emulator", part, file).is_some(),
        }
    }
}

/// An event, and whether its answer has to be a function error.
struct Event(Value, bool);

fn good(event: Value) -> Event {
    Event(event, false)
}
fn bad(event: Value) -> Event {
    Event(event, true)
}

const TRACE: &str = "Root=1-5e1b4151-43a0913a12345678901234ab;Parent=53995c3f42cd8ad8;Sampled=1";
/// `{"custom":{"who":"ana"}}`
const CONTEXT: &str = "eyJjdXN0b20iOnsid2hvIjoiYW5hIn19";
const SAID: [(&str, &str); 2] = [("X-Amzn-Trace-Id", TRACE), ("X-Amz-Client-Context", CONTEXT)];

/// What varies is named: request ids, times, the account. JSON has its members in order, and no member that says when it was.
fn without_chance(text: &str) -> String {
    if text.len() > 1 << 20 {
        return format!("{} bytes of {:.20}", text.len(), text);
    }
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return named(text) };
    if let Some(headers) = value.get_mut("headers").and_then(Value::as_object_mut) {
        headers.remove("Date");
        // The emulator sends it only where several calls run at once; AWS's service always does.
        headers.remove("Lambda-Runtime-Invocation-Id");
        // It hands the caller's trace to extensions, but not to the runtime.
        let trace = headers.remove("Lambda-Runtime-Trace-Id");
        assert!(trace.is_none_or(|t| same_trace(&t)), "another trace");
    }
    if let Some(trace) = value.get_mut("trace").map(Value::take) {
        assert!(trace.is_null() || same_trace(&trace), "another trace");
    }
    // The emulator's account.
    named(&value.to_string()).replace("012345678912", "000000000000")
}

/// The caller's trace; ours counts runs in it, as AWS's service does and its emulator does not.
fn same_trace(trace: &Value) -> bool {
    trace.as_str().is_some_and(|t| t.split(";Lineage=").next() == Some(TRACE))
}

/// Without what our service, as AWS's, adds to a trace to count runs.
fn unlined(text: &str) -> String {
    let mut parts = text.split(";Lineage=");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit() || c == ':'));
    }
    out
}

fn named(text: &str) -> String {
    let mut out = String::new();
    let text = unlined(text);
    let bytes = text.as_bytes();
    let mut at = 0;
    let is_uuid = |part: &[u8]| {
        part.len() == 36
            && part.iter().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => *b == b'-',
                _ => b.is_ascii_hexdigit(),
            })
    };
    while at < bytes.len() {
        if bytes.get(at..at + 36).is_some_and(is_uuid) {
            out.push_str("$ID");
            at += 36;
            continue;
        }
        let digits = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 13 {
            out.push_str("$MS");
            at += digits;
            continue;
        }
        let step = digits.max(1);
        let step = if digits > 0 { step } else { text[at..].chars().next().map_or(1, char::len_utf8) };
        out.push_str(&text[at..at + step]);
        at += step;
    }
    out
}

fn probe() -> PathBuf {
    root().join("tests/functions/provided/probe/bootstrap")
}
fn built(part: &str, file: &str) -> PathBuf {
    root().join("target/clients").join(part).join(file)
}
/// The runtime client for Python, where it was installed.
fn client_dir() -> PathBuf {
    root().join("target/clients/awslambdaric")
}
fn watcher() -> PathBuf {
    root().join("tests/functions/provided/layer/extensions/watcher")
}

// ── The emulator ─────────────────────────────────────────────────────────────────────────────────────────────────────

struct Emulator {
    child: Child,
    port: u16,
    log: PathBuf,
    dir: tempfile::TempDir,
}

impl Emulator {
    /// Starts it around the program. It looks for extensions in `/opt`: it gets one of its own.
    fn start(binary: &Path, story: &Story) -> Result<Emulator, String> {
        let dir = tempfile::tempdir().unwrap();
        let opt = dir.path().join("opt");
        fs::create_dir_all(opt.join("extensions")).unwrap();
        if story.watched {
            fs::copy(watcher(), opt.join("extensions/watcher")).unwrap();
        }
        let log = dir.path().join("log");
        let file = File::create(&log).unwrap();
        let (port, api) = (free_port(), free_port());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
        command.arg("mount --bind \"$1\" /opt && shift && exec \"$@\"").arg("sh").arg(&opt).arg(binary);
        command.args(["--runtime-interface-emulator-address", &format!("127.0.0.1:{port}")]);
        command.args(["--runtime-api-address", &format!("127.0.0.1:{api}")]);
        command.env_clear();
        match story.program {
            Program::Probe => command.arg(probe()).arg("any").current_dir("/"),
            Program::Built(part, file) => command.arg(built(part, file)).arg("any").current_dir("/"),
            Program::Python(handler) => {
                fs::write(dir.path().join("app.py"), APP).unwrap();
                fs::write(dir.path().join("broken.py"), BROKEN).unwrap();
                command.env("LAMBDA_TASK_ROOT", dir.path()).env("PYTHONPATH", client_dir()).env("_HANDLER", handler);
                command.args(["/usr/bin/python3", "-m", "awslambdaric", handler]).current_dir(dir.path())
            }
        };
        command
            .env("_HANDLER", "any")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("AWS_LAMBDA_FUNCTION_NAME", "function");
        command.env("AWS_LAMBDA_FUNCTION_TIMEOUT", story.timeout.to_string());
        command.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256").envs(story.env.iter().copied());
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).stdin(Stdio::null()).spawn();
        let child = child.map_err(|e| format!("unshare: {e}"))?;
        let mut emulator = Emulator { child, port, log, dir };
        let until = Instant::now() + Duration::from_secs(10);
        while Conn::open(port).is_err() {
            if let Ok(Some(status)) = emulator.child.try_wait() {
                return Err(format!("it ended with {status}: {}", emulator.said()));
            }
            if Instant::now() > until {
                return Err(format!("it does not listen: {}", emulator.said()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(emulator)
    }

    /// The body that its caller gets. The rest of its answer is the emulator's own: its front is not that of AWS's service.
    fn call(&self, event: &Value) -> String {
        let path = format!("{FUNCTIONS}/function/invocations");
        let answer = Conn::open(self.port).unwrap().request("POST", &path, &SAID, event.to_string().as_bytes());
        answer.map_or_else(|e| format!("no answer: {e}"), |a| self.at_home(&without_chance(&a.text())))
    }

    /// The same text with the places of files as they are in a box.
    fn at_home(&self, text: &str) -> String {
        let text = text.replace(self.dir.path().to_str().unwrap(), "/var/task");
        text.replace(client_dir().to_str().unwrap(), "/var/task")
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What its programs printed, of the lines that are compared.
    fn told(&self) -> Vec<String> {
        self.said().lines().filter(|l| is_told(l)).map(without_chance_in_line).collect()
    }
}

/// Lines of the probe and of the watcher.
fn is_told(line: &str) -> bool {
    ["watcher ", "asked ", "answered ", "call ", "leaving "].iter().any(|start| line.starts_with(start))
}

fn without_chance_in_line(line: &str) -> String {
    // It registers extensions without the account, although they ask for it.
    named(line).replace("\"accountId\": \"000000000000\", ", "").replace("012345678912", "000000000000")
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ── This server ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn send(server: &Server, path: &str, body: &Value) -> Answer {
    server.request("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

/// Makes the same function here; a call waits until it is ready.
fn deploy(server: &Server, story: &Story) {
    let env: serde_json::Map<String, Value> = story.env.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    let (archive, handler) = match story.program {
        Program::Probe => (zip_with_modes(&[("bootstrap", &fs::read(probe()).unwrap(), 0o755)]), "any"),
        Program::Built(part, file) => {
            (zip_with_modes(&[("bootstrap", &fs::read(built(part, file)).unwrap(), 0o755)]), "any")
        }
        Program::Python(handler) => {
            let start = b"#!/bin/sh\nexec /usr/bin/python3 -m awslambdaric \"$_HANDLER\"\n";
            let files = [("bootstrap", &start[..], 0o755), ("app.py", APP, 0o644), ("broken.py", BROKEN, 0o644)];
            (zip(python_client().unwrap_or_default(), &files), handler)
        }
    };
    let mut layers = Vec::new();
    if story.watched {
        let watcher = fs::read(watcher()).unwrap();
        let layer = zip_with_modes(&[("extensions/watcher", &watcher, 0o755), ("readme", b"", 0o644)]);
        let body = json!({"Content": {"ZipFile": base64(&layer)}});
        let made = send(server, "/2018-10-31/layers/watcher/versions", &body).expect(201).json();
        layers.push(made["LayerVersionArn"].clone());
    }
    let body = json!({
        "FunctionName": story.name, "Runtime": "provided.al2023", "Role": "arn:aws:iam::000000000000:role/r", "Handler": handler,
        "Code": {"ZipFile": base64(&archive)}, "MemorySize": 256, "Timeout": story.timeout, "Environment": {"Variables": env},
        "Layers": layers,
    });
    send(server, FUNCTIONS, &body).expect(201);
    eventually("the function is active", Duration::from_secs(20), || {
        server.get(&format!("{FUNCTIONS}/{}/configuration", story.name)).expect(200).json()["State"] == "Active"
    });
}

/// The body that its caller gets; the rest has to be as AWS's service answers.
#[track_caller]
fn call(server: &Server, name: &str, Event(event, fails): &Event) -> String {
    let path = format!("{FUNCTIONS}/{name}/invocations");
    let answer = server.request("POST", &path, &SAID, event.to_string().as_bytes()).expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"), "{name} {event}");
    assert_eq!(answer.header("x-amz-function-error").is_some(), *fails, "{name} {event}: {:.300}", answer.text());
    in_emulators_words(name, &without_chance(&answer.text()))
}

/// The emulator knows one function's name.
fn in_emulators_words(name: &str, text: &str) -> String {
    text.replace(&format!("function:{name}"), "function:function")
        .replace(&format!("\"name\":\"{name}\""), "\"name\":\"function\"")
        .replace(&format!("\"functionName\": \"{name}\""), "\"functionName\": \"function\"")
}

fn told(server: &Server, name: &str) -> Vec<String> {
    let logs = server.logs(name);
    logs.iter().filter(|l| is_told(l)).map(|l| in_emulators_words(name, &without_chance_in_line(l))).collect()
}

// ── The stories ──────────────────────────────────────────────────────────────────────────────────────────────────────

const APP: &[u8] = br#"
class Own(Exception):
    pass

def handler(event, context):
    if event == "fail":
        raise Own("asked to")
    if event == "set":
        return {1, 2}
    if event == "exit":
        import sys
        sys.exit(4)
    if event == "deep":
        return inner()
    custom = context.client_context.custom if context.client_context else None
    return {"event": event, "arn": context.invoked_function_arn, "custom": custom, "memory": context.memory_limit_in_mb,
            "version": context.function_version, "identity": context.identity.cognito_identity_id}

def inner():
    return [][1]
"#;
const BROKEN: &[u8] = b"def handler(event, context)\n    return 1\n";

fn stories() -> Vec<Story> {
    let plain =
        || Story { name: "", program: Program::Probe, env: &[], timeout: 10, watched: false, events: Vec::new() };
    let raw = |bytes: &[u8]| good(json!({"do": "raw", "bytes": base64(bytes)}));
    let stream = |more: Value| {
        let mut event = json!({"do": "stream", "chunks": [base64(b"one "), base64(b"two")]});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let cause = |body: &str| {
        let kind = "application/vnd.aws.lambda.error.cause+json";
        bad(json!({"do": "fail-raw", "headers": {"Content-Type": kind}, "body": body}))
    };
    let python = |name, handler, events| Story { name, program: Program::Python(handler), events, ..plain() };
    vec![
        Story {
            name: "echoes",
            events: [json!({}), json!({"n": 1}), json!([1, "é"]), json!(null), json!("text")].map(good).into(),
            ..plain()
        },
        Story {
            name: "payloads",
            events: [&b"{\"a\":1.50, \"a\":2}"[..], b"", b"not json at all", b"null", b"\"text\"", b" [1]\n"]
                .map(raw)
                .into(),
            ..plain()
        },
        Story {
            name: "errors",
            events: vec![
                bad(json!({"do": "fail"})),
                bad(json!({"do": "fail", "headers": {"Lambda-Runtime-Function-Error-Type": "Function.Mine"}})),
                bad(json!({"do": "fail-raw", "body": "not json"})),
                bad(
                    json!({"do": "fail-raw", "body": "{\"errorMessage\":\"m\"}", "headers": {"Lambda-Runtime-Function-Error-Type": "Runtime.Own"}}),
                ),
                bad(json!({"do": "cause", "bytes": 1000})),
                cause(r#"{"errorMessage":"m","errorType":"T","stackTrace":["a","b"],"cause":{"secret":1}}"#),
                cause(r#"{"errorMessage":"m","errorType":"T","stackTrace":[],"cause":{"secret":1}}"#),
                cause(r#"{"errorMessage":"m"}"#),
                cause(r#"{"errorMessage":"","errorType":"","stackTrace":null}"#),
                cause("not json"),
                cause("{}"),
                cause("[]"),
                cause(r#"{"errorMessage":1}"#),
                good(json!({"do": "echo"})),
            ],
            ..plain()
        },
        Story {
            name: "empty-errors",
            events: vec![
                bad(json!({"do": "fail-raw", "body": ""})),
                bad(
                    json!({"do": "fail-raw", "body": "", "headers": {"Lambda-Runtime-Function-Error-Type": "Function.Mine"}}),
                ),
            ],
            ..plain()
        },
        Story {
            name: "misuse",
            events: vec![good(json!({"do": "ask", "requests": misuse()})), good(json!({}))],
            ..plain()
        },
        Story {
            name: "late",
            events: vec![good(json!({"do": "ask-after", "requests": too_late()})), good(json!({}))],
            ..plain()
        },
        Story {
            name: "sizes",
            events: [6_291_556u32, 6_291_557, 1000]
                .iter()
                .flat_map(|n| {
                    [Event(json!({"do": "big-told", "bytes": n}), *n == 6_291_557), good(json!({"do": "told"}))]
                })
                .collect(),
            ..plain()
        },
        Story {
            name: "streams",
            events: vec![
                good(stream(json!({}))),
                good(stream(
                    json!({"trailers": {"Lambda-Runtime-Function-Error-Type": "", "Lambda-Runtime-Function-Error-Body": ""}}),
                )),
                bad(stream(json!({"trailers": {"Lambda-Runtime-Function-Error-Type": "Runtime.StreamError",
                    "Lambda-Runtime-Function-Error-Body": base64(br#"{"errorMessage":"broke","errorType":"E"}"#)}}))),
            ],
            ..plain()
        },
        Story { name: "modes", events: vec![bad(json!({"do": "mode", "mode": "buffered"}))], ..plain() },
        Story { name: "truncated", events: vec![bad(json!({"do": "truncate"}))], ..plain() },
        Story {
            name: "exits",
            events: vec![
                bad(json!({"do": "exit", "code": 0})),
                good(json!({})),
                bad(json!({"do": "exit", "code": 127})),
                good(json!({})),
            ],
            ..plain()
        },
        Story { name: "signals", events: vec![bad(json!({"do": "signal"})), good(json!({}))], ..plain() },
        Story {
            name: "timeouts",
            // Long enough for the emulator to start the program again within it, on a busy machine too.
            timeout: 4,
            events: vec![bad(json!({"do": "sleep", "seconds": 20})), good(json!({}))],
            ..plain()
        },
        Story {
            name: "init-error",
            env: &[("INIT", "error")],
            events: vec![bad(json!({})), bad(json!({}))],
            ..plain()
        },
        Story { name: "init-exit", env: &[("INIT", "exit")], events: vec![bad(json!({}))], ..plain() },
        Story {
            name: "watched",
            watched: true,
            events: vec![good(json!({})), bad(json!({"do": "fail"})), good(json!({}))],
            ..plain()
        },
        Story {
            name: "watcher-init-error",
            env: &[("EXT", "init-error")],
            watched: true,
            timeout: 2,
            events: vec![bad(json!({}))],
            ..plain()
        },
        Story {
            name: "watcher-exits",
            env: &[("EXT", "exit-first")],
            watched: true,
            events: vec![bad(json!({}))],
            ..plain()
        },
        python(
            "python",
            "app.handler",
            vec![
                good(json!({"a": [1.5, "é", null]})),
                bad(json!("fail")),
                bad(json!("set")),
                bad(json!("deep")),
                good(json!([1])),
                bad(json!("exit")),
                good(json!(2)),
            ],
        ),
        python("python-none", "app.none", vec![bad(json!({}))]),
        python("python-no-module", "none.handler", vec![bad(json!({}))]),
        python("python-broken", "broken.handler", vec![bad(json!({}))]),
        python("python-no-dot", "handler", vec![bad(json!({}))]),
        Story {
            name: "rust",
            program: Program::Built("rust", "debug/bootstrap"),
            events: vec![
                good(json!({"a": [1.5, "é", null]})),
                bad(json!({"fail": true})),
                bad(json!({"panic": true})),
                good(json!(null)),
            ],
            ..plain()
        },
        Story {
            name: "go",
            program: Program::Built("go", "bootstrap"),
            events: vec![good(json!({"a": 1})), bad(json!({"Fail": true})), bad(json!([1])), good(json!({}))],
            ..plain()
        },
    ]
}

/// Where the two differ: the story, which of its events, what the emulator answers, what this server does, and why.
type Difference = (&'static str, usize, &'static str, &'static str, &'static str);

const DIFFERENCES: &[Difference] = &[
    (
        "empty-errors",
        0,
        "",
        r#"{"errorMessage":"","errorType":"Runtime.Unknown"}"#,
        "callers read an error's body as JSON: it is made of the type that the emulator would only log",
    ),
    ("empty-errors", 1, "", r#"{"errorMessage":"","errorType":"Function.Mine"}"#, "the same"),
    (
        "streams",
        2,
        "one two",
        r#"{"errorMessage":"broke","errorType":"E"}"#,
        "the emulator does not read trailers; AWS's Go client tells of a broken stream in them alone, and its service makes it the function's error",
    ),
    (
        "modes",
        0,
        "",
        r#"{"errorMessage":"Invalid function response mode","errorType":"Runtime.InvalidResponseModeHeader"}"#,
        "the emulator's front answers 502 with nothing; the type is the one that it logs",
    ),
    (
        "truncated",
        0,
        r#"{"errorMessage":"RequestId: $ID Error: Runtime exited with error: exit status 1","errorType":"Runtime.ExitError"}"#,
        r#"{"errorMessage":"RequestId: $ID Error: the response was truncated","errorType":"Runtime.TruncatedResponse"}"#,
        "half an answer makes the emulator's handler panic, and the runtime's next request is refused; here it goes on",
    ),
    (
        "timeouts",
        0,
        "Task timed out after 4.00 seconds",
        r#"{"errorMessage":"RequestId: $ID Error: Task timed out after 4.00 seconds","errorType":"Sandbox.Timedout"}"#,
        "as AWS's service tells it, recorded in November 2025",
    ),
    (
        "init-exit",
        0,
        "",
        r#"{"errorMessage":"RequestId: $ID Error: Runtime exited with error: exit status 7","errorType":"Runtime.ExitError"}"#,
        "the emulator's front answers 502 with nothing; the service answers as for an exit during a call",
    ),
    (
        "watcher-init-error",
        0,
        "Task timed out after 2.00 seconds",
        r#"{"errorMessage":"RequestId: $ID Error: the extension watcher failed","errorType":"Extension.InitError"}"#,
        "the emulator waits for an extension that has said that it cannot begin",
    ),
    (
        "watcher-exits",
        0,
        "",
        r#"{"errorMessage":"RequestId: $ID Error: the extension watcher failed","errorType":"Extension.Crash"}"#,
        "the emulator's front answers 502 with nothing",
    ),
];

#[test]
fn the_same_program_sees_and_shows_the_same_under_both() {
    let Some(home) = installed("AWS's emulator", "", "rie") else { return };
    let binary = home.join("rie");
    let server = SERVER.get();
    let (mut wrong, mut met) = (Vec::new(), Vec::new());
    for story in stories() {
        if !story.program.is_here() {
            continue;
        }
        let emulator = match Emulator::start(&binary, &story) {
            Ok(emulator) => emulator,
            Err(why) => return skip("AWS's emulator", &why),
        };
        deploy(&server, &story);
        for (number, event) in story.events.iter().enumerate() {
            let (theirs, ours) = (emulator.call(&event.0), call(&server, story.name, event));
            let known = DIFFERENCES.iter().find(|d| (d.0, d.1) == (story.name, number));
            met.extend(known.map(|d| (d.0, d.1)));
            if known.map_or(theirs != ours, |d| (d.2, d.3) != (theirs.as_str(), ours.as_str())) {
                let brief = |text: &str| text.chars().take(700).collect::<String>();
                let (theirs, ours) = (brief(&theirs), brief(&ours));
                wrong.push(format!("{} {number}\n  emulator {theirs}\n  offshoot {ours}", story.name));
            }
        }
        // What the programs printed: what they were told, and how often they ran. Which of the two was quicker does not count.
        let sorted = |mut lines: Vec<String>| {
            lines.sort_by_key(|l| l.starts_with("watcher "));
            lines
        };
        let both = || (sorted(emulator.told()), sorted(told(&server, story.name)));
        let until = Instant::now() + Duration::from_secs(3);
        let (mut theirs, mut ours) = both();
        while theirs != ours && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            (theirs, ours) = both();
        }
        if theirs != ours {
            wrong.push(format!("{} printed\n  emulator {theirs:#?}\n  offshoot {ours:#?}", story.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gone: Vec<_> = DIFFERENCES.iter().filter(|d| !met.contains(&(d.0, d.1))).map(|d| (d.0, d.1)).collect();
    assert!(gone.is_empty(), "listed, but nothing comes to them: {gone:?}");
}
