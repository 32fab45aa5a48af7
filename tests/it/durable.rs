//! Durable executions: AWS's own SDKs for Python and JavaScript, unmodified, inside functions, and boto3 outside (all three from
//! `scripts/clients.sh` and `scripts/durable.sh`); the protocol without an SDK; and a server that is killed again and again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Conn, Lang, Random, Server, aws_clients, base64, binary, eventually, parallel, root, skip, zip_of, zip_of_dir,
};

const ROLE: &str = "arn:aws:iam::000000000000:role/r";
const FUNCTIONS: &str = "/2015-03-31/functions";

// ── AWS's SDKs ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// What an SDK's layer does not need: other services' models, types, maps.
fn surplus(path: &str) -> bool {
    let model =
        path.strip_prefix("botocore/data/").is_some_and(|rest| rest.contains('/') && !rest.starts_with("lambda/"));
    model
        || path.contains("__pycache__")
        || path.starts_with("bin/")
        || [".map", ".d.ts", ".d.mts", ".d.cts"].iter().any(|e| path.ends_with(e))
}

fn files_of(dir: &Path, prefix: &str, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if surplus(&name) {
            continue;
        }
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files_of(&entry.path(), &format!("{name}/"), into),
            kind if kind.is_file() => into.push((name, fs::read(entry.path()).unwrap())),
            _ => {}
        }
    }
}

/// The SDK of a language as a layer's zip, and the functions that use it; `None`, said aloud: it is not here.
fn sdk(lang: Lang) -> Option<&'static (PathBuf, PathBuf)> {
    static FILES: [OnceLock<Option<(PathBuf, PathBuf)>>; 2] = [OnceLock::new(), OnceLock::new()];
    let (at, from, under) = match lang {
        Lang::Node => (0, "nodejs", "nodejs/"),
        Lang::Python => (1, "python", "python/"),
        Lang::Ruby => unreachable!("AWS has no SDK for durable executions in Ruby"),
    };
    let made = FILES[at].get_or_init(|| {
        let home = root().join("target/clients/durable").join(from);
        if !home.is_dir() {
            skip(&format!("durable functions on AWS's SDK ({from})"), "it is not installed: run scripts/durable.sh");
            return None;
        }
        let mut files = Vec::new();
        files_of(&home, "", &mut files);
        let named: Vec<(String, &[u8])> = files.iter().map(|(n, b)| (format!("{under}{n}"), &b[..])).collect();
        let borrowed: Vec<(&str, &[u8])> = named.iter().map(|(n, b)| (n.as_str(), *b)).collect();
        let kept = |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("durable-{from}-{name}.zip"));
        fs::write(kept("layer"), zip_of(&borrowed)).unwrap();
        let functions = root().join("tests/functions/durable").join(lang.dir());
        fs::write(kept("functions"), zip_of_dir(&functions)).unwrap();
        Some((kept("layer"), kept("functions")))
    });
    made.as_ref()
}

/// The AWS name of a runtime of this language that is on this machine.
fn runtime(server: &Server, lang: Lang) -> String {
    let name = server.deploy_case(lang, "echo", &[]);
    let found = server.get(&format!("/info/{name}")).expect(200).json()["runtime"].as_str().unwrap().to_owned();
    server.delete(&name);
    found
}

/// Runs one part of the client's script.
fn run(server: &Server, lang: Lang, part: &str) -> bool {
    let (Some(bin), Some((layer, functions))) = (aws_clients("durable executions with boto3"), sdk(lang)) else {
        return false;
    };
    let done = Command::new(bin.join("python"))
        .arg(root().join("tests/clients/durable_boto3.py"))
        .args([&format!("http://127.0.0.1:{}", server.port), lang.dir(), &runtime(server, lang)])
        .args([layer, functions])
        .arg(part)
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .current_dir("/")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{part}: {said}\n{}", server.said());
    true
}

