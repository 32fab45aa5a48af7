//! AWS's runtime clients in compiled languages, and its Lambda Web Adapter, unmodified, in boxes: Rust (`lambda_runtime`), Java
//! (`aws-lambda-java-runtime-interface-client`), and a web server that knows nothing of Lambda behind the adapter. Python, Node.js and Go are in
//! `official_clients.rs`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::custom_runtimes::zip_with_modes;
use crate::harness::{Answer, Server, Shared, base64, eventually, installed, skip};
use crate::official_clients::{answers_and_fails, files_of, reply, zip};

static SERVER: Shared = Shared::new(&["--keep-alive-ms", "5000"]);

const FUNCTIONS: &str = "/2015-03-31/functions";

/// A function that the server knows by AWS's API, active, and what more it is to be made with.
fn create(server: &Server, name: &str, archive: &[u8], more: &Value) {
    let mut body = json!({
        "FunctionName": name, "Runtime": "provided.al2023", "Role": "arn:aws:iam::000000000000:role/r", "Handler": "any",
        "Code": {"ZipFile": base64(archive)}, "MemorySize": 256, "Timeout": 20,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    send(server, FUNCTIONS, &body).expect(201);
    eventually("the function is active", std::time::Duration::from_secs(20), || {
        server.get(&format!("{FUNCTIONS}/{name}/configuration")).expect(200).json()["State"] == "Active"
    });
}

fn send(server: &Server, path: &str, body: &Value) -> Answer {
    server.request("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

/// The path below which a function answers the world.
fn open_to_all(server: &Server, name: &str, mode: &str) -> String {
    let body = json!({"AuthType": "NONE", "InvokeMode": mode});
    let made = send(server, &format!("/2021-10-31/functions/{name}/url"), &body).expect(201).json();
    let permission = json!({"StatementId": "u", "Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE"});
    send(server, &format!("{FUNCTIONS}/{name}/policy"), &permission).expect(201);
    let id = made["FunctionUrl"].as_str().unwrap()["http://".len()..].split('.').next().unwrap();
    format!("/lambda-url/{id}")
}

// ── Rust ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn rust_archive() -> Option<Vec<u8>> {
    let home = installed("the official client for Rust", "rust", "debug/bootstrap")?;
    let program = fs::read(home.join("debug/bootstrap")).unwrap();
    Some(zip_with_modes(&[("bootstrap", &program, 0o755)]))
}

#[test]
fn rust_as_a_custom_runtime() {
    let Some(archive) = rust_archive() else { return };
    let server = SERVER.get();
    server.deploy("rust", &archive, &[("timeout", "2s")]);
    answers_and_fails(&server, "rust");
    let seen = reply(&server, "rust", &json!({"x": [1.5, "é", null]}));
    assert_eq!((&seen["event"], &seen["name"]), (&json!({"x": [1.5, "é", null]}), &json!("rust")));
    // It catches a panic, tells of it, and goes on.
    let failed = server.native("rust", r#"{"panic":true}"#);
    assert!(failed.json()["errorMessage"].as_str().unwrap().contains("asked to panic"), "{}", failed.text());
    assert!(failed.header("offshoot-function-error").is_some());
    let late = server.native("rust", r#"{"sleep":30}"#);
    assert!(
        late.json()["errorMessage"].as_str().unwrap().ends_with("Task timed out after 2.00 seconds"),
        "{}",
        late.text()
    );
    reply(&server, "rust", &json!({}));
}

#[test]
fn rust_streams_an_answer_with_a_head() {
    let Some(archive) = rust_archive() else { return };
    let server = SERVER.get();
    create(&server, "rust-stream", &archive, &json!({}));
    let event = r#"{"stream":["one ","two ","three"]}"#;
    // The body of a URL's request is not the event: this function streams whatever it is asked.
    let path = format!("{FUNCTIONS}/rust-stream/invocations");
    let answer = server.request("POST", &path, &[], event.as_bytes()).expect(200);
    assert_eq!(answer.header("x-amz-function-error"), None, "{}", answer.text());
    assert!(answer.text().ends_with("one two three"), "{}", answer.text());
    let call = send(
        &server,
        "/2021-11-15/functions/rust-stream/response-streaming-invocations",
        &json!({"stream": ["a", "b"]}),
    );
    let frames = String::from_utf8_lossy(&call.expect(200).body).into_owned();
    assert!(
        frames.contains("PayloadChunk") && frames.contains("InvokeComplete") && !frames.contains("ErrorCode"),
        "{frames}"
    );
}

#[test]
fn rust_gets_what_the_caller_says() {
    let Some(archive) = rust_archive() else { return };
    let server = SERVER.get();
    create(&server, "rust-context", &archive, &json!({"Publish": true}));
    let context = base64(br#"{"custom":{"who":"ana"}}"#);
    let headers = [("X-Amz-Client-Context", context.as_str()), ("X-Amzn-Trace-Id", "Root=1-2-3;Parent=4;Sampled=1")];
    let path = format!("{FUNCTIONS}/rust-context/invocations?Qualifier=1");
    let seen = server.request("POST", &path, &headers, b"{}").expect(200).json();
    assert_eq!(seen["custom"], json!({"who": "ana"}));
    assert!(seen["trace"].as_str().unwrap().starts_with("Root=1-2-3;Parent=4;Sampled=1;Lineage=1:"), "{seen}");
    assert_eq!(seen["arn"], "arn:aws:lambda:us-east-1:000000000000:function:rust-context:1");
}

// ── Java ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn java_as_a_custom_runtime() {
    let Some(home) = installed("the official client for Java", "java", "example/App.class") else { return };
    // A Java elsewhere is not in a box.
    if !Path::new("/usr/bin/java").exists() {
        return skip("the official client for Java", "there is no /usr/bin/java");
    }
    let mut files = Vec::new();
    files_of(&home.join("lib"), "lib/", &mut files);
    files_of(&home.join("example"), "example/", &mut files);
    let bootstrap =
        b"#!/bin/sh\nexec /usr/bin/java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '/var/task:/var/task/lib/*' \
        com.amazonaws.services.lambda.runtime.api.client.AWSLambda \"$_HANDLER\"\n";
    let archive = zip(&files, &[("bootstrap", bootstrap, 0o755)]);
    let server = SERVER.get();
    let fields = [
        ("runtime", "provided.al2023"),
        ("handler", "example.App::handleRequest"),
        ("memory", "512"),
        ("timeout", "30s"),
    ];
    server.deploy("java", &archive, &fields);
    answers_and_fails(&server, "java");
    let seen = reply(&server, "java", &json!({"x": 1}));
    assert_eq!((&seen["name"], &seen["memory"], &seen["event"]), (&json!("java"), &json!(512), &json!({"x": 1})));
    assert_eq!(seen["arn"], "arn:aws:lambda:us-east-1:000000000000:function:java");
    assert!((1000..=30_000).contains(&seen["remaining"].as_i64().unwrap()), "{seen}");
    let calls = seen["calls"].as_i64().unwrap();
    assert!(server.logs("java").iter().any(|l| *l == format!("call {calls}")), "{:?}", server.logs("java"));
    let ended = server.native("java", r#"{"exit":3}"#);
    assert!(ended.json()["errorMessage"].as_str().unwrap().ends_with("exit status 3"), "{}", ended.text());
    assert_eq!(reply(&server, "java", &json!({}))["calls"], 1);
    // A handler that is not there is an error of initialisation, in the client's words.
    let fields =
        [("runtime", "provided.al2023"), ("handler", "example.None::handle"), ("memory", "512"), ("timeout", "30s")];
    server.deploy("java-none", &archive, &fields);
    let failed = server.native("java-none", "{}");
    assert!(failed.text().contains("example.None"), "{}", failed.text());
}

// ── The Lambda Web Adapter ───────────────────────────────────────────────────────────────────────────────────────────

/// A web server that knows nothing of Lambda, on the standard library: tells what it was asked, and streams at `/stream`.
const WEB_SERVER: &[u8] = br##"
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/stream":
            self.send_response(202)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("X-Kind", "stream")
            self.end_headers()
            for part in (b"one ", b"two ", b"three"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/end":
            os._exit(3)
        if self.path == "/picture":
            text = bytes(range(256))
        else:
            text = json.dumps({
                "method": self.command, "path": self.path, "body": body.decode(), "x": self.headers.get("X-Mine"),
                "context": "x-amzn-request-context" in self.headers,
            }).encode()
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Type", "image/png" if self.path == "/picture" else "application/json")
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

print("the web server is up", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["AWS_LWA_PORT"])), Handler).serve_forever()
"##;

/// The adapter's layer: the extension, and the wrapper that starts the function's handler as a program.
fn adapter_layer(server: &Server) -> Option<String> {
    let home = installed("the Lambda Web Adapter", "rust", "bin/lambda-adapter")?;
    let adapter = fs::read(home.join("bin/lambda-adapter")).unwrap();
    let wrapper = b"#!/bin/sh\nexec \"$LAMBDA_TASK_ROOT/$_HANDLER\"\n";
    let layer = zip_with_modes(&[("extensions/lambda-adapter", &adapter, 0o755), ("bootstrap", wrapper, 0o755)]);
    let body = json!({"Content": {"ZipFile": base64(&layer)}});
    let made = send(server, "/2018-10-31/layers/adapter/versions", &body).expect(201).json();
    Some(made["LayerVersionArn"].as_str().unwrap().to_owned())
}

#[track_caller]
fn serves_the_web(server: &Server, at: &str) {
    let headers = [("X-Mine", "yes"), ("Content-Type", "text/plain")];
    let answer = server.request("POST", &format!("{at}/a/b?q=1&r=%20"), &headers, "grüße".as_bytes()).expect(200);
    let seen = answer.json();
    assert_eq!(
        (&seen["method"], &seen["body"], &seen["x"]),
        (&json!("POST"), &json!("grüße"), &json!("yes")),
        "{seen}"
    );
    assert!(seen["path"].as_str().unwrap().starts_with("/a/b?") && seen["context"] == true, "{seen}");
    assert_eq!(answer.headers_named("set-cookie"), ["a=1", "b=2"], "{at} {:?}", answer.headers);
    assert_eq!(server.get(&format!("{at}/missing")).status, 404);
    let picture = server.get(&format!("{at}/picture")).expect(200);
    assert_eq!((picture.header("content-type"), &picture.body), (Some("image/png"), &(0..=255).collect::<Vec<u8>>()));
    let streamed = server.get(&format!("{at}/stream")).expect(202);
    assert_eq!((streamed.text().as_str(), streamed.header("x-kind")), ("one two three", Some("stream")));
}

#[test]
fn a_web_server_answers_behind_the_web_adapter() {
    let server = SERVER.get();
    let Some(layer) = adapter_layer(&server) else { return };
    let start = b"#!/bin/sh\nexec /usr/bin/python3 web.py\n";
    let archive =
        zip_with_modes(&[("start.sh", start, 0o755), ("web.py", WEB_SERVER, 0o644), ("bootstrap", start, 0o755)]);
    let python = said_version();
    // As a wrapper around a managed runtime, and as a custom runtime; collected, and as a stream.
    for (name, runtime, wrapped, mode) in [
        ("web-wrapped", python.as_str(), true, "BUFFERED"),
        ("web-provided", "provided.al2023", false, "BUFFERED"),
        ("web-streamed", "provided.al2023", false, "RESPONSE_STREAM"),
    ] {
        let mut env = json!({"AWS_LWA_PORT": "8099"});
        if wrapped {
            env["AWS_LAMBDA_EXEC_WRAPPER"] = json!("/opt/bootstrap");
        }
        if mode == "RESPONSE_STREAM" {
            env["AWS_LWA_INVOKE_MODE"] = json!("response_stream");
        }
        let more =
            json!({"Runtime": runtime, "Handler": "start.sh", "Layers": [layer], "Environment": {"Variables": env}});
        create(&server, name, &archive, &more);
        let at = open_to_all(&server, name, mode);
        serves_the_web(&server, &at);
        assert!(server.logs(name).iter().any(|l| l == "the web server is up"), "{name}: {:?}", server.logs(name));
    }
    // An event that is no request goes to the path for such events.
    let path = format!("{FUNCTIONS}/web-provided/invocations");
    let passed = server.request("POST", &path, &[], br#"{"Records":[{"n":1}]}"#).expect(200);
    let seen = passed.json();
    assert_eq!((&seen["path"], &seen["body"]), (&json!("/events"), &json!(r#"{"Records":[{"n":1}]}"#)), "{seen}");
    // The web server's end is the environment's, although the adapter would go on asking for calls; another environment serves the next.
    let at = format!("/lambda-url/{}", url_id(&server, "web-provided"));
    assert_eq!(server.get(&format!("{at}/end")).status, 502);
    eventually("another environment serves", std::time::Duration::from_secs(10), || {
        server.get(&format!("{at}/again")).status == 200
    });
}

fn url_id(server: &Server, name: &str) -> String {
    let made = server.get(&format!("/2021-10-31/functions/{name}/url")).expect(200).json();
    made["FunctionUrl"].as_str().unwrap()["http://".len()..].split('.').next().unwrap().to_owned()
}

/// The runtime's name of the Python that boxes have.
fn said_version() -> String {
    let say = "import sys; print('python%d.%d' % sys.version_info[:2])";
    let done = std::process::Command::new(Path::new("/usr/bin/python3")).args(["-c", say]).output().unwrap();
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}
