//! The Runtime API with programs that have bad manners: they hang up, hold what they opened, take their time, are frozen. Nothing
//! that was said is lost, nobody else pays, and a call gets the time that it was promised.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::custom_runtimes::{provided, resident, zip_with_modes};
use crate::harness::{Server, Shared, base64, eventually, root, skip, zip_of};

static SERVER: Shared = Shared::new(&[]);

#[test]
fn a_whole_answer_counts_although_its_sender_hung_up() {
    let server = SERVER.get();
    server.deploy("hangs-up", &provided("rough"), &[("timeout", "10s"), ("memory", "256")]);
    for (half, bytes) in [(true, 5_500_000), (false, 5_500_000), (true, 100), (false, 100)] {
        for after_ms in 0..10 {
            let event = json!({"do": "hang-up", "half": half, "bytes": bytes, "after_ms": after_ms});
            let began = Instant::now();
            let answer = server.native("hangs-up", event.to_string()).expect(200);
            assert_eq!(answer.header("offshoot-function-error"), None, "{event}: {}", answer.text());
            assert_eq!(answer.body.len(), bytes + 2, "{event}");
            assert!(began.elapsed() < Duration::from_secs(9), "{event}: {:?}", began.elapsed());
        }
    }
}

#[test]
fn what_a_function_makes_the_server_hold_is_little() {
    let server = Server::start(&[]);
    server.deploy("holds", &provided("rough"), &[("timeout", "30s"), ("memory", "512")]);
    server.native("holds", "{\"do\":\"echo\"}").expect(200);
    let before = resident(&server);
    // Heads that are small enough for every connection, and large ones.
    for head in [60_000, 1_050_000] {
        let most = std::thread::scope(|scope| {
            let event = json!({"do": "hold", "connections": 70, "head": head});
            let server = &server;
            let call = scope.spawn(move || server.native("holds", event.to_string()));
            let mut most = 0;
            while !call.is_finished() {
                most = most.max(resident(server));
                std::thread::sleep(Duration::from_millis(20));
            }
            let answer = call.join().unwrap().expect(200);
            assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
            assert!(answer.json().as_u64().unwrap() >= 32, "{}", answer.text());
            most
        });
        assert!(most < before + 40, "heads of {head} bytes: the server grew from {before} to {most} MiB");
    }
    server.is_well();
}

fn send(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let headers = [("Content-Type", "application/json")];
    let answer = server.request(method, path, &headers, body.to_string().as_bytes());
    assert!(answer.status < 300, "{path}: {} {}", answer.status, answer.text());
    answer.json()
}

/// A Python function beside an extension that behaves like this.
fn beside(server: &Server, name: &str, code: &str, timeout: u32, ext: &Value) {
    let program = std::fs::read(root().join("tests/functions/provided/rough/extension")).unwrap();
    let layer = zip_with_modes(&[(&format!("extensions/{name}-ext"), &program, 0o755), ("readme", b"", 0o644)]);
    let layer = json!({"Content": {"ZipFile": base64(&layer)}});
    let layer = send(server, "POST", &format!("/2018-10-31/layers/{name}/versions"), &layer);
    let plain = zip_of(&[("index.py", code.as_bytes())]);
    let deployed = server.deploy(&format!("{name}-runtime"), &plain, &[("handler", "index.handler")]);
    let body = json!({
        "FunctionName": name, "Runtime": deployed["runtime"], "Role": "arn:aws:iam::000000000000:role/r", "Handler": "index.handler",
        "Code": {"ZipFile": base64(&plain)}, "Layers": [layer["LayerVersionArn"]], "Timeout": timeout,
        "Environment": {"Variables": {"EXT": ext.to_string()}},
    });
    send(server, "POST", "/2015-03-31/functions", &body);
    eventually("the function is active", Duration::from_secs(20), || {
        let got = server.get(&format!("/2015-03-31/functions/{name}")).json();
        got["Configuration"]["State"] == "Active"
    });
}

/// Calls, and takes the reply.
#[track_caller]
fn invoke(server: &Server, name: &str, event: &Value) -> Value {
    let answer =
        server.request("POST", &format!("/2015-03-31/functions/{name}/invocations"), &[], event.to_string().as_bytes());
    assert_eq!((answer.status, answer.header("x-amz-function-error")), (200, None), "{}", answer.text());
    answer.json()
}

const SLEEPS: &str = "import os, time\nI = os.urandom(4).hex()\ndef handler(event, context):\n    time.sleep(event['s'])\n    return I\n";

