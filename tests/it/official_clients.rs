//! AWS's own runtime clients, unmodified, against the Runtime API of a box: Python, Node.js, Go (others in `runtime_clients.rs`). What
//! `scripts/clients.sh` could not install on this machine is skipped aloud.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::custom_runtimes::zip_with_modes;
use crate::harness::{Lang, Server, Shared, eventually, installed, parallel};

static SERVER: Shared = Shared::new(&["--keep-alive-ms", "3000"]);

/// A file of an archive: name, content, mode.
pub type File = (String, Vec<u8>, u32);

/// What a command prints, if it succeeds.
fn said(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() {
        return Ok(text(&done.stdout));
    }
    let error = text(&done.stderr);
    Err(error.lines().last().unwrap_or_default().to_owned())
}

/// The files of a directory, with their modes.
pub fn files_of(dir: &Path, prefix: &str, into: &mut Vec<File>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_name() == "__pycache__" || entry.file_name() == "bin" {
            continue;
        }
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files_of(&entry.path(), &format!("{name}/"), into),
            _ => into.push((name, fs::read(entry.path()).unwrap(), 0o644)),
        }
    }
}

pub fn zip(files: &[File], more: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut all: Vec<(&str, &[u8], u32)> = files.iter().map(|(n, b, m)| (n.as_str(), &b[..], *m)).collect();
    all.extend_from_slice(more);
    zip_with_modes(&all)
}

/// The official client for Python, for the interpreter that every box has: its files.
pub fn python_client() -> Option<&'static [File]> {
    static FILES: OnceLock<Option<Vec<File>>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let dir = installed("the official client for Python", "awslambdaric", "awslambdaric")?;
        let mut files = Vec::new();
        files_of(&dir, "", &mut files);
        Some(files)
    });
    files.as_deref()
}

const PYTHON_APP: &[u8] = br#"
import os, time
from snapshot_restore_py import register_before_snapshot, register_after_restore
hooks = []
register_before_snapshot(lambda: hooks.append("before"))
register_after_restore(lambda: hooks.append("after"))

def handler(event, context):
    if event.get("fail"):
        raise ValueError("asked to")
    if event.get("sleep"):
        time.sleep(event["sleep"])
    print("handled", context.aws_request_id)
    return {
        "event": event, "id": context.aws_request_id, "name": context.function_name, "hooks": hooks,
        "remaining": context.get_remaining_time_in_millis(), "pid": os.getpid(),
    }
"#;

#[track_caller]
pub fn reply(server: &Server, name: &str, event: &Value) -> Value {
    let answer = server.native(name, event.to_string()).expect(200);
    assert_eq!(answer.header("offshoot-function-error"), None, "{}\n{:?}", answer.text(), server.logs(name));
    answer.json()
}

