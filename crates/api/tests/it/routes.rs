//! What every route answers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Said, Server, short, small};
use offshoot_api::Options;

const FORM: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=XX");

fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, filename, value) in parts {
        let filename = filename.map(|f| format!("; filename=\"{f}\"")).unwrap_or_default();
        body.extend_from_slice(
            format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XX--\r\n");
    body
}

#[tokio::test]
async fn a_function_lives_and_dies() {
    let server = Server::start().await;
    let zip = vec![b'z'; 300_000];
    let body = form(&[("rateLimit", None, b"5"), ("file", Some("hello.zip"), &zip), ("timeout", None, b"1.5")]);
    let reply = server.ask("POST", "/deploy", &[FORM], &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(
        reply.json(),
        json!({
            "function": "hello", "status": "deployed", "revision": 1, "runtime": "nodejs20.x", "handler": "index.handler",
            "codeSha256": "07".repeat(32), "codeBytes": 300_000,
        })
    );
    assert_eq!(server.state.backend().uploads_left(), 0);
    let again = server
        .ask("POST", "/deploy", &[FORM], &form(&[("funcName", None, b"hello"), ("file", Some("x.zip"), b"z")]))
        .await;
    assert_eq!((again.status, &again.json()["revision"]), (201, &json!(2)));

    let info = server.ask("GET", "/info/hello", &[], b"").await.json();
    assert_eq!(
        (&info["name"], &info["invokeCount"], &info["lastInvokedAt"]),
        (&json!("hello"), &json!(0), &Value::Null)
    );
    assert_eq!(
        (&info["createdAt"], &info["updatedAt"]),
        (&json!("1970-01-01T00:00:00.000Z"), &json!("1970-01-01T00:00:01.000Z"))
    );
    assert_eq!((&info["memory"], &info["maxConcurrency"], &info["codeBytes"]), (&json!(128), &json!(1), &json!(1)));
    let all = server.ask("GET", "/info", &[], b"").await.json();
    assert_eq!((&all["count"], all["functions"].as_array().unwrap().len()), (&json!(3), 3));

    let config = server.ask("POST", "/config/hello", &[], br#"{"rateLimit":9,"timeout":2000}"#).await;
    assert_eq!((config.status, &config.json()["rateLimit"], &config.json()["timeout"]), (200, &json!(9), &json!(2000)));
    assert_eq!(server.ask("DELETE", "/del/hello", &[], b"").await.status, 204);
    for (method, path) in [
        ("DELETE", "/del/hello"),
        ("GET", "/info/hello"),
        ("POST", "/config/hello"),
        ("POST", "/invoke/hello"),
        ("GET", "/logs/hello"),
    ] {
        let body: &[u8] = if path.starts_with("/config") { b"{}" } else { b"" };
        let reply = server.ask(method, path, &[], body).await;
        assert_eq!((reply.status, reply.json()), (404, json!({"error": "Function not found!"})), "{path}");
    }
    for name in ["event", "web"] {
        assert_eq!(server.ask("DELETE", &format!("/del/{name}"), &[], b"").await.status, 204);
    }
    assert_eq!(server.ask("GET", "/info", &[], b"").await.json(), json!({"count": 0, "functions": []}));
}

#[tokio::test]
async fn deployments_that_cannot_be() {
    let server = Server::start().await;
    let zip: (&str, Option<&str>, &[u8]) = ("file", Some("hello.zip"), b"z");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (form(&[]), "missing zip file"),
        (form(&[("rateLimit", None, b"5")]), "missing zip file"),
        (form(&[zip, ("memroy", None, b"5")]), "did you mean 'memory'?"),
        (form(&[zip, ("memory", None, b"lots")]), "memory is 'lots'"),
        (form(&[zip, zip]), "appears twice"),
        (form(&[zip, ("env", None, br#"{"A":"1","A":"2"}"#)]), "appears twice"),
        (form(&[("file", Some("../../x.zip"), b"z")]), "is not a function name"),
        (form(&[("file", None, b"z")]), "is not a function name"),
        (form(&[("file", Some("hello.zip"), b"bad")]), "error opening zip"),
        (form(&[zip, ("rateLimit", None, b"\xff")]), "not UTF-8"),
        (form(&vec![("file2", None, b"x" as &[u8]); 100_000]), "appears twice"),
    ];
    for (body, message) in cases {
        let reply = server.ask("POST", "/deploy", &[FORM], &body).await;
        assert!(
            [400, 413].contains(&reply.status) && (reply.text().contains(message) || reply.status == 413),
            "{message}: {reply:?}"
        );
        assert_eq!(server.state.backend().uploads_left(), 0, "{message}");
    }
    let reply = server.ask("POST", "/deploy", &[("Content-Type", "application/zip")], b"z").await;
    assert_eq!((reply.status, reply.json()), (400, json!({"error": "missing zip file"})));
    let large = form(&[("file", Some("hello.zip"), &vec![0; 1_500_000])]);
    assert_eq!(server.ask("POST", "/deploy", &[FORM], &large).await.status, 413);
    let huge = form(&[("file", Some("hello.zip"), &vec![0; 5_000_000])]);
    assert_eq!(server.ask("POST", "/deploy", &[FORM], &huge).await.status, 413);
    assert_eq!(server.state.backend().uploads_left(), 0);
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let server = Server::start().await;
    let body = form(&[("file", Some("hello.zip"), &vec![0; 500_000])]);
    let mut io = server.connect().await;
    let head = format!(
        "POST /deploy HTTP/1.1\r\nHost: localhost\r\n{}: {}\r\nContent-Length: {}\r\n\r\n",
        FORM.0,
        FORM.1,
        body.len()
    );
    io.write_all(head.as_bytes()).await.unwrap();
    io.write_all(&body[..400_000]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.state.backend().uploads_left(), 1);
    drop(io);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.state.backend().uploads_left(), 0);
    assert_eq!(server.state.backend().uploaded.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn events_are_json() {
    let server = Server::start().await;
    let reply = server.ask("POST", "/invoke/event", &[], br#"{"a":[1]}"#).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"a":[1]}"#));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("offshoot-start"), Some("clone"));
    assert_eq!(reply.header("offshoot-request-id").unwrap().len(), 36);
    assert_eq!(server.ask("GET", "/invoke/event", &[], b"").await.text(), "{}");
    let bad = server.ask("POST", "/invoke/event", &[], b"{").await;
    assert_eq!(bad.status, 400);
    assert!(bad.header("offshoot-request-id").is_some());
    assert_eq!(server.state.backend().invoked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn requests_reach_the_function_whole() {
    let server = Server::start().await;
    let headers = [("X-A", "1"), ("Connection", "x-hop"), ("X-Hop", "1"), ("Expect", "100-continue")];
    let said = server.ask("PUT", "/invoke/web/a%2Fb/c?x=1&y=%20", &headers, b"\x00bytes").await;
    let at = said.text().find('{').unwrap_or(0);
    let seen: Value = serde_json::from_slice(&said.body[at..]).unwrap();
    assert_eq!(
        (&seen["method"], &seen["path"], &seen["query"]),
        (&json!("PUT"), &json!("/a%2Fb/c"), &json!("x=1&y=%20"))
    );
    assert_eq!((&seen["body"], &seen["headers"]), (&json!("\0bytes"), &json!([["host", "localhost"], ["x-a", "1"]])));
    for method in ["GET", "DELETE", "PATCH", "OPTIONS", "HEAD"] {
        let reply = server.ask(method, "/invoke/web", &[], b"").await;
        assert_eq!(reply.status, 200, "{method}");
        assert!(method == "HEAD" || reply.json()["path"] == "/", "{method}");
        assert_eq!(method == "HEAD", reply.body.is_empty());
    }
    assert_eq!(server.ask("TRACE", "/invoke/web", &[], b"").await.status, 405);
    assert_eq!(server.ask("GET", "/invoke/%77eb/%2e%2e/x", &[], b"").await.json()["path"], "/%2e%2e/x");
}

#[tokio::test]
async fn failures_have_their_own_status() {
    let server = Server::start().await;
    for (path, status, kind, message) in [
        ("handler", 500, "TypeError", "no such thing"),
        ("timeout", 504, "Sandbox.Timedout", "Task timed out after 3.00 seconds"),
        ("memory", 502, "Runtime.OutOfMemory", "Runtime.OutOfMemory"),
        ("init", 500, "Runtime.InitError", "Runtime.InitError"),
    ] {
        let reply = server.ask("POST", &format!("/invoke/web/fail/{path}"), &[], b"").await;
        let body = reply.json();
        assert_eq!(
            (reply.status, &body["errorType"], &body["error"]),
            (status, &json!(kind), &json!(message)),
            "{path}"
        );
        assert_eq!(body["requestId"].as_str(), reply.header("offshoot-request-id"));
    }
    for (path, sentence) in
        [("rate", "Rate limit exceeded. Please try again later."), ("busy", "all 3 instances are busy")]
    {
        let reply = server.ask("POST", &format!("/invoke/web/fail/{path}"), &[], b"").await;
        assert_eq!(
            (reply.status, reply.json(), reply.header("retry-after")),
            (429, json!({"error": sentence}), Some("1"))
        );
        assert!(reply.header("offshoot-request-id").is_some());
    }
    let reply = server.ask("POST", "/invoke/web/panic", &[], b"").await;
    assert_eq!(reply.status, 500);
    assert_eq!(server.ask("GET", "/health", &[], b"").await.status, 200);
    assert_eq!(server.state.backend().running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn native_invocations_carry_their_account() {
    let server = Server::start().await;
    let reply = server.ask("POST", "/v1/functions/event/invoke", &[], b"[1]").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "[1]"));
    assert_eq!(reply.header("offshoot-timing"), Some("queue=0.000;start=0.000;init=0.000;run=0.900;total=0.000"));
    assert_eq!(reply.header("offshoot-memory"), Some("42991616/134217728"));
    assert_eq!((reply.header("offshoot-log"), reply.header("offshoot-start")), (Some("RU5ECg=="), Some("clone")));
    let headers = [
        ("Offshoot-Method", "PATCH"),
        ("Offshoot-Path", "/p"),
        ("Offshoot-Query", "q=1"),
        ("Offshoot-Header-X-A", "1"),
        ("Content-Type", "text/plain"),
    ];
    let reply = server.ask("POST", "/v1/functions/web/invoke", &headers, b"hi").await;
    let seen = reply.json();
    assert_eq!(
        (&seen["method"], &seen["path"], &seen["query"], &seen["body"]),
        (&json!("PATCH"), &json!("/p"), &json!("q=1"), &json!("hi"))
    );
    assert_eq!(seen["headers"], json!([["x-a", "1"], ["content-type", "text/plain"]]));
    assert_eq!(reply.header("offshoot-status"), Some("200"));
    assert_eq!(reply.header("offshoot-reply-headers"), Some(r#"[["content-type","application/json"]]"#));
    for (path, cause) in [("handler", "handler"), ("timeout", "timeout"), ("memory", "out-of-memory")] {
        let reply =
            server.ask("POST", "/v1/functions/web/invoke", &[("Offshoot-Path", &format!("/fail/{path}"))], b"").await;
        assert_eq!((reply.status, reply.header("offshoot-function-error")), (200, Some(cause)));
    }
    let odd = server.ask("POST", "/v1/functions/web/invoke", &[("Offshoot-Path", "/inject")], b"").await;
    assert_eq!(odd.header("offshoot-reply-headers"), Some(r#"[["x","a\r\nSet-Cookie: b=c"]]"#));
    for (method, path, status, kind) in [
        ("POST", "/v1/functions/none/invoke", 404, "not-found"),
        ("GET", "/v1/functions/event/invoke", 405, "method-not-allowed"),
        ("POST", "/v1/functions/a%2fb/invoke", 400, "invalid-input"),
        ("GET", "/v1/nothing", 404, "no-route"),
        ("GET", "/v1/functions/none", 404, "not-found"),
        ("GET", "/v1/functions/event/else", 404, "no-route"),
    ] {
        let reply = server.ask(method, path, &[], b"").await;
        assert_eq!((reply.status, &reply.json()["kind"]), (status, &json!(kind)), "{path}");
    }
    assert_eq!(server.ask("GET", "/v1/functions", &[], b"").await.json()["count"], 2);
    assert_eq!(server.ask("PATCH", "/v1/functions/event", &[], br#"{"rateLimit":3}"#).await.json()["rateLimit"], 3);
    assert_eq!(server.ask("DELETE", "/v1/functions/event", &[], b"").await.status, 204);
}

#[tokio::test]
async fn logs_are_read_and_followed() {
    let server = Server::start().await;
    let id = server.ask("POST", "/invoke/event", &[], b"1").await.header("offshoot-request-id").unwrap().to_owned();
    server.ask("POST", "/invoke/event", &[], b"2").await;
    let line = json!({"time": 5, "requestId": id, "stream": "platform", "text": "said\\x1b[31m"});
    let one = server.ask("GET", &format!("/logs/event?requestId={id}"), &[], b"").await;
    assert_eq!(one.json(), json!({"function": "event", "logs": [line]}));
    assert_eq!(server.ask("GET", "/logs/event", &[], b"").await.json()["logs"].as_array().unwrap().len(), 2);
    assert_eq!(server.ask("GET", "/logs/event?limit=1", &[], b"").await.json()["logs"].as_array().unwrap().len(), 1);
    assert_eq!(server.ask("GET", "/logs/web?since=6", &[], b"").await.json()["logs"], json!([]));
    let lines = server.ask("GET", "/logs/event", &[("Accept", "application/x-ndjson")], b"").await;
    assert_eq!((lines.text().lines().count(), lines.header("content-type")), (2, Some("application/x-ndjson")));
    for bad in ["since=x", "limit=-1", "nonsense=1"] {
        assert_eq!(server.ask("GET", &format!("/logs/event?{bad}"), &[], b"").await.status, 400, "{bad}");
    }

    let mut io = server.connect().await;
    io.write_all(b"GET /logs/event?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    let mut block = [0u8; 4096];
    for wanted in 2..=3 {
        while seen.matches("said").count() < wanted {
            let n = tokio::time::timeout(Duration::from_secs(3), io.read(&mut block)).await.unwrap().unwrap();
            assert!(n > 0);
            seen.push_str(&String::from_utf8_lossy(&block[..n]));
        }
        server.ask("POST", "/invoke/event", &[], b"3").await;
    }
    server.ask("DELETE", "/del/event", &[], b"").await;
    let rest = Said::until_close(&mut io).await;
    assert!(rest.bytes.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest.bytes));
}

#[tokio::test]
async fn health_is_open_and_the_rest_wants_the_token() {
    let options = Options { token: Some("secret".into()), ..Options::default() };
    let server = Server::with(options, small()).await;
    for path in ["/health", "/healthz", "/readyz"] {
        assert_eq!(server.ask("GET", path, &[], b"").await.status, 200, "{path}");
    }
    for path in ["/info", "/invoke/event", "/metrics", "/v1/functions", "/nothing"] {
        let reply = server.ask("GET", path, &[], b"").await;
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert_ne!(server.ask("GET", path, &[("X-API-Key", "secret")], b"").await.status, 401, "{path}");
    }
    let seen =
        server.ask("GET", "/invoke/web", &[("Authorization", "Bearer secret"), ("X-API-Key", "theirs")], b"").await;
    assert!(!seen.text().contains("secret") && seen.text().contains("theirs"), "{}", seen.text());
    let metrics = server.ask("GET", "/metrics", &[("Authorization", "Bearer secret")], b"").await;
    assert!(
        metrics.text().contains("offshoot_build_info")
            && metrics.header("content-type").unwrap().starts_with("application/openmetrics-text")
    );
    assert_eq!(server.ask("POST", "/health", &[], b"").await.status, 405);
}

#[tokio::test]
async fn a_connection_is_used_again_and_drained() {
    let server = Server::with(Options { linger: short().linger, ..Options::default() }, small()).await;
    let mut io = server.connect().await;
    let mut block = [0u8; 4096];
    for _ in 0..3 {
        for request in [
            "POST /invoke/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1",
            "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ] {
            io.write_all(request.as_bytes()).await.unwrap();
            let n = io.read(&mut block).await.unwrap();
            assert!(block[..n].starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
    }
    // Two at once are answered in order.
    io.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /invoke/event HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n7\r\n0\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n7") {
        let n = tokio::time::timeout(Duration::from_secs(3), io.read(&mut block)).await.unwrap().unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&block[..n]);
    }
    assert_eq!(server.state.open_connections(), 1);
    server.state.drain();
    let said = Said::until_close(&mut io).await;
    assert!(said.closed && said.bytes.is_empty());
    drop(io);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.state.open_connections(), 0);
}
