//! Hostile bytes on the wire: each request is answered with the right status or its connection ends, never twice, and a
//! good client beside it notices nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Conn, Lang, PATIENCE, Server, Shared, eventually, parallel};

static SERVER: Shared = Shared::new(&[]);

/// Everything that the server sends to these bytes until it closes; `None` when it keeps the connection.
fn talk(server: &Server, bytes: &[u8]) -> Option<String> {
    let mut connection = server.connect();
    // The server may have closed before it has everything: what it said is what counts.
    let _ = connection.send(bytes);
    connection.rest(Duration::from_secs(3)).map(|b| String::from_utf8_lossy(&b).into_owned())
}

fn statuses(said: &str) -> Vec<u16> {
    said.split("HTTP/1.1 ").skip(1).filter_map(|s| s.get(..3)?.parse().ok()).collect()
}

fn echo(server: &Server) {
    server.deploy("echo", &Lang::Node.zip("echo"), &[]);
}

#[test]
fn names_cannot_be_paths() {
    let server = Server::start(&[]);
    echo(&server);
    for name in [
        "..",
        "%2e%2e",
        "%2e%2e%2fecho",
        "%252e%252e",
        "..%5cecho",
        "a%00b",
        "echo%00",
        "a:b",
        "%c0%ae%c0%ae",
        "%ff",
        "%",
        "%zz",
        "%f0%9f%98%80",
        "%C3%A9",
        "e%CC%81",
        "%E2%80%AEohce",
        "%d0%b5cho",
        "echo%20",
        "%20",
        "echo%2f",
        "echo%3f",
        ".",
        "-%2f",
        "arn:aws:lambda:us-east-1:000000000000:function:echo",
    ] {
        for (method, path) in [
            ("POST", format!("/invoke/{name}")),
            ("GET", format!("/info/{name}")),
            ("DELETE", format!("/del/{name}")),
            ("GET", format!("/logs/{name}")),
            ("POST", format!("/v1/functions/{name}/invoke")),
        ] {
            let answer = server.request(method, &path, &[], b"{}");
            assert!(matches!(answer.status, 400 | 404), "{method} {path}: {}", answer.status);
            assert!(!answer.error().is_empty() && answer.error().len() < 400, "{path}: {}", answer.text());
        }
    }
    for name in [&"x".repeat(65), &"y".repeat(8000)] {
        assert!(matches!(server.post(&format!("/invoke/{name}"), "").status, 400 | 414));
    }
    for name in ["", "a b", "\u{e9}", "e\u{301}", "a/b", "..", "\u{202e}x", "x\u{0}", "\u{ff45}cho", &"x".repeat(65)] {
        server.try_deploy(name, &Lang::Node.inline("1"), &[]).expect(400);
    }
    let known = |f: &serde_json::Value| ["echo", "big", "event"].contains(&f["name"].as_str().unwrap());
    assert!(
        server.get("/info").json()["functions"].as_array().unwrap().iter().all(known),
        "{}",
        server.get("/info").text()
    );
    // A percent-encoded plain letter is the plain name: decoded once, not twice.
    server.post("/invoke/%65cho", "x").expect(200);
    server.post("/invoke/%2565cho", "x").expect(400);
}

#[test]
fn heads_have_a_size() {
    let server = SERVER.get();
    echo(&server);
    let many: String = (0..10_000).map(|i| format!("X-{i}: 1\r\n")).collect();
    let some: String = (0..101).map(|i| format!("X-{i}: 1\r\n")).collect();
    for (what, bytes, wanted) in [
        ("10,000 headers", format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), &[431][..]),
        ("101 headers", format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{some}\r\n"), &[431, 200]),
        (
            "a header of a megabyte",
            format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)),
            &[431],
        ),
        (
            "an address of 60 kB",
            format!("GET /health?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "y".repeat(60_000)),
            &[414, 431],
        ),
        (
            "an address of 200 kB",
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "y".repeat(200_000)),
            &[414, 431],
        ),
    ] {
        let said = talk(&server, bytes.as_bytes());
        if wanted.contains(&200) && said.is_none() {
            continue; // taken, and the connection is kept
        }
        let got = statuses(&said.unwrap_or_else(|| panic!("{what}: the connection is kept")));
        assert!(got.len() == 1 && wanted.contains(&got[0]), "{what}: {got:?}");
    }
    server.is_well();
}

