//! Answers that come in pieces: when they arrive, by which door, how they end, what a slow reader costs and what one leaves that
//! goes away. Where a test says that a piece came before the next one was made, the function waited for a second call.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::custom_runtimes::{provided, zip_with_modes};
use crate::harness::{Conn, Lang, Server, Shared, aws_clients, base64, eventually, find, parallel, root};

static SERVER: Shared = Shared::new(&["--limits-stream-bytes", "80MiB"]);

/// Memory that gives a function a whole processor.
const WHOLE: (&str, &str) = ("memory", "1769");

fn events(server: &Server, name: &str, more: &[(&str, &str)]) {
    server.deploy(name, &Lang::Node.zip("streams"), &[&[("convention", "event"), WHOLE][..], more].concat());
}

/// Begins a call by Glambdar's route.
#[track_caller]
fn begin(server: &Server, name: &str, wish: &Value) -> (Conn, crate::harness::Answer) {
    let mut connection = server.connect();
    let head = connection.begin("POST", &format!("/invoke/{name}"), &[], wish.to_string().as_bytes());
    let head = head.unwrap_or_else(|e| panic!("{wish}: {e}; the server said: {}", server.said()));
    (connection, head)
}

fn text(chunk: std::io::Result<Option<Vec<u8>>>) -> String {
    String::from_utf8(chunk.unwrap().expect("a piece")).unwrap()
}

/// The length of what still comes.
fn length(connection: &mut Conn) -> std::io::Result<usize> {
    let mut length = 0;
    while let Some(chunk) = connection.chunk()? {
        length += chunk.len();
    }
    Ok(length)
}

fn instances(server: &Server) -> usize {
    server.boxed().len()
}