#[test]
fn a_call_has_its_time_although_extensions_are_busy_with_the_one_before() {
    let server = SERVER.get();
    beside(&server, "busy", SLEEPS, 4, &json!({"seconds": 2.5}));
    let first = invoke(&server, "busy", &json!({"s": 0.1}));
    // The extension is busy for longer than this call could wait for it within its time.
    invoke(&server, "busy", &json!({"s": 2.5}));
    std::thread::sleep(Duration::from_secs(3));
    // It was not given up: it serves again.
    let ids = [invoke(&server, "busy", &json!({"s": 0})), invoke(&server, "busy", &json!({"s": 0}))];
    assert!(ids.contains(&first), "{ids:?} {first}");
}

#[test]
fn an_extension_that_overruns_the_timeout_ends_its_instance() {
    let server = SERVER.get();
    beside(&server, "overrun", SLEEPS, 1, &json!({"seconds": 30}));
    let first = invoke(&server, "overrun", &json!({"s": 0}));
    let said = || server.logs("overrun").iter().any(|l| l.contains("its extensions did not ask for the next event"));
    eventually("the instance is stopped", Duration::from_secs(10), said);
    assert_ne!(invoke(&server, "overrun", &json!({"s": 0})), first);
}

#[test]
fn lines_belong_to_their_call_also_beside_an_extension() {
    let server = SERVER.get();
    let code = "def handler(event, context):\n    for i in range(event['k']): print('x' * 80)\n    print('LAST LINE %d' % event['n'])\n";
    beside(&server, "prints", code, 10, &json!({"events": []}));
    for k in [0, 10, 200] {
        for n in 0..20 {
            let event = json!({"n": n, "k": k}).to_string();
            let path = "/2015-03-31/functions/prints/invocations";
            let answer = server.request("POST", path, &[("X-Amz-Log-Type", "Tail")], event.as_bytes()).expect(200);
            let tail = from_base64(answer.header("x-amz-log-result").unwrap());
            assert!(tail.contains(&format!("LAST LINE {n}\n")), "{k} lines: {tail}");
            assert_eq!(tail.matches("LAST LINE").count(), 1, "{k} lines: {tail}");
        }
    }
}

fn from_base64(text: &str) -> String {
    let table = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |b: u8| table.iter().position(|c| *c == b).unwrap_or(0) as u32;
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    let mut out = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let bits = group.iter().fold(0, |bits, b| bits << 6 | value(*b));
        out.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    out.truncate(out.len() - padding);
    String::from_utf8_lossy(&out).into_owned()
}

/// What the extension got of telemetry, by its log.
fn got(server: &Server, name: &str, part: &str) -> Vec<String> {
    server.logs(name).into_iter().filter(|l| l.starts_with("got ") && l.contains(part)).collect()
}

#[test]
fn telemetry_outlives_a_freeze_and_tells_how_calls_ended() {
    let server = Server::start(&["--freeze-after-ms", "1000"]);
    let code = "def handler(event, context):\n    print('line %d' % event['n'])\n    if event.get('fail'): raise ValueError('x')\n";
    beside(&server, "frozen", code, 10, &json!({"events": [], "telemetry_ms": 4000}));
    invoke(&server, "frozen", &json!({"n": 1}));
    let state = |dir: &std::path::Path, name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    // By version 2 of control groups, or version 1.
    let is_frozen = |dir: &std::path::Path| {
        state(dir, "cgroup.freeze").trim() == "1" || state(dir, "freezer.state").trim() == "FROZEN"
    };
    let frozen = || server.cgroups().iter().any(|dir| is_frozen(dir));
    let began = Instant::now();
    while !frozen() {
        if began.elapsed() > Duration::from_secs(5) {
            skip("telemetry of a frozen instance", "this machine does not freeze");
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its portion is due, and may take five seconds: all that while nobody in the box runs.
    std::thread::sleep(Duration::from_secs(11));
    let path = "/2015-03-31/functions/frozen/invocations";
    let failed = server.request("POST", path, &[], b"{\"n\":2,\"fail\":1}");
    assert_eq!(failed.header("x-amz-function-error"), Some("Unhandled"), "{}", failed.text());
    eventually("the first call is told", Duration::from_secs(20), || {
        // It is thawed by calls alone.
        invoke(&server, "frozen", &json!({"n": 3}));
        std::thread::sleep(Duration::from_millis(500));
        !got(&server, "frozen", "\"line 1\"").is_empty() && got(&server, "frozen", "platform.report").len() >= 2
    });
    assert_eq!(got(&server, "frozen", "platform.logsDropped"), [] as [String; 0]);
    let reports = got(&server, "frozen", "platform.report");
    assert!(
        reports[0].contains("\"status\": \"success\"") && reports[1].contains("\"status\": \"error\""),
        "{reports:?}"
    );
}