/// What two servers could read in two ways is read by none: 400, and the connection ends.
#[test]
fn smuggled_requests_find_no_second_server() {
    let server = SERVER.get();
    echo(&server);
    let smuggled = "GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let post =
        |headers: &str, body: &str| format!("POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{body}");
    for (what, bytes) in [
        ("length and chunks", post("Content-Length: 5\r\nTransfer-Encoding: chunked", &format!("0\r\n\r\n{smuggled}"))),
        ("chunks and length", post("Transfer-Encoding: chunked\r\nContent-Length: 5", &format!("0\r\n\r\n{smuggled}"))),
        (
            "two encodings",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &format!("0\r\n\r\n{smuggled}")),
        ),
        ("an encoding that nobody knows", post("Transfer-Encoding: xchunked", &format!("0\r\n\r\n{smuggled}"))),
        ("a vertical tab", post("Transfer-Encoding: \x0bchunked", &format!("0\r\n\r\n{smuggled}"))),
        ("a space before the colon", post("Transfer-Encoding : chunked", &format!("0\r\n\r\n{smuggled}"))),
        ("chunked, not last", post("Transfer-Encoding: chunked, gzip", &format!("0\r\n\r\n{smuggled}"))),
        ("two lengths", post("Content-Length: 0\r\nContent-Length: 44", smuggled)),
        ("the same length twice", post("Content-Length: 4\r\nContent-Length: 4", &format!("abcd{smuggled}"))),
        ("a list of lengths", post("Content-Length: 0, 44", smuggled)),
        ("a signed length", post("Content-Length: +5", &format!("abcde{smuggled}"))),
        ("a negative length", post("Content-Length: -5", smuggled)),
        ("a length in hexadecimal", post("Content-Length: 0x5", &format!("abcde{smuggled}"))),
        ("a length that overflows", post("Content-Length: 18446744073709551621", &format!("abcde{smuggled}"))),
        ("a folded header", post("X: a\r\n b\r\nContent-Length: 0", smuggled)),
        ("a header without a colon", post("Content-Length 5", &format!("abcde{smuggled}"))),
        ("a NUL in a header", post("X: a\0b\r\nContent-Length: 0", smuggled)),
        ("a lone CR in a header", post("X: a\rContent-Length: 44", smuggled)),
        ("lines that end with LF", "GET /info HTTP/1.1\nHost: localhost\n\n".to_owned()),
        ("an empty header name", post(": x\r\nContent-Length: 0", smuggled)),
        ("no host", "GET /info HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", "GET /info HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_owned()),
        (
            "HTTP/1.0 with chunks",
            "POST /invoke/echo HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("HTTP/0.9", "GET /info\r\n".to_owned()),
        ("HTTP/3.0", "GET /info HTTP/3.0\r\nHost: localhost\r\n\r\n".to_owned()),
        ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03 hello\r\n\r\n".to_owned()),
        ("an address with a space", "GET /in fo HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()),
        ("noise", "\u{1}\u{2}\u{3}\u{4}\r\n\r\n".to_owned()),
    ] {
        let said = talk(&server, bytes.as_bytes()).unwrap_or_else(|| panic!("{what}: the connection is kept"));
        let got = statuses(&said);
        assert!(got.len() <= 1, "{what}: a second answer: {said}");
        assert!(got.iter().all(|s| (400..=505).contains(s)), "{what}: {got:?}");
        assert!(!said.contains("\"functions\""), "{what}: the smuggled request was answered");
    }
    server.is_well();
}

#[test]
fn bodies_have_a_size() {
    let server = SERVER.get();
    echo(&server);
    let limit = 6 << 20;
    for size in [limit - 1, limit] {
        assert_eq!(server.post("/invoke/echo/raw", vec![b'x'; size]).expect(200).body.len(), size);
    }
    for size in [limit + 1, limit + (1 << 20)] {
        assert!(server.post("/invoke/echo/raw", vec![b'x'; size]).expect(413).error().contains("6291456"));
    }
    // Refused before a byte of it was sent.
    let said = talk(&server, b"POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n")
        .unwrap();
    assert_eq!(statuses(&said), [413]);
    let mut chunked =
        b"POST /invoke/echo/raw HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..7 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.extend_from_slice(&vec![b'x'; 1 << 20]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(statuses(&talk(&server, &chunked).unwrap()), [413], "7 MiB in chunks");
    let mut asks = server.connect();
    asks.send(b"POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    asks.send(b"hello").unwrap();
    assert_eq!(asks.answer(false).unwrap().expect(200).json()["body"], "hello");
}

#[test]
fn chunks_are_chunks() {
    let server = Server::start(&[]);
    echo(&server);
    let chunked = |chunks: &str| {
        format!(
            "POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        )
    };
    let good = chunked("5\r\nhello\r\n1;name=value\r\n!\r\n0\r\nTrailer: x\r\n\r\n");
    let said = talk(&server, good.as_bytes()).unwrap();
    assert!(statuses(&said) == [200] && said.contains("hello!"), "{said}");
    let counted = server.get("/info/echo").json()["invokeCount"].as_u64().unwrap();
    for (what, chunks) in [
        ("a huge size", "FFFFFFFFFFFFFFFF\r\nx"),
        ("a size that overflows", "FFFFFFFFFFFFFFFFF\r\nx"),
        ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("a size that is none", "zz\r\nhello\r\n0\r\n\r\n"),
        ("no line break after the data", "5\r\nhelloX0\r\n\r\n"),
        ("an end that is missing", "5\r\nhel"),
        ("a prefixed size", "0x5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut connection = server.connect();
        connection.send(chunked(chunks).as_bytes()).unwrap();
        connection.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let said = connection.rest(Duration::from_secs(5)).unwrap_or_else(|| panic!("{what}: the connection is kept"));
        let got = statuses(&String::from_utf8_lossy(&said));
        assert!(got.is_empty() || got == [400] || got == [413], "{what}: {got:?}");
    }
    let endless: String = (0..20_000).map(|i| format!("T{i}: x\r\n")).collect();
    let said = talk(&server, chunked(&format!("1\r\nx\r\n0\r\n{endless}\r\n")).as_bytes()).unwrap_or_default();
    assert!(statuses(&said).iter().all(|s| *s >= 400), "endless trailers");
    assert_eq!(
        server.get("/info/echo").json()["invokeCount"].as_u64().unwrap(),
        counted,
        "a broken body was given to the function"
    );
    // Very many very small chunks are an attack on the processor.
    let mut tiny = chunked("").into_bytes();
    tiny.extend_from_slice(&b"1\r\nx\r\n".repeat(200_000));
    tiny.extend_from_slice(b"0\r\n\r\n");
    let got = statuses(&talk(&server, &tiny).unwrap());
    assert!(got == [400] || got == [413], "{got:?}");
}

#[test]
fn lengths_that_lie_reach_no_function() {
    let server = Server::start(&[]);
    echo(&server);
    server.invoke("echo", "").expect(200);
    let counted = || server.get("/info/echo").json()["invokeCount"].as_u64().unwrap();
    let before = counted();
    let mut short = server.connect();
    short.send(b"POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nonly this").unwrap();
    short.stream().shutdown(std::net::Shutdown::Write).unwrap();
    let said = short.rest(PATIENCE).expect("the connection is kept");
    assert!(matches!(statuses(&String::from_utf8_lossy(&said))[..], [] | [400]));
    assert_eq!(counted(), before);
    // Bytes after the announced length are the next request, and nothing else.
    let mut long = server.connect();
    long.send(b"POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabcJUNK JUNK\r\n\r\n")
        .unwrap();
    assert_eq!(long.answer(false).unwrap().expect(200).json()["body"], "abc");
    assert_eq!(long.answer(false).unwrap().status, 400);
    assert_eq!(counted(), before + 1);
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let server = SERVER.get();
    echo(&server);
    let mut connection = server.connect();
    let mut all = String::new();
    for i in 0..50 {
        let body = format!("request {i}");
        all +=
            &format!("POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
    connection.send(all.as_bytes()).unwrap();
    for i in 0..50 {
        assert_eq!(connection.answer(false).unwrap().expect(200).json()["body"], format!("request {i}"));
    }
}

#[test]
fn slow_heads_and_bodies_are_given_up() {
    let server = SERVER.get();
    echo(&server);
    let open = |bytes: &'static [u8]| {
        let mut connection = server.connect();
        connection.send(bytes).unwrap();
        connection
    };
    let mut slow: Vec<(Conn, &[u16])> = (0..150).map(|_| (open(b"GET /health HT"), &[408][..])).collect();
    slow.extend((0..20).map(|_| {
        (open(b"POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"), &[408][..])
    }));
    slow.push((server.connect(), &[]));
    for _ in 0..20 {
        server.invoke("echo", "good").expect(200);
        thread::sleep(Duration::from_millis(50));
    }
    for (i, (mut connection, wanted)) in slow.into_iter().enumerate() {
        if i % 50 == 0 {
            let _ = connection.send(b"x");
        }
        let said = connection.rest(Duration::from_secs(25)).unwrap_or_else(|| panic!("slow connection {i} is kept"));
        let got = statuses(&String::from_utf8_lossy(&said));
        assert!(got.is_empty() || got == wanted, "{i}: {got:?}");
    }
    server.is_well();
}

#[test]
fn a_reader_that_does_not_read_holds_no_instance() {
    let server = SERVER.get();
    server.deploy("big", &Lang::Node.zip("big_reply"), &[("concurrency", "1"), ("memory", "256")]);
    let deaf: Vec<Conn> = (0..3)
        .map(|_| {
            let mut connection = server.connect();
            connection
                .send(b"POST /invoke/big HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\n6000000")
                .unwrap();
            thread::sleep(Duration::from_millis(300));
            connection
        })
        .collect();
    assert_eq!(server.invoke("big", "10").expect(200).body.len(), 10, "its only place is free");
    drop(deaf);
    server.delete("big");
}

#[test]
fn bytes_that_are_no_json_pass_to_requests_and_not_to_events() {
    let server = SERVER.get();
    echo(&server);
    server.deploy("event", &Lang::Python.zip("event_echo"), &[]);
    for body in [&b"{"[..], b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b"{\"a\":1,\"a\":2}", b"1e400", b"\"\\ud800\"", b"NaN"]
    {
        let back = server.post("/invoke/echo/raw", body).expect(200);
        assert_eq!(back.body, body, "bytes were changed on the way");
        let status = server.native("event", body).status;
        assert_eq!(status, if body.starts_with(b"{\"a\"") { 200 } else { 400 }, "{body:?}");
    }
    let deep = "[".repeat(1 << 20);
    server.native("event", &deep).expect(400);
    server.native("event", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))).expect(400);
    server.post("/config/echo", &deep[..200_000]).expect(400);
    server.post("/config/echo", &deep).expect(413);
    server.post("/config/echo", format!("{{\"env\":{}{}}}", "{\"a\":".repeat(30_000), "}".repeat(30_000))).expect(400);
    server.is_well();
}

#[test]
fn methods_and_hosts_are_not_confused() {
    let server = SERVER.get();
    echo(&server);
    let raw = |text: &str| {
        statuses(&talk(&server, text.replace('|', "\r\n").as_bytes()).unwrap_or_else(|| panic!("{text}: kept")))[..]
            .to_vec()
    };
    let close = "Connection: close||";
    assert_eq!(raw(&format!("GET http://evil.example/info HTTP/1.1|Host: evil.example|{close}")), [421]);
    assert_eq!(raw(&format!("GET /info HTTP/1.1|Host: evil.example:9000|{close}")), [421]);
    assert_eq!(raw(&format!("GET http://localhost/info HTTP/1.1|Host: evil.example|{close}")), [421]);
    assert_eq!(raw(&format!("GET http://localhost/info HTTP/1.1|Host: localhost|{close}")), [200]);
    assert_eq!(raw(&format!("OPTIONS * HTTP/1.1|Host: localhost|{close}")).len(), 1);
    assert!(
        raw(&format!("CONNECT evil.example:443 HTTP/1.1|Host: evil.example:443|{close}")).iter().all(|s| *s >= 400)
    );
    assert!(raw(&format!("TRACE /invoke/echo HTTP/1.1|Host: localhost|{close}")).iter().all(|s| *s >= 400));
    assert!(
        raw("GET /info HTTP/1.1|Host: localhost|Connection: upgrade|Upgrade: websocket|Connection: close||")
            .iter()
            .all(|s| *s == 200)
    );
    // A page of another site in somebody's browser.
    for headers in
        [&[("Origin", "https://evil.example")][..], &[("Origin", "null")], &[("Sec-Fetch-Site", "cross-site")]]
    {
        let mut with = headers.to_vec();
        with.push(("Content-Type", "text/plain"));
        server.request("POST", "/invoke/echo", &with, b"x").expect(403);
        server.request("DELETE", "/del/echo", &with, b"").expect(403);
        server.request("GET", "/metrics", &with, b"").expect(403);
    }
    for header in ["X-HTTP-Method-Override", "X-Method-Override"] {
        server.request("POST", "/info/echo", &[(header, "DELETE")], b"").expect(405);
    }
    let seen = server.request("POST", "/invoke/echo", &[("X-Forwarded-Host", "evil.example")], b"").expect(200).json();
    assert_eq!(seen["path"], "/");
    assert!(server.get("/info").header("access-control-allow-origin").is_none());
}

#[test]
fn a_token_is_wanted_where_it_is_set() {
    let server = Server::start(&["--token", "s3cret-t0ken"]);
    server.get("/health").expect(200);
    for (method, path) in [
        ("GET", "/info"),
        ("GET", "/metrics"),
        ("POST", "/invoke/x"),
        ("POST", "/deploy"),
        ("DELETE", "/del/x"),
        ("POST", "/v1/functions/x/invoke"),
        ("GET", "/logs/x"),
        ("POST", "/config/x"),
    ] {
        server.request(method, path, &[], b"").expect(401);
        server.request(method, path, &[("Authorization", "Bearer wrong")], b"").expect(401);
        assert_ne!(
            server.request(method, path, &[("Authorization", "Bearer s3cret-t0ken")], b"").status,
            401,
            "{path}"
        );
        assert_ne!(server.request(method, path, &[("X-API-Key", "s3cret-t0ken")], b"").status, 401, "{path}");
    }
    // The token is the server's: no function sees it, and it is in no log.
    let auth = ("Authorization", "Bearer s3cret-t0ken");
    let (kind, body) = crate::harness::form(&[("funcName", "echo")], Some(("f.zip", &Lang::Node.zip("echo"))));
    server.request("POST", "/deploy", &[("Content-Type", &kind), auth], &body).expect(201);
    let seen = server.request("POST", "/invoke/echo", &[auth], b"").expect(200).text();
    assert!(!seen.contains("s3cret"), "{seen}");
    assert!(!server.said().contains("s3cret"));
}

/// Without a token only this machine may be listened on.
#[test]
fn nobody_listens_to_the_world_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let done = std::process::Command::new(crate::harness::binary())
        .args(["serve", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(3));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("token") && said.contains("0.0.0.0"), "{said}");
}

/// 500 connections that send rubbish at once, beside a good client.
#[test]
fn a_storm_of_rubbish_disturbs_nobody() {
    let server = Server::start(&[]);
    echo(&server);
    server.invoke("echo", "").expect(200);
    let before = server.usage();
    parallel(5, |t| {
        if t == 0 {
            for _ in 0..200 {
                assert_eq!(server.invoke("echo", "good").expect(200).json()["body"], "good");
            }
            return;
        }
        for i in 0..100u64 {
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", server.port)) else { continue };
            let mut random = crate::harness::Random::new(i * 31 + t as u64 + 1);
            let rubbish: Vec<u8> = (0..random.below(3000)).map(|_| random.next() as u8).collect();
            let _ = stream.write_all(if i % 3 == 0 {
                b"POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            } else {
                b""
            });
            let _ = stream.write_all(&rubbish);
            if i % 2 == 0 {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
                let _ = stream.read(&mut [0; 100]);
            }
        }
    });
    server.is_well();
    let settled = || server.usage().descriptors <= before.descriptors + 4;
    eventually(&format!("its connections are closed; before: {before:?}"), PATIENCE, settled);
}

/// Errors never show a path of the host, and always are JSON with a sentence.
#[test]
fn errors_are_json_and_discreet() {
    let server = SERVER.get();
    for (method, path, body) in [
        ("GET", "/nothing", ""),
        ("POST", "/deploy", "x"),
        ("POST", "/invoke/nobody", ""),
        ("POST", "/config/nobody", "{"),
        ("PUT", "/info", ""),
        ("GET", "/v1/nothing", ""),
        ("POST", "/v1/functions/nobody/invoke", ""),
        ("DELETE", "/v1/functions/nobody", ""),
    ] {
        let answer = server.request(method, path, &[], body.as_bytes());
        assert!(
            answer.status >= 400 && answer.header("content-type").is_some_and(|k| k.starts_with("application/json")),
            "{method} {path}"
        );
        assert!(!answer.error().is_empty(), "{}", answer.text());
        assert!(
            !answer.text().contains(server.data.to_str().unwrap()) && !answer.text().contains(".rs:"),
            "{}",
            answer.text()
        );
        if path.starts_with("/v1/") {
            assert!(answer.json()["kind"].is_string(), "{}", answer.text());
        }
    }
    assert_eq!(
        server.native("nobody", "").expect(404).json(),
        json!({"error": "Function not found!", "kind": "not-found"})
    );
}
