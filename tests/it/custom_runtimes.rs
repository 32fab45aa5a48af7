//! Functions that bring their own runtime: the Lambda Runtime API inside the box, its answers to use and misuse, how its
//! programs end, and who can reach it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Server, Shared, base64, eventually, golden, root};

static SERVER: Shared = Shared::new(&["--limits-init-ms", "1500"]);

/// The zip of files with their modes.
pub fn zip_with_modes(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    use std::io::Write;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, data, mode) in files {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        writer.start_file(*name, options).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The zip of one of `tests/functions/provided`, its bootstrap executable.
pub fn provided(case: &str) -> Vec<u8> {
    let path = root().join("tests/functions/provided").join(case).join("bootstrap");
    zip_with_modes(&[("bootstrap", &std::fs::read(path).unwrap(), 0o755)])
}

fn probe(server: &Server, name: &str, fields: &[(&str, &str)]) -> String {
    server.deploy(name, &provided("probe"), fields);
    name.to_owned()
}

/// Calls, and takes the reply.
#[track_caller]
fn reply(server: &Server, name: &str, event: &Value) -> Value {
    let answer = server.native(name, event.to_string()).expect(200);
    assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
    answer.json()
}

/// Calls, and takes the function's error.
#[track_caller]
fn failure(server: &Server, name: &str, event: &Value) -> (Value, Answer) {
    let answer = server.native(name, event.to_string());
    assert!(answer.header("offshoot-function-error").is_some(), "{} {}", answer.status, answer.text());
    (answer.json(), answer)
}

#[test]
fn a_bootstrap_in_the_zip_is_all_it_takes() {
    let server = SERVER.get();
    let deployed = server.deploy("shell", &provided("shell"), &[]);
    assert_eq!(deployed["runtime"], "provided.al2023", "{deployed}");
    for n in 0..3 {
        let answer = server.native("shell", format!("{{\"n\":{n}}}")).expect(200);
        assert_eq!(answer.json(), json!({"shell": {"n": n}, "handler": "bootstrap"}), "{}", answer.text());
        assert_eq!(answer.header("offshoot-start"), Some(if n == 0 { "boot" } else { "warm" }));
    }
    let logs = server.logs("shell").join("\n");
    assert!(logs.contains("got ") && logs.contains("REPORT RequestId"), "{logs}");
}

#[test]
fn a_call_arrives_with_its_headers_and_environment() {
    let server = SERVER.get();
    let name = probe(
        &server,
        "headers",
        &[("runtime", "provided.al2"), ("handler", "any::text"), ("timeout", "20s"), ("env", r#"{"MINE":"x"}"#)],
    );
    let answer = server.native(&name, r#"{"do":"echo","n":1.50,"é":[null]}"#).expect(200);
    let seen = answer.json();
    assert_eq!(seen["event"], json!({"do": "echo", "n": 1.5, "é": [null]}));
    let headers = &seen["headers"];
    assert_eq!(headers["Content-Type"], "application/json");
    assert_eq!(headers["Lambda-Runtime-Aws-Request-Id"].as_str(), answer.header("offshoot-request-id"));
    assert_eq!(
        headers["Lambda-Runtime-Invoked-Function-Arn"],
        format!("arn:aws:lambda:us-east-1:000000000000:function:{name}")
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let deadline: u64 = headers["Lambda-Runtime-Deadline-Ms"].as_str().unwrap().parse().unwrap();
    assert!((now + 10_000..now + 20_000).contains(&deadline), "{deadline} {now}");
    for absent in ["Lambda-Runtime-Client-Context", "Lambda-Runtime-Cognito-Identity", "Lambda-Runtime-Trace-Id"] {
        assert_eq!(headers[absent], Value::Null, "{absent} is sent empty");
    }
    let look = reply(&server, &name, &json!({"do": "look"}));
    let env = &look["env"];
    for (key, value) in [
        ("_HANDLER", "any::text"),
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("AWS_LAMBDA_FUNCTION_NAME", "headers"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/headers"),
        ("AWS_REGION", "us-east-1"),
        ("TZ", ":UTC"),
        ("MINE", "x"),
    ] {
        assert_eq!(env[key], value, "{key}: {env}");
    }
    assert_eq!((&env["AWS_EXECUTION_ENV"], &env["HOST_SECRET"]), (&Value::Null, &Value::Null));
    // One process, no descriptor that is not its own (3 is the listing's, or its connection's), nothing writable.
    assert_eq!((&look["pid"], &look["procs"], &look["cwd"]), (&json!(1), &json!([1]), &json!("/var/task")));
    assert!(look["fds"].as_array().unwrap().len() <= 5, "{look}");
    assert_eq!(look["write"], "OSError");
    assert_eq!(look["argv"], json!(["/var/task/bootstrap"]));
}

#[test]
fn payloads_pass_through_untouched() {
    let server = SERVER.get();
    let name = probe(&server, "bytes", &[]);
    for bytes in [&b"{\"a\":1.50, \"a\":2}"[..], b"", b"not json at all", b"\x00\xff\xfe", b"null"] {
        let event = json!({"do": "raw", "bytes": base64(bytes)});
        let answer = server.native(&name, event.to_string()).expect(200);
        assert_eq!((answer.header("offshoot-function-error"), &answer.body[..]), (None, bytes));
    }
}

#[test]
fn errors_are_the_functions_own() {
    let server = SERVER.get();
    let name = probe(&server, "errors", &[]);
    let (error, _) = failure(&server, &name, &json!({"do": "fail"}));
    assert_eq!(error, json!({"errorMessage": "no", "errorType": "Probe.Failed", "stackTrace": ["here"]}));
    let cause = json!({"do": "fail-raw", "headers": {"Content-Type": "application/vnd.aws.lambda.error.cause+json"},
        "body": r#"{"errorMessage":"m","errorType":"T","stackTrace":[],"cause":{"secret":1}}"#});
    assert_eq!(failure(&server, &name, &cause).0, json!({"errorMessage": "m", "errorType": "T"}));
    let empty =
        json!({"do": "fail-raw", "headers": {"Lambda-Runtime-Function-Error-Type": "Function.Mine"}, "body": ""});
    assert_eq!(failure(&server, &name, &empty).0["errorType"], "Function.Mine");
    // A header of 1 MiB is no reason to fail.
    assert_eq!(failure(&server, &name, &json!({"do": "cause", "bytes": 1 << 20})).0["errorType"], "T");
    // None of that cost the instance.
    assert_eq!(reply(&server, &name, &json!({"do": "echo"}))["calls"], 5);
}

#[test]
fn ends_are_told_as_aws_tells_them() {
    let server = SERVER.get();
    let name = probe(&server, "ends", &[("timeout", "1s")]);
    for (event, kind, message) in [
        (json!({"do": "exit", "code": 0}), "Runtime.ExitError", "Runtime exited without providing a reason"),
        (json!({"do": "exit", "code": 127}), "Runtime.ExitError", "Runtime exited with error: exit status 127"),
        (json!({"do": "signal"}), "Runtime.ExitError", "Runtime exited with error: signal: segmentation fault"),
        (json!({"do": "sleep", "seconds": 30}), "Sandbox.Timedout", "Task timed out after 1.00 seconds"),
    ] {
        let (error, answer) = failure(&server, &name, &event);
        let id = answer.header("offshoot-request-id").unwrap();
        assert_eq!(error, json!({"errorType": kind, "errorMessage": format!("RequestId: {id} Error: {message}")}));
        // Another environment serves the next call.
        assert_eq!(reply(&server, &name, &json!({"do": "echo"}))["calls"], 1);
    }
}

#[test]
fn too_much_memory_is_told_as_such() {
    let server = SERVER.get();
    let name = probe(&server, "eats", &[("memory", "64")]);
    let (error, _) = failure(&server, &name, &json!({"do": "eat", "mib": 200}));
    assert_eq!(error["errorType"], "Runtime.OutOfMemory", "{error}");
    assert!(error["errorMessage"].as_str().unwrap().ends_with("signal: killed (out of memory)"), "{error}");
    assert_eq!(reply(&server, &name, &json!({"do": "eat", "mib": 5})), json!(5));
}

#[test]
fn initialisation_fails_slowly_or_not_at_all() {
    let server = SERVER.get();
    let deploy = |case: &str, init: &str| {
        probe(&server, case, &[("env", &format!(r#"{{"INIT":"{init}"}}"#)), ("timeout", "5s")])
    };
    let (error, _) = failure(&server, &deploy("init-error", "error"), &json!({}));
    assert_eq!(error, json!({"errorMessage": "cannot start", "errorType": "Probe.Init", "stackTrace": []}));
    let (error, answer) = failure(&server, &deploy("init-exit", "exit"), &json!({}));
    let id = answer.header("offshoot-request-id").unwrap();
    let message = format!("RequestId: {id} Error: Runtime exited with error: exit status 7");
    assert_eq!((&error["errorType"], &error["errorMessage"]), (&json!("Runtime.ExitError"), &json!(message)));
    assert!(server.logs("init-exit").iter().any(|l| l == "leaving early"));
    // Longer than initialisation may take (1.5 s here), shorter than that and the call's own time.
    let slow = deploy("init-slow", "sleep3");
    assert_eq!(reply(&server, &slow, &json!({"do": "echo"}))["calls"], 1);
    let (error, _) = failure(&server, &deploy("init-hangs", "sleep60"), &json!({}));
    assert!(error["errorMessage"].as_str().unwrap().contains("Task timed out after 5.00 seconds"), "{error}");
}

#[test]
fn a_bootstrap_that_cannot_run_says_why() {
    let server = SERVER.get();
    let files: &[(&str, &str, &[u8], u32, &str)] = &[
        ("no-exec", "bootstrap", b"#!/bin/sh\n", 0o644, "fork/exec /var/task/bootstrap: permission denied"),
        ("no-format", "bootstrap", b"\x7fELFnonsense", 0o755, "fork/exec /var/task/bootstrap: exec format error"),
        (
            "no-interpreter",
            "bootstrap",
            b"#!/no/such\n",
            0o755,
            "fork/exec /var/task/bootstrap: no such file or directory",
        ),
        ("none", "readme", b"", 0o644, "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"),
    ];
    for (name, file, bytes, mode, message) in files {
        server.deploy(name, &zip_with_modes(&[(file, bytes, *mode)]), &[("runtime", "provided.al2023")]);
        let (error, answer) = failure(&server, name, &json!({}));
        let id = answer.header("offshoot-request-id").unwrap();
        let text = error["errorMessage"].as_str().unwrap();
        assert_eq!(error["errorType"], "Runtime.InvalidEntrypoint", "{error}");
        assert!(text.starts_with(&format!("RequestId: {id} Error: {message}")), "{text}");
    }
}

#[test]
fn what_a_custom_runtime_cannot_be_is_refused_when_it_is_deployed() {
    let server = SERVER.get();
    for (fields, part) in [
        (&[("convention", "request")][..], "'request' is for"),
        (&[("snapshot", "on")], "cannot be cloned"),
        (&[("handler", "two words")], "without spaces"),
    ] {
        let answer = server.try_deploy("refused", &provided("probe"), fields).expect(400);
        assert!(answer.error().contains(part), "{}", answer.text());
    }
    // Code that is both is what its settings say.
    let both = zip_with_modes(&[
        ("bootstrap", b"#!/bin/sh\n", 0o755),
        ("index.js", b"exports.handler = async () => 'js'", 0o644),
    ]);
    assert_eq!(server.deploy("both", &both, &[])["runtime"], "provided.al2023");
    let node = server.deploy("both-node", &both, &[("handler", "index.handler")]);
    assert!(node["runtime"].as_str().unwrap().starts_with("nodejs"), "{node}");
}

#[test]
fn replies_have_a_limit_and_their_sender_hears_of_it() {
    let server = SERVER.get();
    let name = probe(&server, "big", &[("memory", "256")]);
    let limit = 6_291_556;
    let whole = server.native(&name, json!({"do": "big", "bytes": limit}).to_string()).expect(200);
    assert_eq!((whole.header("offshoot-function-error"), whole.body.len()), (None, limit));
    for more in [limit + 1, 3 * limit] {
        let (error, _) = failure(&server, &name, &json!({"do": "big", "bytes": more}));
        let message = "Response payload size exceeded maximum allowed payload size (6291556 bytes).";
        assert_eq!(error, json!({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message}));
    }
    assert_eq!(reply(&server, &name, &json!({"do": "echo"}))["calls"], 4);
    let logs = server.logs(&name);
    assert!(logs.iter().any(|l| l.starts_with("answered 202")), "{logs:?}");
    let told = r#"answered 413 {"errorMessage":"Exceeded maximum allowed payload size (6291556 bytes).","errorType":"RequestEntityTooLarge"}"#;
    assert_eq!(logs.iter().filter(|l| *l == told).count(), 2, "{logs:?}");
}

#[test]
fn streams_are_collected_and_their_errors_are_errors() {
    let server = SERVER.get();
    let name = probe(&server, "stream", &[]);
    let chunks = |parts: &[&[u8]]| parts.iter().map(|p| json!(base64(p))).collect::<Vec<_>>();
    let whole = json!({"do": "stream", "chunks": chunks(&[b"one ", b"two"])});
    assert_eq!(server.native(&name, whole.to_string()).expect(200).text(), "one two");
    let failed = json!({"do": "stream", "chunks": chunks(&[b"half"]), "trailers": {
        "Lambda-Runtime-Function-Error-Type": "Runtime.StreamError",
        "Lambda-Runtime-Function-Error-Body": base64(br#"{"errorMessage":"broke","errorType":"E"}"#)}});
    assert_eq!(failure(&server, &name, &failed).0, json!({"errorMessage": "broke", "errorType": "E"}));
    // Trailers count whatever the mode; those that say nothing are no error.
    let go = json!({"do": "stream", "chunks": chunks(&[b"{}"]), "headers": {"Lambda-Runtime-Function-Response-Mode": ""},
        "trailers": {"Lambda-Runtime-Function-Error-Type": "", "Lambda-Runtime-Function-Error-Body": ""}});
    assert_eq!(server.native(&name, go.to_string()).expect(200).text(), "{}");
    let prelude = json!({"do": "stream", "headers": {"Content-Type": "application/vnd.awslambda.http-integration-response"},
        "chunks": chunks(&[b"{\"statusCode\":201,\"headers\":{\"x-a\":\"b\"}}", &[0; 8], b"the body"])});
    let answer = server.native(&name, prelude.to_string());
    assert!(answer.text().ends_with("the body") && !answer.body.contains(&0), "{:?}", answer.text());
    let (error, _) = failure(&server, &name, &json!({"do": "mode", "mode": "buffered"}));
    assert_eq!(error["errorType"], "Runtime.InvalidResponseModeHeader");
    let (error, _) = failure(&server, &name, &json!({"do": "truncate"}));
    assert_eq!(error["errorType"], "Runtime.TruncatedResponse");
    assert!(reply(&server, &name, &json!({"do": "echo"}))["calls"].as_u64().unwrap() > 5, "the instance was lost");
    let logs = server.logs(&name);
    let told =
        r#"answered 400 {"errorMessage":"Invalid function response mode","errorType":"InvalidFunctionResponseMode"}"#;
    assert!(logs.iter().any(|l| l == told), "{logs:?}");
}

/// Every misuse of the runtime's routes, against the words of AWS's emulator.
/// Requests of a runtime that are wrong, or early: AWS's emulator is asked the same (`emulator.rs`).
pub fn misuse() -> Value {
    let base = "/2018-06-01/runtime";
    let row = |method: &str, path: &str| json!([method, path, {}, "{}"]);
    let extension = "/2020-01-01/extension";
    let stranger = "01234567-89ab-4cde-8f00-0123456789ab";
    let register = |name: &str, body: &str| json!(["POST", format!("{extension}/register"), {"Lambda-Extension-Name": name}, body]);
    json!([
        row("GET", "/2018-06-01/ping"),
        row("POST", &format!("{base}/invocation/nobody/response")),
        row("POST", &format!("{base}/invocation/nobody/error")),
        row("POST", &format!("{base}/init/error")),
        row("GET", &format!("{base}/restore/next")),
        row("POST", &format!("{base}/restore/error")),
        row("GET", "/"),
        row("GET", "/2018-06-01/runtime/nonsense"),
        row("POST", &format!("{base}/invocation/next")),
        row("GET", &format!("{base}/init/error")),
        row("GET", &format!("{base}/invocation/$ID/response")),
        row("PUT", "/2022-07-01/telemetry"),
        row("PUT", "/2020-08-15/logs"),
        ["POST", format!("{extension}/register"), {}, ""],
        register("x", ""),
        register("x", "{\"events\":[\"FOO\"]}"),
        register("x", "{\"events\":[\"SHUTDOWN\"]}"),
        register("x", "{\"events\":[\"INVOKE\"]}"),
        ["GET", format!("{extension}/event/next"), {}, null],
        ["GET", format!("{extension}/event/next"), {"Lambda-Extension-Identifier": "x"}, null],
        ["GET", format!("{extension}/event/next"), {"Lambda-Extension-Identifier": stranger}, null],
        ["POST", format!("{extension}/init/error"), {}, ""],
        ["POST", format!("{extension}/init/error"), {"Lambda-Extension-Identifier": stranger}, ""],
        ["POST", format!("{extension}/exit/error"), {"Lambda-Extension-Identifier": stranger, "Lambda-Extension-Function-Error-Type": "E"}, ""],
    ])
}

/// Requests that come when the call has been answered.
pub fn too_late() -> Value {
    json!([
        ["POST", "/2018-06-01/runtime/invocation/$ID/response", {}, "{}"],
        ["POST", "/2018-06-01/runtime/invocation/$ID/error", {}, "{}"],
    ])
}

#[test]
fn misuse_is_answered_in_aws_s_words() {
    let server = SERVER.get();
    let name = probe(&server, "misuse", &[]);
    let mut during = misuse();
    // What the emulator does not have, and a delivery that this is not.
    during.as_array_mut().unwrap().extend([
        json!(["GET", "/2026-01-15/metadata/execution-environment", {}, "{}"]),
        json!(["POST", "/2026-01-15/metadata/execution-environment", {}, "{}"]),
        json!(["POST", "/2018-06-01/runtime/invocation/$ID/response", {"Lambda-Runtime-Invocation-Id": "other"}, "1"]),
    ]);
    let mut seen = reply(&server, &name, &json!({"do": "ask", "requests": during}));
    let after = too_late();
    reply(&server, &name, &json!({"do": "ask-after", "requests": after}));
    reply(&server, &name, &json!({}));
    let logs = server.logs(&name);
    let later: Vec<Value> =
        logs.iter().filter_map(|l| l.strip_prefix("asked ")).map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(later.len(), 2, "{logs:?}");
    let mut asked: Vec<Value> = during.as_array().unwrap().clone();
    asked.extend(after.as_array().unwrap().iter().cloned());
    let rows = seen.as_array_mut().unwrap();
    rows.extend(later);
    let lines: Vec<String> = asked
        .iter()
        .zip(rows.iter())
        .map(|(asked, got)| {
            let of = |v: &Value| v.as_str().unwrap_or("-").trim_end().to_owned();
            let headers = if asked[2] == json!({}) { String::new() } else { format!(" {}", asked[2]) };
            format!(
                "{} {}{headers} {}\n  {} {} {}",
                of(&asked[0]),
                of(&asked[1]),
                asked[3],
                got[0],
                of(&got[1]),
                of(&got[2])
            )
        })
        .collect();
    golden("runtime_api_misuse.txt", &lines.join("\n"));
}

#[test]
fn a_call_that_was_written_to_a_poll_and_not_read_goes_to_another() {
    let server = SERVER.get();
    for calls in ["1", "4"] {
        for poll in ["before", "after"] {
            let name = format!("drops-{poll}-{calls}");
            let env = json!({"POLL": poll}).to_string();
            server.deploy(&name, &provided("drops"), &[("env", &env), ("maxConcurrency", calls), ("timeout", "5s")]);
            // Every call is answered; which of the two polls a call is written to first is nobody's promise.
            let mut dropped = 0;
            for n in 1..=40 {
                // The pool has long been told that the instance is free, and mostly both polls wait.
                std::thread::sleep(Duration::from_millis(200));
                let said = reply(&server, &name, &json!({"n": n}));
                assert_eq!(said["event"], json!({"n": n}), "{name}");
                dropped = said["dropped"].as_u64().unwrap();
                if dropped >= 3 {
                    break;
                }
            }
            assert!(dropped >= 3, "{name}: {dropped} calls were dropped");
        }
    }
}

#[test]
fn nobody_else_reaches_the_runtime_api_of_a_box() {
    let server = SERVER.get();
    let mine = probe(&server, "mine", &[]);
    let other = probe(&server, "other", &[]);
    reply(&server, &mine, &json!({"do": "echo"}));
    // From its own box, yes; each sees only its own.
    assert!(
        reply(&server, &mine, &json!({"do": "connect", "to": "127.0.0.1:9001"})).as_str().unwrap().ends_with("pong")
    );
    assert!(
        reply(&server, &other, &json!({"do": "connect", "to": "127.0.0.1:9001"})).as_str().unwrap().ends_with("pong")
    );
    // From the machine, no: there is nothing on that port.
    let host = std::net::TcpStream::connect_timeout(&"127.0.0.1:9001".parse().unwrap(), Duration::from_secs(1));
    assert!(host.is_err(), "the Runtime API of a box is open to the machine");
    // On the machine's network the port is everybody's, and strangers are turned away.
    let shared = probe(&server, "shared", &[("network", "host")]);
    let address = reply(&server, &shared, &json!({"do": "listening"}));
    let address = address.as_str().unwrap().to_owned();
    assert_ne!(address, "127.0.0.1:9001");
    let ping = b"GET /2018-06-01/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(ask_raw(&address, ping), "", "a stranger was answered");
    assert_eq!(
        reply(&server, &shared, &json!({"do": "connect", "to": address})).as_str().unwrap().lines().next(),
        Some("HTTP/1.1 200 OK")
    );
    let also = probe(&server, "also-shared", &[("network", "host")]);
    let got = reply(&server, &also, &json!({"do": "connect", "to": address}));
    assert!(["closed", "ConnectionResetError"].contains(&got.as_str().unwrap()), "another box was answered: {got}");
}

/// What comes back for these bytes; nothing when the other side hangs up.
fn ask_raw(address: &str, bytes: &[u8]) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(bytes).ok();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).ok();
    String::from_utf8_lossy(&got).into_owned()
}

#[test]
fn environments_come_and_go_without_a_trace() {
    let server = Server::start(&["--keep-alive-ms", "1000"]);
    let name = probe(&server, "gone", &[]);
    let before = server.usage();
    for _ in 0..3 {
        reply(&server, &name, &json!({"do": "echo"}));
        server.settles_to(&before);
    }
    failure(&server, &name, &json!({"do": "exit", "code": 3}));
    server.settles_to(&before);
    server.is_well();
    let began = Instant::now();
    eventually("nothing of the function runs", Duration::from_secs(10), || server.boxed().is_empty());
    assert!(began.elapsed() < Duration::from_secs(10) && Path::new(&server.data).is_dir());
}

/// The server's memory, in MiB.
pub fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid)).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn a_runtime_that_floods_its_api_harms_itself_alone() {
    let server = Server::start(&[]);
    let quiet = probe(&server, "quiet", &[]);
    reply(&server, &quiet, &json!({"do": "echo"}));
    let before = resident(&server);
    for kind in ["heads", "huge-head", "lines", "polls", "bodies", "registrations", "noise"] {
        let name = probe(&server, &format!("flood-{kind}"), &[("memory", "512"), ("timeout", "30s")]);
        let flooding = std::thread::scope(|scope| {
            let flood = scope.spawn(|| server.native(&name, json!({"do": "flood", "kind": kind}).to_string()));
            // Meanwhile somebody else is served.
            let began = Instant::now();
            let mut most = 0;
            while !flood.is_finished() && began.elapsed() < Duration::from_secs(60) {
                assert!(reply(&server, &quiet, &json!({"do": "echo"}))["calls"].as_u64().unwrap() > 0);
                most = most.max(resident(&server));
                std::thread::sleep(Duration::from_millis(20));
            }
            let answer = flood.join().unwrap();
            // Few connections may send more than 64 KiB that nobody asked for; answers are 6 MiB, and a reader holds one twice at times.
            assert!(most < before + 60, "{kind}: the server grew from {before} to {most} MiB");
            answer
        });
        // Its own call is answered too, as soon as it lets go; but for the flood that answers it by itself, badly.
        let failed = flooding.header("offshoot-function-error").is_some();
        assert_eq!(failed, kind == "bodies", "{kind}: {} {}", flooding.status, flooding.text());
        if !failed {
            let done = flooding.json();
            assert!(done["held"].as_u64().unwrap() > 0, "{kind}: {done}");
        }
        server.delete(&name);
    }
    server.is_well();
}

#[test]
fn the_command_line_deploys_a_bootstrap_with_its_mode() {
    let server = SERVER.get();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bootstrap");
    std::fs::copy(root().join("tests/functions/provided/shell/bootstrap"), &path).unwrap();
    let address = format!("http://127.0.0.1:{}", server.port);
    let done = std::process::Command::new(crate::harness::binary())
        .args(["deploy", dir.path().to_str().unwrap(), "by-hand"])
        .env("OFFSHOOT_SERVER", &address)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(reply(&server, "by-hand", &json!([1])), json!({"shell": [1], "handler": "bootstrap"}));
}