macro_rules! parts {
    ($lang:expr; $($name:ident)*) => { $(#[test] fn $name() { super::run(&super::Server::start(&[]), $lang, stringify!($name)); })* };
}

mod python {
    parts! { crate::harness::Lang::Python; settings steps retries callbacks chained pauses stops pages tokens }
}

mod node {
    parts! { crate::harness::Lang::Node; steps retries callbacks chained pauses pages }
}

// ── Without an SDK ───────────────────────────────────────────────────────────────────────────────────────────────────

fn send(server: &Server, method: &str, path: &str, body: &Value) -> crate::harness::Answer {
    server.request(method, path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

/// Makes a durable function of one file in Python and waits until it is active.
fn create(server: &Server, name: &str, code: &str) {
    create_in(server, Lang::Python, name, code, json!({}));
}

/// The same in a language, with members of `CreateFunction` besides.
fn create_in(server: &Server, lang: Lang, name: &str, code: &str, more: Value) {
    let file = if lang == Lang::Node { "index.js" } else { "index.py" };
    let mut body = json!({
        "FunctionName": name, "Runtime": runtime(server, lang), "Role": ROLE, "Handler": "index.handler",
        "Timeout": 60, "DurableConfig": {"ExecutionTimeout": 300},
        "Code": {"ZipFile": base64(&zip_of(&[(file, code.as_bytes())]))},
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    send(server, "POST", FUNCTIONS, &body).expect(201);
    eventually("the function is active", Duration::from_secs(20), || {
        server.get(&format!("{FUNCTIONS}/{name}/configuration")).expect(200).json()["State"] == "Active"
    });
}

/// An ARN as a segment of a path.
fn segment(arn: &str) -> String {
    arn.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn execution(server: &Server, arn: &str) -> Value {
    server.get(&format!("/2025-12-01/durable-executions/{}", segment(arn))).expect(200).json()
}

/// Begins an execution and gives back its ARN.
fn begin(server: &Server, name: &str, event: &Value) -> String {
    let path = format!("{FUNCTIONS}/{name}/invocations?Qualifier=%24LATEST");
    let headers = [("X-Amz-Invocation-Type", "Event")];
    let answer = server.request("POST", &path, &headers, event.to_string().as_bytes()).expect(202);
    answer.header("x-amz-durable-execution-arn").unwrap().to_owned()
}

/// How many instances have been started in which way; one in which none was is not there.
fn starts(server: &Server) -> BTreeMap<String, u64> {
    let text = server.get("/metrics").expect(200).text();
    let counted = text.lines().filter_map(|l| l.strip_prefix("offshoot_env_starts_total{kind=\"")?.split_once("\"} "));
    counted.map(|(kind, count)| (kind.to_owned(), count.parse().unwrap())).collect()
}

const CHECKPOINTS_IN_NODE: &str = r#"
const http = require("http");
const ask = (path, body) => new Promise((resolve, reject) => {
  const asked = http.request(process.env.AWS_ENDPOINT_URL_LAMBDA + path, { method: "POST" }, (answer) => {
    answer.resume().on("end", () => resolve(answer.statusCode));
  });
  asked.on("error", reject).end(JSON.stringify(body));
});
exports.handler = async (event) => {
  const path = "/2025-12-01/durable-executions/" + encodeURIComponent(event.DurableExecutionArn) + "/checkpoint";
  const update = { Id: "s", Type: "STEP", Action: "SUCCEED", Payload: "1" };
  const status = await ask(path, { CheckpointToken: event.CheckpointToken, Updates: [update] });
  const elsewhere = await ask("/2018-06-01/runtime/init/error", {});
  return { Status: "SUCCEEDED", Result: JSON.stringify([status, elsewhere, process.env.AWS_LAMBDA_RUNTIME_API ?? null]) };
};
"#;

const CHECKPOINTS_IN_PYTHON: &str = r#"
import json, os, urllib.error, urllib.parse, urllib.request

def ask(path, body):
    url = os.environ["AWS_ENDPOINT_URL_LAMBDA"] + path
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

def handler(event, context):
    path = "/2025-12-01/durable-executions/" + urllib.parse.quote(event["DurableExecutionArn"], safe="") + "/checkpoint"
    update = {"Id": "s", "Type": "STEP", "Action": "SUCCEED", "Payload": "1"}
    status = ask(path, {"CheckpointToken": event["CheckpointToken"], "Updates": [update]})
    elsewhere = ask("/2018-06-01/runtime/init/error", {})
    return {"Status": "SUCCEEDED", "Result": json.dumps([status, elsewhere, os.environ.get("AWS_LAMBDA_RUNTIME_API")])}
"#;

/// Durable functions start as others do: as clones of the language's template, or of their own; and what they find there is the way to
/// their own executions and nothing else.
fn starts_without_boots(lang: Lang, code: &str) {
    let server = Server::start(&[]);
    create_in(&server, lang, "cloned", code, json!({}));
    create_in(&server, lang, "restored", code, json!({"SnapStart": {"ApplyOn": "PublishedVersions"}}));
    let published = send(&server, "POST", &format!("{FUNCTIONS}/restored/versions"), &json!({})).expect(201).json();
    let version = published["Version"].as_str().unwrap().to_owned();
    eventually("the version is active", Duration::from_secs(30), || {
        let path = format!("{FUNCTIONS}/restored/configuration?Qualifier={version}");
        server.get(&path).expect(200).json()["State"] == "Active"
    });
    for (name, qualifier, kind) in [("cloned", "%24LATEST", "clone"), ("restored", version.as_str(), "restore")] {
        let before = starts(&server);
        parallel(4, |_| {
            let path = format!("{FUNCTIONS}/{name}/invocations?Qualifier={qualifier}");
            let answer = send(&server, "POST", &path, &json!({})).expect(200);
            assert_eq!(answer.header("x-amz-function-error"), None, "{name}: {}", answer.text());
            assert_eq!(answer.json(), json!([200, 404, "169.254.100.1:9001"]), "{name}");
        });
        let after = starts(&server);
        assert!(after.get(kind) > before.get(kind), "{name}: {before:?} {after:?}");
        assert_eq!(after.get("boot"), None, "{name}: {after:?}");
    }
}

#[test]
fn they_start_as_clones_on_the_machines_network_too() {
    let server = Server::start(&[]);
    create(&server, "wide", CHECKPOINTS_IN_PYTHON);
    let zip = zip_of(&[("index.py", CHECKPOINTS_IN_PYTHON.as_bytes())]);
    for snapshot in ["off", "on"] {
        server.deploy("wide", &zip, &[("network", "host"), ("snapshot", snapshot)]);
        let path = format!("{FUNCTIONS}/wide/invocations?Qualifier=%24LATEST");
        assert_eq!(send(&server, "POST", &path, &json!({})).expect(200).json(), json!([200, 404, null]));
    }
    let after = starts(&server);
    assert!(after.contains_key("clone") && !after.contains_key("boot"), "{after:?}");
}

#[test]
fn loading_may_take_as_long_as_a_call_on_a_busy_machine() {
    let server = Server::start(&["--limits-init-ms", "500"]);
    create(&server, "loads", &format!("import time\ntime.sleep(2)\n{CHECKPOINTS_IN_PYTHON}"));
    let path = format!("{FUNCTIONS}/loads/invocations?Qualifier=%24LATEST");
    let answer = send(&server, "POST", &path, &json!({})).expect(200);
    assert_eq!(answer.json(), json!([200, 404, "169.254.100.1:9001"]));
    // At the first attempt.
    let arn = answer.header("x-amz-durable-execution-arn").unwrap().to_owned();
    let told = events(&server, &arn);
    let attempts = told.iter().filter(|e| e["EventType"] == "InvocationCompleted").count();
    assert_eq!((attempts, starts(&server).get("boot")), (1, None), "{told:?}");
}

#[test]
fn they_start_as_clones_in_python() {
    starts_without_boots(Lang::Python, CHECKPOINTS_IN_PYTHON);
}

#[test]
fn they_start_as_clones_in_node() {
    starts_without_boots(Lang::Node, CHECKPOINTS_IN_NODE);
}

const PROTOCOL: &str = r#"
import json, os, select, socket, time, urllib.error, urllib.parse, urllib.request

def ask(path, body=None, method=None):
    url = os.environ["AWS_ENDPOINT_URL_LAMBDA"] + path
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, text

def path(arn, verb):
    return "/2025-12-01/durable-executions/" + urllib.parse.quote(arn, safe="") + "/" + verb

def handler(event, context):
    arn, token = event["DurableExecutionArn"], event["CheckpointToken"]
    asked = json.loads(event["InitialExecutionState"]["Operations"][0]["ExecutionDetails"]["InputPayload"])
    if asked["do"] == "shows":
        print("SHOWN", json.dumps([arn, token]), flush=True)
        time.sleep(asked["seconds"])
        return {"Status": "SUCCEEDED", "Result": "mine"}
    if asked["do"] == "attacks":
        there, stolen = asked["other"]
        update = {"Id": "x", "Type": "EXECUTION", "Action": "SUCCEED", "Payload": "stolen"}
        quoted = urllib.parse.quote(stolen)
        out = [
            ask(path(there, "checkpoint"), {"CheckpointToken": stolen, "Updates": [update]}),
            ask(path(there, "state") + "?CheckpointToken=" + quoted),
            ask(path(there, "checkpoint"), {"CheckpointToken": token, "Updates": [update]}),
            ask(path(arn, "checkpoint"), {"CheckpointToken": stolen, "Updates": [update]}),
            ask(path(there, "stop"), {}),
            ask("/2025-12-01/durable-executions/" + urllib.parse.quote(there, safe="")),
            ask("/2015-03-31/functions"),
            ask("/v1/functions"),
        ]
        return {"Status": "SUCCEEDED", "Result": json.dumps(out)}
    if asked["do"] == "speaks":
        step = {"Id": "s", "Type": "STEP", "Action": "START", "Name": "n"}
        out = [ask(path(arn, "checkpoint"), {"CheckpointToken": token, "ClientToken": "c", "Updates": [step]})]
        # The same again, as if the answer had been lost, and then with a token that is used up.
        out.append(ask(path(arn, "checkpoint"), {"CheckpointToken": token, "ClientToken": "c", "Updates": [step]}))
        out.append(ask(path(arn, "checkpoint"), {"CheckpointToken": token, "Updates": []}))
        token = out[0][1]["CheckpointToken"]
        out.append(ask(path(arn, "checkpoint"), {"CheckpointToken": token, "Updates": [step]}))
        out.append(ask(path(arn, "state") + "?CheckpointToken=" + token + "&MaxItems=1"))
        out.append(ask(path(arn, "checkpoint"), [1]))
        out.append(ask(path(arn, "checkpoint"), {"CheckpointToken": token, "Updates": [{"Id": "s", "Type": "X", "Action": "START"}]}))
        return {"Status": "SUCCEEDED", "Result": json.dumps(out)}
    if asked["do"] == "loops":
        calls = [o for o in event["InitialExecutionState"]["Operations"] if o["Type"] == "CHAINED_INVOKE"]
        if not calls:
            call = {"Id": "c", "Type": "CHAINED_INVOKE", "Action": "START", "Payload": json.dumps(asked),
                    "ChainedInvokeOptions": {"FunctionName": context.function_name + ":$LATEST"}}
            ask(path(arn, "checkpoint"), {"CheckpointToken": token, "Updates": [call]})
            return {"Status": "PENDING"}
        if calls[0]["Status"] == "STARTED":
            return {"Status": "PENDING"}
        details = calls[0]["ChainedInvokeDetails"]
        return {"Status": "SUCCEEDED", "Result": details.get("Result") or details["Error"]["ErrorType"]}
    if asked["do"] == "stuffs":
        # More than the kernel takes for a connection that is not read.
        for name in "ab":
            step = {"Id": name, "Type": "STEP", "Action": "SUCCEED", "Payload": '"' * 4000000}
            token = ask(path(arn, "checkpoint"), {"CheckpointToken": token, "Updates": [step]})[1]["CheckpointToken"]
        asking = "GET " + path(arn, "state") + "?MaxItems=1000&CheckpointToken=" + token + " HTTP/1.1\r\nHost: x\r\n\r\n"
        host, port = os.environ["AWS_ENDPOINT_URL_LAMBDA"][7:].split(":")
        def connect():
            connection = socket.create_connection((host, int(port)))
            connection.sendall(asking.encode())
            return connection
        def begins(connection, seconds):
            return bool(select.select([connection], [], [], seconds)[0])
        unread = [connect() for _ in range(2)]
        begun = [begins(connection, 20) for connection in unread]
        third = connect()
        before = begins(third, 2)
        unread[0].close()
        return {"Status": "SUCCEEDED", "Result": json.dumps([begun, before, begins(third, 20)])}
    return asked["answer"]
"#;

/// Waits until an execution is over.
#[track_caller]
fn ended(server: &Server, arn: &str) -> Value {
    let mut last = Value::Null;
    eventually("the execution is over", Duration::from_secs(60), || {
        last = execution(server, arn);
        last["Status"] != "RUNNING"
    });
    last
}

#[test]
fn a_function_reaches_its_own_execution_and_nothing_else() {
    let server = Server::start(&[]);
    create(&server, "victim", PROTOCOL);
    create(&server, "thief", PROTOCOL);
    let victim = begin(&server, "victim", &json!({"do": "shows", "seconds": 8}));
    let mut shown = Value::Null;
    eventually("the token is shown", Duration::from_secs(30), || {
        let lines = server.logs("victim");
        let found = lines.iter().find_map(|l| l.split_once("SHOWN ").map(|(_, text)| text.to_owned()));
        shown = found.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        shown.is_array()
    });
    let thief = begin(&server, "thief", &json!({"do": "attacks", "other": shown}));
    let out: Value = serde_json::from_str(ended(&server, &thief)["Result"].as_str().unwrap()).unwrap();
    for (at, answer) in out.as_array().unwrap().iter().enumerate() {
        let wanted = if at < 4 { 400 } else { 404 };
        assert_eq!(answer[0], wanted, "attempt {at}: {answer}");
        if at < 4 {
            assert!(answer[1].as_str().unwrap().contains("Invalid checkpoint token"), "attempt {at}: {answer}");
        }
    }
    let end = ended(&server, &victim);
    assert_eq!((&end["Status"], &end["Result"]), (&json!("SUCCEEDED"), &json!("mine")), "{end}");
}

#[test]
fn the_protocol_answers_as_the_sdks_expect() {
    let server = Server::start(&[]);
    create(&server, "speaks", PROTOCOL);
    let end = ended(&server, &begin(&server, "speaks", &json!({"do": "speaks"})));
    let out: Value = serde_json::from_str(end["Result"].as_str().unwrap()).unwrap();
    let state = &out[0][1]["NewExecutionState"]["Operations"];
    assert_eq!((&state[0]["Id"], &state[0]["Status"]), (&json!("s"), &json!("STARTED")), "{out}");
    assert_eq!(out[0], out[1], "the same checkpoint again");
    let refused = |at: usize, said: &str| {
        assert_eq!(out[at][0], 400, "{out}");
        assert!(out[at][1].as_str().unwrap().contains(said), "{}: {}", at, out[at]);
    };
    refused(2, "Invalid checkpoint token");
    refused(3, "Invalid current STEP state to start.");
    assert_eq!(out[4][1]["Operations"].as_array().unwrap().len(), 1, "{out}");
    assert!(out[4][1]["NextMarker"].is_string(), "{out}");
    refused(5, "The checkpoint cannot be read");
    refused(6, "unknown variant");
    // What a function may answer, and what becomes of it when it does not.
    for (answer, status, said) in [
        (json!({"Status": "SUCCEEDED", "Result": "r"}), "SUCCEEDED", "r"),
        (json!({"Status": "FAILED", "Error": {"ErrorMessage": "e"}}), "FAILED", "e"),
        (json!({"Status": "FAILED", "Result": "r"}), "FAILED", "Cannot provide a Result for FAILED status."),
        (json!({"Status": "WAITING"}), "FAILED", "'WAITING' is no status"),
        (json!("anything"), "FAILED", "Invalid invocation output"),
    ] {
        let end = ended(&server, &begin(&server, "speaks", &json!({"do": "", "answer": answer})));
        assert_eq!(end["Status"], status, "{answer}: {end}");
        let text = end["Result"].as_str().or(end["Error"]["ErrorMessage"].as_str()).unwrap();
        assert!(text.contains(said), "{answer}: {end}");
    }
}

#[test]
fn a_function_that_calls_itself_without_end_is_stopped() {
    let server = Server::start(&[]);
    create(&server, "loops", PROTOCOL);
    let end = ended(&server, &begin(&server, "loops", &json!({"do": "loops"})));
    assert_eq!(end["Result"], "RecursiveInvocationException", "{end}");
    let path = "/2025-12-01/functions/loops/durable-executions?MaxItems=1000";
    assert_eq!(server.get(path).expect(200).json()["DurableExecutions"].as_array().unwrap().len(), 16);
}

#[test]
fn answers_that_nobody_reads_are_few() {
    let server = Server::start(&[]);
    create(&server, "stuffs", PROTOCOL);
    let end = ended(&server, &begin(&server, "stuffs", &json!({"do": "stuffs"})));
    // Two answers begin to come; the third waits until somebody has done with one of them.
    assert_eq!(end["Result"], "[[true, true], false, true]", "{end}");
}

#[test]
fn every_dialect_begins_executions_and_the_command_line_shows_them() {
    let server = Server::start(&[]);
    create(&server, "native", PROTOCOL);
    let event = json!({"do": "", "answer": {"Status": "SUCCEEDED", "Result": "\"done\""}}).to_string();
    assert_eq!(server.native("native", &event).expect(200).json(), json!("done"));
    let headers = [("Offshoot-Invocation-Type", "Event")];
    server.request("POST", "/v1/functions/native/invoke", &headers, event.as_bytes()).expect(202);
    let offshoot = |args: &[&str]| {
        let server = format!("http://127.0.0.1:{}", server.port);
        let done = Command::new(binary()).args(args).args(["--server", &server]).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    eventually("both have ended", Duration::from_secs(30), || {
        let (code, said) = offshoot(&["executions", "ls", "native", "--state", "succeeded"]);
        assert_eq!(code, 0, "{said}");
        said.lines().filter(|l| l.starts_with("succeeded")).count() == 2
    });
    let running = begin(&server, "native", &json!({"do": "shows", "seconds": 30}));
    let (code, said) = offshoot(&["executions", "rm", &running]);
    assert!(code != 0 && said.contains("is not over"), "{said}");
    let (code, said) = offshoot(&["executions", "pause", &running, "--reason", "lunch"]);
    assert!(code == 0 && said.starts_with("paus"), "{said}");
    let (code, said) = offshoot(&["executions", "resume", &running]);
    assert_eq!((code, said.trim()), (0, "running"), "{said}");
    let (code, said) = offshoot(&["executions", "stop", &running, "--reason", "enough"]);
    assert_eq!((code, said.starts_with("ended ")), (0, true), "{said}");
    let (_, said) = offshoot(&["executions", "history", &running]);
    assert!(said.contains("ExecutionStopped") && said.contains("enough"), "{said}");
    let (_, said) = offshoot(&["executions", "show", &running]);
    assert!(said.lines().any(|l| l.starts_with("state") && l.ends_with(" stopped")), "{said}");
    let document = |args: &[&str]| -> Value {
        let (code, said) = offshoot(&[&["-o", "json", "executions"], args].concat());
        assert_eq!(code, 0, "{said}");
        serde_json::from_str(&said).unwrap()
    };
    let listed = document(&["ls", "native", "--limit", "1"]);
    assert_eq!(
        (&listed["executions"][0]["arn"], &listed["executions"][0]["state"]),
        (&json!(running), &json!("stopped"))
    );
    assert!(listed["next"].is_string(), "{listed}");
    let shown = document(&["show", &running]);
    assert_eq!(shown["execution"]["error"]["errorMessage"], "enough", "{shown}");
    assert!(shown["execution"]["endedAt"].as_str().unwrap().ends_with('Z'), "{shown}");
    let told = document(&["history", &running, "--limit", "1"]);
    assert_eq!(
        (&told["events"][0]["type"], &told["events"][0]["number"]),
        (&json!("ExecutionStarted"), &json!(1)),
        "{told}"
    );
    assert!(told["next"].is_string() && document(&["history", &running])["next"].is_null(), "{told}");
    assert!(document(&["stop", &running])["stoppedAt"].is_string());
    assert_eq!(document(&["rm", &running])["removed"], json!([running]));
    assert_eq!(offshoot(&["executions", "show", &running]).0, 4);
    let (code, said) = offshoot(&["executions", "show", &format!("{running}0")]);
    assert_eq!((code, said.contains("there is no execution")), (4, true), "{said}");
}

// ── kill -9 ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Begins executions on a connection until the server dies; the names and ARNs of those that were acknowledged.
fn begin_until_it_dies(port: u16, function: &str, round: u64, known: &mut BTreeMap<String, String>) {
    let Ok(mut connection) = Conn::open(port) else { return };
    for n in 0..3 {
        let name = format!("run-{round}-{n}");
        let headers = [("X-Amz-Invocation-Type", "Event"), ("X-Amz-Durable-Execution-Name", name.as_str())];
        let path = format!("{FUNCTIONS}/{function}/invocations?Qualifier=%24LATEST");
        let Ok(answer) = connection.request("POST", &path, &headers, br#"{"flow":"slow","rounds":7}"#) else { return };
        assert_eq!(answer.status, 202, "{}", answer.text());
        known.insert(name, answer.header("x-amz-durable-execution-arn").unwrap().to_owned());
    }
}

fn events(server: &Server, arn: &str) -> Vec<Value> {
    let path = format!("/2025-12-01/durable-executions/{}/history?MaxItems=1000", segment(arn));
    server.get(&path).expect(200).json()["Events"].as_array().unwrap().clone()
}

#[test]
fn kill_nine_again_and_again_loses_no_execution() {
    let seed = Random::seed();
    eprintln!("SEED={seed}");
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let first_uid = 298_000_000;
    let server = Server::start_as(&data, first_uid, &[]);
    if !run(&server, Lang::Python, "none") {
        return;
    }
    let mut known = BTreeMap::new();
    let mut server = Some(server);
    for round in 0..10 {
        let alive = server.take().unwrap_or_else(|| Server::start_as(&data, first_uid, &[]));
        let port = alive.port;
        if round < 6 {
            begin_until_it_dies(port, "flows-python", round, &mut known);
        }
        std::thread::sleep(Duration::from_millis(random.below(2500)));
        alive.kill();
    }
    assert!(known.len() >= 12, "only {} executions were begun", known.len());
    let server = Server::start_as(&data, first_uid, &[]);
    let began = Instant::now();
    for (name, arn) in &known {
        let mut end = Value::Null;
        while began.elapsed() < Duration::from_secs(240) {
            end = execution(&server, arn);
            if end["Status"] != "RUNNING" {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let last: Vec<Value> = events(&server, arn).into_iter().rev().take(5).collect();
        assert_eq!(end["Status"], "SUCCEEDED", "SEED={seed} {name}: {end} {last:?} {}", server.said());
        let marks: Vec<String> = serde_json::from_str(end["Result"].as_str().unwrap()).unwrap();
        let told = events(&server, arn);
        let numbers: Vec<u64> = told.iter().map(|e| e["EventId"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>(), "SEED={seed} {name}: the history has gaps");
        let mut kept = BTreeMap::new();
        for event in told.iter().filter(|e| e["EventType"] == "StepSucceeded") {
            let step = event["Name"].as_str().unwrap().to_owned();
            let result = event["StepSucceededDetails"]["Result"]["Payload"].as_str().unwrap().to_owned();
            assert!(kept.insert(step.clone(), result).is_none(), "SEED={seed} {name}: {step} succeeded twice");
        }
        // What the execution answered is what its steps answered the only time that they did.
        for (n, mark) in marks.iter().enumerate() {
            assert_eq!(kept[&format!("mark-{n}")], json!(mark).to_string(), "SEED={seed} {name}");
        }
        assert_eq!(marks.len(), 7);
        assert_eq!(told.iter().filter(|e| e["EventType"] == "ExecutionSucceeded").count(), 1, "SEED={seed} {name}");
    }
}