// ── When pieces arrive ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_piece_arrives_before_the_next_one_is_made() {
    let server = SERVER.get();
    events(&server, "meet", &[("maxConcurrency", "3")]);
    let (mut reader, head) = begin(&server, "meet", &json!({"do": "meet"}));
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/octet-stream")));
    assert_eq!(text(reader.chunk()), "first");
    assert_eq!(server.invoke("meet", r#"{"do":"go"}"#).expect(200).text(), "went");
    assert_eq!(text(reader.chunk()), "last");
    assert_eq!(reader.chunk().unwrap(), None);
}

#[test]
fn bodies_of_the_request_convention_may_be_streams() {
    let server = SERVER.get();
    let fields = [("handler", "index.web"), ("maxConcurrency", "3"), WHOLE];
    server.deploy("web", &Lang::Node.zip("streams"), &fields);
    let mut reader = server.connect();
    let head = reader.begin("GET", "/invoke/web", &[], b"").unwrap();
    assert_eq!(
        (head.status, head.header("content-type"), head.header("x-a")),
        (203, Some("text/event-stream"), Some("b"))
    );
    assert_eq!(text(reader.chunk()), "first");
    server.invoke("web", r#"{"do":"go"}"#).expect(200);
    assert_eq!(text(reader.chunk()), "last");
    assert_eq!(reader.chunk().unwrap(), None);
    assert_eq!(server.invoke("web", r#"{"do":"readable","bytes":6000000}"#).expect(200).body.len(), 6_000_000);
    assert_eq!(server.invoke("web", r#"{"do":"web"}"#).expect(200).text(), "of the web");
    assert!(server.invoke("web", r#"{"do":"204"}"#).expect(204).body.is_empty());
    // Whoever takes answers whole gets them whole.
    let native = server.native("web", r#"{"do":"readable","bytes":1000000}"#).expect(200);
    assert_eq!((native.body.len(), native.header("offshoot-status")), (1_000_000, Some("200")));
    let mut broken = server.connect();
    broken.begin("POST", "/invoke/web", &[], br#"{"do":"throws"}"#).unwrap();
    assert_eq!(text(broken.chunk()), "half");
    assert!(broken.chunk().is_err(), "a broken answer looks whole");
    let logs = server.logs("web").join("\n");
    assert!(logs.contains("RangeError: as asked"), "{logs}");
}

#[test]
fn generators_of_python_are_streams() {
    let server = SERVER.get();
    let archive = Lang::Python.zip("streams");
    // One call at a time, several in threads, several in one event loop.
    for (name, handler, calls) in
        [("gen", "index.handler", "1"), ("gens", "index.handler", "3"), ("agens", "index.later", "3")]
    {
        server.deploy(name, &archive, &[("handler", handler), ("maxConcurrency", calls), WHOLE]);
        for kind in ["plain", "async"] {
            let path = format!("/invoke/{name}/{kind}");
            let mut reader = server.connect();
            let head = reader.begin("POST", &path, &[], br#"{"pause":2}"#).unwrap();
            assert_eq!((head.status, head.header("content-type")), (203, Some("text/event-stream")), "{name} {kind}");
            assert_eq!(text(reader.chunk()), "first");
            let first = Instant::now();
            assert_eq!(text(reader.chunk()), "last");
            assert!(first.elapsed() > Duration::from_millis(500), "the pieces came together: {:?}", first.elapsed());
            assert_eq!(reader.chunk().unwrap(), None);
            let large = server.post(&path, r#"{"bytes":6000001}"#).expect(203).body;
            assert!(large.len() == 6_000_001 && large.iter().all(|b| *b == b'x'), "{name} {kind}: {}", large.len());
            let mut broken = server.connect();
            broken.begin("POST", &path, &[], br#"{"fail":true}"#).unwrap();
            assert_eq!(text(broken.chunk()), "half");
            assert!(broken.chunk().is_err(), "{name} {kind}: a broken answer looks whole");
        }
        let whole = server.native(name, r#"{"bytes":1000000}"#).expect(200);
        assert_eq!((whole.body.len(), whole.header("offshoot-status")), (1_000_000, Some("203")));
        assert!(server.logs(name).join("\n").contains("LookupError: as asked"));
    }
    // Calls that came behind one whose reader is slow are kept, and a handler may be a generator itself.
    server.deploy("itself", &archive, &[("handler", "index.itself"), WHOLE]);
    assert_eq!(server.invoke("itself", "x").expect(200).text(), r#"ab{"c": 1}"#);
    let sums = parallel(4, |_| {
        (0..10).map(|_| server.post("/invoke/gen/plain", r#"{"bytes":700000}"#).expect(203).body.len()).sum::<usize>()
    });
    assert_eq!(sums, [7_000_000; 4]);
}

/// The messages of an event stream: their event types and payloads.
fn messages(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    while bytes.len() >= 12 {
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (total, headers) = (number(0), number(4));
        let head = &bytes[12..12 + headers];
        let at = find(head, b":event-type").unwrap() + 11;
        let size = usize::from(u16::from_be_bytes([head[at + 1], head[at + 2]]));
        let kind = String::from_utf8(head[at + 3..at + 3 + size].to_vec()).unwrap();
        all.push((kind, bytes[12 + headers..total - 4].to_vec()));
        bytes = &bytes[total..];
    }
    all
}

const STREAMED: &str = "response-streaming-invocations";

#[test]
fn aws_s_event_stream_carries_pieces_as_they_come() {
    let server = SERVER.get();
    events(&server, "aws", &[("maxConcurrency", "3")]);
    let path = format!("/2021-11-15/functions/aws/{STREAMED}");
    let mut reader = server.connect();
    let head = reader.begin("POST", &path, &[("X-Amz-Log-Type", "Tail")], br#"{"do":"meet"}"#).unwrap();
    assert_eq!(head.header("content-type"), Some("application/vnd.amazon.eventstream"));
    assert_eq!(head.header("x-amz-executed-version"), Some("$LATEST"));
    let piece = |payload: &[u8]| vec![("PayloadChunk".to_owned(), payload.to_vec())];
    assert_eq!(messages(&reader.chunk().unwrap().unwrap()), piece(b"first"));
    server.invoke("aws", r#"{"do":"go"}"#).expect(200);
    assert_eq!(messages(&reader.chunk().unwrap().unwrap()), piece(b"last"));
    let end = messages(&reader.chunk().unwrap().unwrap());
    let document: Value = serde_json::from_slice(&end[0].1).unwrap();
    assert!(end[0].0 == "InvokeComplete" && document["LogResult"].is_string(), "{document}");
    assert_eq!(reader.chunk().unwrap(), None);
    // An answer that failed in the middle says so at its end, and one that never began has nothing before it.
    for (wish, pieces, code) in
        [("throws", 1, "RangeError"), ("exits", 1, "Runtime.ExitError"), ("throws_first", 0, "RangeError")]
    {
        let answer = server.post(&path, json!({"do": wish}).to_string()).expect(200);
        let all = messages(&answer.body);
        let document: Value = serde_json::from_slice(&all.last().unwrap().1).unwrap();
        assert_eq!((all.len() - 1, document["ErrorCode"].as_str()), (pieces, Some(code)), "{wish}: {document}");
        let details: Value = serde_json::from_str(document["ErrorDetails"].as_str().unwrap()).unwrap();
        assert_eq!(details["errorType"], code);
    }
}

#[test]
fn boto3_reads_pieces_as_they_come() {
    let Some(bin) = aws_clients("streamed answers with boto3") else { return };
    let server = SERVER.get();
    events(&server, "boto", &[("maxConcurrency", "3")]);
    let script = r#"
import boto3, json, os
client = boto3.client("lambda")
ask = lambda **wish: client.invoke_with_response_stream(FunctionName="boto", Payload=json.dumps(wish))["EventStream"]
seen = []
for event in ask(do="meet"):
    if "PayloadChunk" in event:
        piece = event["PayloadChunk"]["Payload"].decode()
        seen.append(piece)
        if piece == "first":
            seen.append(client.invoke(FunctionName="boto", Payload='{"do":"go"}')["Payload"].read().decode())
big = [e["PayloadChunk"]["Payload"] for e in ask(do="bytes", bytes=10_000_000) if "PayloadChunk" in e]
failed = [e["InvokeComplete"] for e in ask(do="throws") if "InvokeComplete" in e]
print(json.dumps({"seen": seen, "big": sum(map(len, big)), "failed": failed[0]["ErrorCode"]}))
"#;
    let mut child = Command::new(bin.join("python"))
        .arg("-")
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.port))
        .envs([("AWS_ACCESS_KEY_ID", "any"), ("AWS_SECRET_ACCESS_KEY", "any"), ("AWS_DEFAULT_REGION", "us-east-1")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", server.said()));
    assert_eq!(said, json!({"seen": ["first", "went", "last"], "big": 10_000_000, "failed": "RangeError"}));
}

// ── Function URLs ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Gives a function a URL for everybody; the answer is its path.
fn url(server: &Server, name: &str, mode: &str) -> String {
    let send = |path: String, body: Value| server.post(&path, body.to_string()).expect(201).json();
    let made = send(format!("/2021-10-31/functions/{name}/url"), json!({"AuthType": "NONE", "InvokeMode": mode}));
    let permission = json!({"StatementId": "all", "Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE"});
    send(format!("/2015-03-31/functions/{name}/policy"), permission);
    let id = made["FunctionUrl"].as_str().unwrap().trim_start_matches("http://").split('.').next().unwrap().to_owned();
    format!("/lambda-url/{id}/")
}

#[test]
fn function_urls_stream_with_the_status_of_their_prelude() {
    let server = SERVER.get();
    events(&server, "url", &[("maxConcurrency", "3")]);
    let streaming = url(&server, "url", "RESPONSE_STREAM");
    let mut reader = server.connect();
    reader.begin("POST", &streaming, &[], br#"{"do":"meet"}"#).unwrap();
    assert_eq!(text(reader.chunk()), "first");
    server.invoke("url", r#"{"do":"go"}"#).expect(200);
    assert_eq!(text(reader.chunk()), "last");
    assert_eq!(reader.chunk().unwrap(), None);
    let prelude =
        json!({"statusCode": 418, "headers": {"Content-Type": "text/plain", "X-A": "b"}, "cookies": ["c=1", "d=2"]});
    let wish = json!({"do": "http", "prelude": prelude, "body": "the\0body"});
    let check = |answer: crate::harness::Answer| {
        assert_eq!((answer.status, answer.text().as_str()), (418, "the\0body"), "{:?}", answer.headers);
        assert_eq!((answer.header("content-type"), answer.header("x-a")), (Some("text/plain"), Some("b")));
        assert_eq!(answer.headers_named("set-cookie"), ["c=1", "d=2"]);
    };
    check(server.post(&streaming, wish.to_string()));
    check(server.invoke("url", wish.to_string()));
    // An answer may be nothing but its prelude.
    let empty = server.post(&streaming, json!({"do": "http", "prelude": {"statusCode": 202}}).to_string());
    assert_eq!((empty.status, empty.body.len()), (202, 0));
    assert_eq!(
        server.post(&streaming, json!({"do": "http", "prelude": {"statusCode": 204}, "body": "x"}).to_string()).status,
        204
    );
    let typed = server.post(&streaming, r#"{"do":"types"}"#).expect(200);
    assert_eq!((typed.header("content-type"), typed.text().as_str()), (Some("text/x-own"), r#"{"json":[1]} bytes"#));
    // What fails before it has begun is an error; what fails later breaks off.
    server.post(&streaming, r#"{"do":"throws_first"}"#).expect(502);
    let broken = server.connect().request("POST", &streaming, &[], br#"{"do":"throws"}"#);
    assert!(broken.is_err(), "{broken:?}");
    // Without the mode, the same answers come whole.
    events(&server, "url-whole", &[]);
    let whole = url(&server, "url-whole", "BUFFERED");
    check(server.post(&whole, wish.to_string()));
    assert!(server.post(&whole, wish.to_string()).header("content-length").is_some());
    let typed = server.post(&whole, r#"{"do":"types"}"#).expect(200);
    assert_eq!((typed.header("content-type"), typed.text().as_str()), (Some("text/x-own"), r#"{"json":[1]} bytes"#));
    let shaped = json!({"do": "echo", "text": r#"{"statusCode":203,"body":"as a result"}"#});
    assert_eq!(server.post(&whole, shaped.to_string()).expect(203).text(), "as a result");
}

#[test]
fn callers_that_take_answers_whole_get_them_whole() {
    let server = SERVER.get();
    events(&server, "whole", &[]);
    let invoke = |wish: &Value| server.post("/2015-03-31/functions/whole/invocations", wish.to_string()).expect(200);
    assert_eq!(invoke(&json!({"do": "forgets"})).text(), "all of it");
    // AWS's Invoke shows the prelude as it was written.
    let answer = invoke(&json!({"do": "http", "prelude": {"statusCode": 201}, "body": "b"}));
    assert_eq!(answer.body, b"{\"statusCode\":201}\0\0\0\0\0\0\0\0b");
    let failed = invoke(&json!({"do": "throws"}));
    assert_eq!(
        (failed.header("x-amz-function-error"), &failed.json()["errorType"]),
        (Some("Unhandled"), &json!("RangeError"))
    );
    let large = invoke(&json!({"do": "bytes", "bytes": 7 << 20}));
    assert_eq!(large.json()["errorType"], "Function.ResponseSizeTooLarge", "{}", large.text());
    assert_eq!(invoke(&json!({"do": "bytes", "bytes": 6 << 20})).body.len(), 6 << 20);
}

// ── Amounts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn amounts_go_both_ways_unchanged() {
    let server = SERVER.get();
    events(&server, "amounts", &[]);
    let long = "0123456789abcdef".repeat(6_200_000 / 16);
    let echoed = server.invoke("amounts", json!({"do": "echo", "text": long}).to_string()).expect(200);
    assert!(echoed.text() == long, "{} bytes came back", echoed.body.len());
    let body = server.invoke("amounts", r#"{"do":"bytes","bytes":20000001}"#).expect(200).body;
    assert_eq!(body.len(), 20_000_001);
    assert!(
        body.chunks(50_000).enumerate().all(|(n, piece)| piece.iter().all(|b| usize::from(*b) == n * 50_000 % 251))
    );
    // Many pieces of a few bytes, and a function that never waits.
    let small = server.invoke("amounts", r#"{"do":"small","pieces":20000}"#).expect(200).text();
    assert_eq!(small.split(',').count(), 20_001);
    assert_eq!(server.invoke("amounts", r#"{"do":"pushes","bytes":30000000}"#).expect(200).body.len(), 30_000_000);
    let logs = server.logs("amounts");
    for line in ["START RequestId", "END RequestId", "REPORT RequestId"] {
        assert_eq!(logs.iter().filter(|l| l.starts_with(line)).count(), 4, "{logs:?}");
    }
}

#[test]
fn a_stream_has_a_largest_size() {
    let server = SERVER.get();
    events(&server, "largest", &[]);
    let path = format!("/2021-11-15/functions/largest/{STREAMED}");
    let answer = server.post(&path, r#"{"do":"bytes","bytes":90000000}"#).expect(200);
    let all = messages(&answer.body);
    let document: Value = serde_json::from_slice(&all.last().unwrap().1).unwrap();
    assert_eq!(document["ErrorCode"], "Function.ResponseSizeTooLarge", "{document}");
    let sum: usize = all.iter().filter(|(kind, _)| kind == "PayloadChunk").map(|(_, p)| p.len()).sum();
    assert!(sum <= 80 << 20 && sum > 70 << 20, "{sum}");
    assert_eq!(server.invoke("largest", r#"{"do":"echo","text":"next"}"#).expect(200).text(), "next");
}

#[test]
fn a_slow_reader_makes_its_function_wait_and_nobody_else() {
    let server = SERVER.get();
    events(&server, "slow", &[("maxConcurrency", "4")]);
    let total = 64_000_000;
    let (mut reader, _) = begin(&server, "slow", &json!({"do": "bytes", "bytes": total}));
    std::thread::sleep(Duration::from_millis(700));
    // What is on its way lies in the window and in the sockets' buffers. Others of the same instance are answered meanwhile.
    let written: usize = server.invoke("slow", r#"{"do":"written"}"#).expect(200).text().parse().unwrap();
    assert!((1..total / 2).contains(&written), "{written} bytes were made for a reader that does not read");
    let began = Instant::now();
    for _ in 0..20 {
        let other = server.invoke("slow", r#"{"do":"echo","text":"x"}"#).expect(200);
        assert_eq!(other.text(), "x");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "others waited: {:?}", began.elapsed());
    let again: usize = server.invoke("slow", r#"{"do":"written"}"#).expect(200).text().parse().unwrap();
    assert_eq!(again, written, "the function went on");
    assert_eq!(length(&mut reader).unwrap(), total);
}

// ── Ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_reader_that_goes_away_ends_the_call() {
    let server = Server::start(&[]);
    events(&server, "gone", &[("timeout", "60s")]);
    server.invoke("gone", r#"{"do":"echo","text":"x"}"#).expect(200);
    for wish in
        [json!({"do": "forever", "every": 20}), json!({"do": "silent"}), json!({"do": "bytes", "bytes": 50_000_000})]
    {
        let (mut reader, _) = begin(&server, "gone", &wish);
        assert!(reader.chunk().unwrap().is_some());
        assert!(instances(&server) > 0);
        drop(reader);
        eventually("nobody's function ends", Duration::from_secs(10), || instances(&server) == 0);
    }
    assert_eq!(server.invoke("gone", r#"{"do":"echo","text":"x"}"#).expect(200).text(), "x");
    let logs = server.logs("gone").join("\n");
    assert_eq!(logs.matches("went away").count(), 3, "{logs}");
    // An instance that serves several goes on, and has its room again.
    events(&server, "gone-one", &[("maxConcurrency", "2"), ("timeout", "60s")]);
    for _ in 0..3 {
        let (mut reader, _) = begin(&server, "gone-one", &json!({"do": "bytes", "bytes": 20_000_000}));
        assert!(reader.chunk().unwrap().is_some());
    }
    let ended = || server.logs("gone-one").iter().filter(|l| l.starts_with("REPORT")).count() == 3;
    eventually("calls that nobody reads come to their end", Duration::from_secs(20), ended);
    server.stop();
}

#[test]
fn the_deadline_holds_in_the_middle_of_an_answer() {
    let server = Server::start(&[]);
    events(&server, "late", &[("timeout", "1500ms")]);
    let path = format!("/2021-11-15/functions/late/{STREAMED}");
    for wish in [r#"{"do":"forever","every":100}"#, r#"{"do":"silent"}"#] {
        let began = Instant::now();
        let answer = server.post(&path, wish).expect(200);
        assert!((1400..8000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        let all = messages(&answer.body);
        let document: Value = serde_json::from_slice(&all.last().unwrap().1).unwrap();
        assert!(all.len() > 1 && document["ErrorCode"] == "Sandbox.Timedout", "{document}");
        assert!(document["ErrorDetails"].as_str().unwrap().contains("Task timed out after 1.50 seconds"), "{document}");
    }
    // Also for a reader that does not read.
    let (reader, _) = begin(&server, "late", &json!({"do": "bytes", "bytes": 70_000_000}));
    assert!(instances(&server) > 0);
    eventually("the instance ends at its deadline", Duration::from_secs(10), || instances(&server) == 0);
    let mut reader = reader;
    assert!(length(&mut reader).is_err(), "an answer that was cut off looks whole");
    server.stop();
}

#[test]
fn a_function_that_dies_breaks_its_answer_off() {
    let server = SERVER.get();
    events(&server, "dies", &[]);
    for wish in ["exits", "throws"] {
        let (mut reader, head) = begin(&server, "dies", &json!({"do": wish}));
        assert_eq!(head.status, 200);
        assert_eq!(text(reader.chunk()), "half");
        assert!(reader.chunk().is_err(), "{wish}: a broken answer looks whole");
    }
    assert_eq!(server.invoke("dies", r#"{"do":"throws_first"}"#).expect(500).json()["errorType"], "RangeError");
    assert_eq!(server.invoke("dies", r#"{"do":"forgets"}"#).expect(200).text(), "all of it");
    let logs = server.logs("dies").join("\n");
    assert!(logs.contains("Runtime.ExitError") && logs.contains("RangeError: as asked"), "{logs}");
}

/// Functions own their end of the channel: what they say there that nobody asked for ends them, and nobody else.
#[test]
fn pieces_that_nobody_asked_for_end_the_instance() {
    let server = SERVER.get();
    let code = br#"
        const fs = require('fs');
        const frame = (header, body = '') => {
            const head = JSON.stringify(header), out = Buffer.alloc(8 + Buffer.byteLength(head) + body.length);
            out.writeUInt32LE(Buffer.byteLength(head), 0); out.writeUInt32LE(body.length, 4);
            out.write(head, 8); out.write(body, 8 + Buffer.byteLength(head));
            fs.writeSync(3, out);
        };
        exports.handler = async (event, { awsRequestId: id }) => {
            for (const [header, body] of event.frames ?? []) frame({ id, ...header }, body);
            for (let i = 0; i < (event.flood ?? 0); i++) frame({ t: 'chunk', id }, 'x'.repeat(1000));
            return 'reply';
        };
    "#;
    let archive = crate::harness::zip_of(&[("index.js", code)]);
    server.deploy("rude", &archive, &[("convention", "event"), WHOLE]);
    let stream = json!([{"t": "stream"}, ""]);
    for wish in [
        json!({"frames": [[{"t": "chunk"}, "x"]]}),
        json!({"frames": [[{"t": "end"}, ""]]}),
        json!({"frames": [stream, stream]}),
        json!({"frames": [stream]}),
        json!({"frames": [[{"t": "stream", "id": "00000000-0000-4000-8000-000000000000"}, ""]]}),
    ] {
        // A stream that began cannot be taken back: its answer breaks off. Anything else is an error.
        let answer = server.connect().request("POST", "/invoke/rude", &[], wish.to_string().as_bytes());
        assert!(answer.as_ref().map_or(true, |a| a.status == 502), "{wish}: {answer:?}");
        assert_eq!(server.invoke("rude", "{}").expect(200).text(), r#""reply""#);
    }
    // Whoever takes answers whole never gets one in pieces, and the window is no suggestion.
    let whole = server.native("rude", json!({"frames": [stream]}).to_string()).expect(200);
    assert_eq!(whole.header("offshoot-function-error"), Some("protocol"), "{}", whole.text());
    let (reader, _) = begin(&server, "rude", &json!({"frames": [stream], "flood": 40_000}));
    std::thread::sleep(Duration::from_millis(500));
    let mut reader = reader;
    assert!(length(&mut reader).is_err());
    let logs = server.logs("rude").join("\n");
    assert!(logs.contains("beyond its window") || logs.contains("no open invocation"), "{logs}");
    assert_eq!(server.invoke("rude", "{}").expect(200).text(), r#""reply""#);
}

#[test]
fn quick_calls_and_streams_share_instances() {
    let server = Server::start(&[]);
    events(&server, "mixed", &[]);
    parallel(8, |thread| {
        let mut connection = server.connect();
        for n in 0..60 {
            let said = format!("{thread}-{n}");
            let (wish, wanted) = match (n + thread) % 6 {
                0 => (json!({"do": "small", "pieces": 50}), None),
                1 => (json!({"do": "bytes", "bytes": 300_000}), None),
                _ => (json!({"do": "echo", "text": said}), Some(said)),
            };
            let answer =
                connection.request("POST", "/invoke/mixed", &[], wish.to_string().as_bytes()).unwrap().expect(200);
            match wanted {
                Some(said) => assert_eq!(answer.text(), said),
                None => {
                    assert!(answer.body.len() == 300_000 || answer.text().ends_with("49,"), "{}", answer.body.len())
                }
            }
        }
    });
    let lines = server.logs("mixed");
    let count = |what: &str| lines.iter().filter(|l| l.starts_with(what)).count();
    assert_eq!((count("END"), count("REPORT")), (480, 480));
    server.stop();
}

// ── Other programs in the box ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn custom_runtimes_stream() {
    let server = SERVER.get();
    server.deploy("own", &provided("streams"), &[WHOLE, ("timeout", "20s")]);
    // The runtime sends its second piece two seconds after the first.
    let (mut reader, _) = begin(&server, "own", &json!({"pieces": ["one ", "two"], "pause": 2}));
    assert_eq!(text(reader.chunk()), "one ");
    let first = Instant::now();
    assert_eq!(text(reader.chunk()), "two");
    assert!(first.elapsed() > Duration::from_millis(500), "the pieces came together: {:?}", first.elapsed());
    assert_eq!(reader.chunk().unwrap(), None);
    let kind = "application/vnd.awslambda.http-integration-response";
    let pieces = json!(["{\"statusCode\":418,", "\"headers\":{\"x-a\":\"b\"}}\0\0\0\0", "\0\0\0\0the ", "body"]);
    let answer = server.invoke("own", json!({"headers": {"Content-Type": kind}, "pieces": pieces}).to_string());
    assert_eq!((answer.status, answer.header("x-a"), answer.text().as_str()), (418, Some("b"), "the body"));
    // AWS's client for Go names no mode, and sends what it streams as bytes without a length.
    let go = json!({"headers": {"Lambda-Runtime-Function-Response-Mode": "", "Content-Type": "application/octet-stream"}, "pieces": ["a", "b"]});
    let answer = server.invoke("own", go.to_string()).expect(200);
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("ab", Some("chunked")));
    // Errors come in trailers.
    let path = format!("/2021-11-15/functions/own/{STREAMED}");
    let broke = base64(br#"{"errorType":"E","errorMessage":"broke"}"#);
    let trailers = json!({"Lambda-Runtime-Function-Error-Type": "E", "Lambda-Runtime-Function-Error-Body": broke});
    for (wish, code) in [
        (json!({"pieces": ["half"], "trailers": trailers}), "E"),
        (json!({"pieces": ["half"], "do": "break"}), "Runtime.TruncatedResponse"),
        (json!({"pieces": ["half"], "do": "exit"}), "Runtime.ExitError"),
    ] {
        let all = messages(&server.post(&path, wish.to_string()).expect(200).body);
        assert_eq!(all[0], ("PayloadChunk".to_owned(), b"half".to_vec()));
        let document: Value = serde_json::from_slice(&all.last().unwrap().1).unwrap();
        assert_eq!(document["ErrorCode"], code, "{wish}: {document}");
    }
    assert_eq!(server.invoke("own", json!({"bytes": 20 << 20}).to_string()).expect(200).body.len(), 20 << 20);
    let logs = server.logs("own");
    assert!(logs.iter().filter(|l| *l == "answered 202").count() >= 4, "{logs:?}");
}

#[test]
fn custom_runtimes_wait_for_their_readers_and_end_without_them() {
    let server = Server::start(&[]);
    server.deploy("waits", &provided("streams"), &[WHOLE, ("timeout", "60s")]);
    let (mut reader, _) = begin(&server, "waits", &json!({"bytes": 64 << 20}));
    std::thread::sleep(Duration::from_millis(1000));
    let sent = || server.logs("waits").iter().filter(|l| l.starts_with("sent ")).count();
    let before = sent();
    assert!(before < 40, "{before} MiB were sent for a reader that does not read");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(sent(), before, "the runtime went on");
    assert_eq!(length(&mut reader).unwrap(), 64 << 20);
    let (mut reader, _) = begin(&server, "waits", &json!({"pieces": ["x", "y"], "pause": 30}));
    assert_eq!(text(reader.chunk()), "x");
    drop(reader);
    eventually("nobody's runtime ends", Duration::from_secs(10), || instances(&server) == 0);
    server.stop();
}

#[test]
fn streams_pass_a_wrapper_and_extensions_beside_it() {
    let server = SERVER.get();
    let index = std::fs::read(root().join("tests/functions/node/streams/index.js")).unwrap();
    let archive = zip_with_modes(&[("index.js", &index, 0o644), ("wrap", b"#!/bin/sh\nexec \"$@\"\n", 0o755)]);
    let env = r#"{"AWS_LAMBDA_EXEC_WRAPPER":"/var/task/wrap"}"#;
    server.deploy("wrapped", &archive, &[("convention", "event"), ("env", env), ("timeout", "20s"), WHOLE]);
    assert_eq!(server.invoke("wrapped", r#"{"do":"bytes","bytes":5000000}"#).expect(200).body.len(), 5_000_000);
    let (mut reader, _) = begin(&server, "wrapped", &json!({"do": "throws"}));
    assert_eq!(text(reader.chunk()), "half");
    assert!(reader.chunk().is_err());
    assert_eq!(server.invoke("wrapped", r#"{"do":"echo","text":"next"}"#).expect(200).text(), "next");
    assert_eq!(server.native("wrapped", r#"{"do":"forgets"}"#).expect(200).text(), "all of it");
}