/// What every client has to do: answer, fail, and answer again.
#[track_caller]
pub fn answers_and_fails(server: &Server, name: &str) {
    let answer = server.native(name, r#"{"a":[1,"é"]}"#).expect(200);
    assert_eq!(answer.header("offshoot-function-error"), None, "{}\n{:?}", answer.text(), server.logs(name));
    let seen = answer.json();
    assert_eq!(seen["id"].as_str(), answer.header("offshoot-request-id"), "{seen}");
    let failed = server.native(name, r#"{"fail":true}"#);
    assert!(failed.header("offshoot-function-error").is_some(), "{}", failed.text());
    assert_eq!(failed.json()["errorMessage"], "asked to", "{}", failed.text());
    reply(server, name, &json!({}));
}

#[test]
fn python_as_a_custom_runtime() {
    let Some(client) = python_client() else { return };
    let server = SERVER.get();
    let bootstrap = b"#!/bin/sh\nexec /usr/bin/python3 -m awslambdaric \"$_HANDLER\"\n";
    let archive = zip(client, &[("bootstrap", bootstrap, 0o755), ("app.py", PYTHON_APP, 0o644)]);
    server.deploy("ric", &archive, &[("handler", "app.handler"), ("runtime", "provided.al2023"), ("memory", "256")]);
    answers_and_fails(&server, "ric");
    let seen = reply(&server, "ric", &json!({"x": 1}));
    assert_eq!((&seen["event"], &seen["name"], &seen["pid"]), (&json!({"x": 1}), &json!("ric"), &json!(1)));
    assert!((1000..=30_000).contains(&seen["remaining"].as_i64().unwrap()), "{seen}");
}

#[test]
fn python_with_many_calls_at_once() {
    let Some(client) = python_client() else { return };
    let server = SERVER.get();
    let bootstrap = b"#!/bin/sh\nexec /usr/bin/python3 -m awslambdaric \"$_HANDLER\"\n";
    let archive = zip(client, &[("bootstrap", bootstrap, 0o755), ("app.py", PYTHON_APP, 0o644)]);
    let fields =
        [("handler", "app.handler"), ("runtime", "provided.al2023"), ("memory", "512"), ("maxConcurrency", "3")];
    server.deploy("ric-many", &archive, &fields);
    reply(&server, "ric-many", &json!({}));
    let began = Instant::now();
    let pids = parallel(3, |_| reply(&server, "ric-many", &json!({"sleep": 1.0}))["pid"].as_i64().unwrap());
    assert!(began.elapsed() < Duration::from_millis(2500), "one after the other: {:?}", began.elapsed());
    let different: std::collections::BTreeSet<_> = pids.iter().collect();
    assert_eq!(different.len(), 3, "the client's processes: {pids:?}");
}

#[test]
fn python_in_the_place_of_our_own_worker() {
    let Some(client) = python_client() else { return };
    let server = SERVER.get();
    // The wrapper is given the interpreter and what it would run; it runs something else with it.
    let wrapper = b"#!/bin/sh\nexec \"$1\" -m awslambdaric \"$_HANDLER\"\n";
    let archive = zip(client, &[("official", wrapper, 0o755), ("app.py", PYTHON_APP, 0o644)]);
    let version =
        said(Command::new("/usr/bin/python3").args(["-c", "import sys; print('python%d.%d' % sys.version_info[:2])"]));
    let version = version.unwrap();
    let env = r#"{"AWS_LAMBDA_EXEC_WRAPPER":"/var/task/official"}"#;
    let fields = [
        ("handler", "app.handler"),
        ("runtime", version.as_str()),
        ("convention", "event"),
        ("env", env),
        ("memory", "256"),
    ];
    server.deploy("ric-wrapped", &archive, &fields);
    answers_and_fails(&server, "ric-wrapped");
    assert_eq!(reply(&server, "ric-wrapped", &json!({}))["hooks"], json!([]));
    // With snapshots the client asks to be restored, and runs its hooks.
    server.deploy("ric-snap", &archive, &[&fields[..], &[("snapshot", "on")]].concat());
    assert_eq!(reply(&server, "ric-snap", &json!({}))["hooks"], json!(["before", "after"]));
}

#[test]
fn node_as_a_custom_runtime() {
    let client = installed("the official client for Node.js", "ric", "node_modules/aws-lambda-ric/rapid-client.node");
    let Some(client) = client else { return };
    let mut files = Vec::new();
    // Its other libraries are those that built it.
    for package in ["aws-lambda-ric/", "@aws/lambda-invoke-store/"] {
        let name = format!("node_modules/{package}");
        files_of(&client.join(&name), &name, &mut files);
    }
    files.retain(|(name, _, _)| !name.contains("/deps/"));
    let app = br#"
        exports.handler = async (event, context) => {
            if (event.fail) throw new Error('asked to');
            return { event, id: context.awsRequestId, arn: context.invokedFunctionArn, left: context.getRemainingTimeInMillis() };
        };
        exports.stream = awslambda.streamifyResponse(async (event, stream) => {
            stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'x-a': 'b' } });
            stream.write('one ');
            stream.write('two');
            stream.end();
        });
    "#;
    let bootstrap = b"#!/bin/sh\nexec /usr/bin/node node_modules/aws-lambda-ric/index.mjs \"$_HANDLER\"\n";
    let archive = zip(&files, &[("bootstrap", bootstrap, 0o755), ("index.js", app, 0o644)]);
    let server = SERVER.get();
    let fields = [("runtime", "provided.al2023"), ("memory", "256"), ("handler", "index.handler")];
    server.deploy("node-ric", &archive, &fields);
    answers_and_fails(&server, "node-ric");
    let fields = [("runtime", "provided.al2023"), ("memory", "256"), ("handler", "index.stream")];
    server.deploy("node-ric-stream", &archive, &fields);
    let answer = server.native("node-ric-stream", "{}");
    assert!(answer.text().ends_with("one two") && !answer.body.contains(&0), "{}", answer.text());
    let answer = server.invoke("node-ric-stream", "{}").expect(201);
    assert_eq!((answer.header("x-a"), answer.text().as_str()), (Some("b"), "one two"));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
}

#[test]
fn go_as_a_custom_runtime() {
    let Some(home) = installed("the official client for Go", "go", "bootstrap") else { return };
    let bootstrap = fs::read(home.join("bootstrap")).unwrap();
    let server = SERVER.get();
    server.deploy("go", &zip_with_modes(&[("bootstrap", &bootstrap, 0o755)]), &[]);
    answers_and_fails(&server, "go");
    let broken = server.native("go", r#"{"Stream":"half of it"}"#);
    assert!(broken.header("offshoot-function-error").is_some(), "{}", broken.text());
    assert_eq!(broken.json()["errorMessage"], "broke in the middle", "{}", broken.text());
    // Whoever takes it in pieces has what came before.
    let path = "/2021-11-15/functions/go/response-streaming-invocations";
    let pieces = server.post(path, r#"{"Stream":"half of it"}"#).expect(200).text();
    assert!(pieces.contains("PayloadChunk") && pieces.contains("half of it"), "{pieces}");
    assert!(pieces.contains("InvokeComplete") && pieces.contains("broke in the middle"), "{pieces}");
    // It asked to be told of the end, as an internal extension, and is when it has been idle for long enough.
    eventually("it says good-bye", Duration::from_secs(15), || {
        server.logs("go").iter().any(|l| l.contains("go says good-bye"))
    });
}

#[test]
fn a_wrapper_runs_around_our_own_workers() {
    let server = SERVER.get();
    let wrapper = b"#!/bin/sh\nexport FROM_WRAPPER=\"$# arguments\"\nexec \"$@\"\n";
    let node = b"exports.handler = async () => [process.env.FROM_WRAPPER, process.env.MINE, process.env._HANDLER];";
    let python = b"import os\ndef lambda_handler(event, context):\n    return [os.environ['FROM_WRAPPER'], os.environ['MINE'], os.environ['_HANDLER']]\n";
    let env = r#"{"AWS_LAMBDA_EXEC_WRAPPER":"/var/task/wrapper","MINE":"x"}"#;
    let ruby = b"def lambda_handler(event:, context:) = ENV.values_at('FROM_WRAPPER', 'MINE', '_HANDLER')\n";
    for (name, file, code, handler) in [
        ("wrapped-js", "index.js", &node[..], "index.handler"),
        ("wrapped-py", "lambda_function.py", python, "lambda_function.lambda_handler"),
        ("wrapped-rb", "lambda_function.rb", ruby, "lambda_function.lambda_handler"),
    ] {
        if name == "wrapped-rb" && !Lang::Ruby.is_here("a wrapper around Ruby's worker") {
            continue;
        }
        let archive = zip_with_modes(&[("wrapper", wrapper, 0o755), (file, code, 0o644)]);
        server.deploy(name, &archive, &[("env", env), ("convention", "event")]);
        let seen = reply(&server, name, &json!({}));
        assert!(seen[0].as_str().unwrap().ends_with(" arguments"), "{seen}");
        assert_eq!((&seen[1], &seen[2]), (&json!("x"), &json!(handler)));
    }
    // Several calls at once, and calls over HTTP, go through in the same way.
    let slow = b"exports.handler = async (req) => { await new Promise((go) => setTimeout(go, 600)); \
        return { statusCode: 201, headers: { 'x-path': req.path }, body: { n: (await req.json()).n, from: process.env.FROM_WRAPPER } }; };";
    let archive = zip_with_modes(&[("wrapper", wrapper, 0o755), ("index.js", slow, 0o644)]);
    server.deploy("wrapped-many", &archive, &[("env", env), ("maxConcurrency", "4")]);
    server.invoke("wrapped-many/a/b", r#"{"n":9}"#).expect(201);
    let began = Instant::now();
    parallel(4, |n| {
        let answer = server.post("/invoke/wrapped-many/a/b", json!({"n": n}).to_string()).expect(201);
        assert_eq!((answer.header("x-path"), &answer.json()["n"]), (Some("/a/b"), &json!(n)));
    });
    assert!(began.elapsed() < Duration::from_millis(1800), "one after the other: {:?}", began.elapsed());
    let archive = zip_with_modes(&[("index.js", b"exports.handler = async () => 1", 0o644)]);
    server.deploy("no-wrapper", &archive, &[("env", env), ("convention", "event")]);
    let failed = server.native("no-wrapper", "{}");
    assert_eq!(failed.json()["errorType"], "Runtime.InvalidEntrypoint", "{}", failed.text());
    assert!(failed.text().contains("/var/task/wrapper"), "{}", failed.text());
}
