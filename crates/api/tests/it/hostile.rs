//! What bad input meets: names, heads, framing, slowness, sizes, JSON, replies of functions, hosts and origins.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Reply, Said, Server, short, small};
use offshoot_api::Options;

async fn still_fine(server: &Server) {
    let reply = server.ask("POST", "/invoke/event", &[], b"1").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "1"));
    assert_eq!(server.state.backend().running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn names() {
    let server = Server::start().await;
    let long = "a".repeat(65);
    let arn = format!("arn:aws:lambda:{}", "x".repeat(5_000));
    for name in [
        "..",
        ".",
        "%2e%2e",
        "%2e%2e%2fetc",
        "%252e%252e",
        "a%5cb",
        "a%00b",
        "%c0%ae%c0%ae",
        "a%3ab",
        "%",
        "%zz",
        "e%CC%81",
        "%C3%A9",
        &long,
        &arn,
        "",
    ] {
        for (method, target) in [
            ("POST", format!("/invoke/{name}")),
            ("GET", format!("/info/{name}")),
            ("DELETE", format!("/del/{name}")),
            ("GET", format!("/logs/{name}")),
            ("POST", format!("/v1/functions/{name}/invoke")),
        ] {
            let reply = server.ask(method, &target, &[], b"").await;
            assert_eq!(reply.status, 400, "{target}: {}", reply.text());
            assert!(reply.json()["error"].is_string() && !reply.text().contains("/tmp"), "{target}");
        }
    }
    for target in
        ["//invoke/event", "/invoke//event", "/info/a/b", "/invoke", "/", "/deploy/", "/info/event/", "/../info", "*"]
    {
        let reply = server.ask("GET", target, &[], b"").await;
        assert!((400..=405).contains(&reply.status), "{target}: {}", reply.status);
    }
    assert_eq!(server.state.backend().invoked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn heads_that_are_too_large() {
    let server = Server::start().await;
    let many: String = (0..101).map(|i| format!("X-{i}: 1\r\n")).collect();
    let thousands: String = (0..10_000).map(|i| format!("X-{i}: 1\r\n")).collect();
    for (head, status) in [
        (format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), 431),
        (format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{thousands}\r\n"), 431),
        (format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(66_000)), 431),
        (format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(1 << 20)), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9_000)), 414),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(63_000)), 414),
    ] {
        let said = server.raw(head.as_bytes()).await;
        assert_eq!((said.status(), said.closed, said.answers()), (status, true, 1), "{head:.80}");
    }
    still_fine(&server).await;
}

/// Each of these could be read as one request by one program and as two by another. What follows the first is a request
/// that must never be answered.
#[tokio::test]
async fn smuggling() {
    let server = Server::start().await;
    let head = |framing: &str| format!("POST /invoke/event HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
    let smuggled = "GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\r\n chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5,5",
        "Content-Length: 5, 6",
        "Content-Length: 0x5",
        "Content-Length: ",
        "Content-Length: 5 5",
        "Content-Length: 99999999999999999999",
        "Content-Length : 5",
        " Content-Length: 5",
        "X: a\r\n folded",
        "X: a\nContent-Length: 5",
        "X: a\rContent-Length: 5",
        "X\0: a",
        "X: a\0",
    ] {
        let said = server.raw(format!("{}0\r\n\r\n{smuggled}", head(framing)).as_bytes()).await;
        assert_eq!(
            (said.status(), said.answers(), said.closed),
            (400, 1, true),
            "{framing:?}: {}",
            String::from_utf8_lossy(&said.bytes)
        );
    }
    for whole in [
        format!(
            "POST /invoke/event HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!("GET /health HTTP/1.1\nHost: localhost\n\n{smuggled}"),
        format!("GET /health HTTP/1.1\r\nHost: localhost\n\r\n{smuggled}"),
        format!("GET /health\r\n\r\n{smuggled}"),
        format!("GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n{smuggled}"),
        format!("GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n{smuggled}"),
        format!("G\x00T / HTTP/1.1\r\nHost: localhost\r\n\r\n{smuggled}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".to_owned(),
    ] {
        let said = server.raw(whole.as_bytes()).await;
        assert!(
            said.closed && said.answers() <= 1 && (said.status() == 400 || said.bytes.is_empty()),
            "{whole:?}: {}",
            String::from_utf8_lossy(&said.bytes)
        );
    }
    for junk in ["5;x\n", "5\r\nabcd", "ffffffffffffffff1\r\n", "-1\r\n", "g\r\n", "5\r\nabcdefg\r\n", "1;\x01\nx"] {
        let said =
            server.raw(format!("{}{junk}\r\n0\r\n\r\n{smuggled}", head("Transfer-Encoding: chunked")).as_bytes()).await;
        assert!(said.answers() <= 1 && said.status() != 200, "{junk:?}: {}", String::from_utf8_lossy(&said.bytes));
    }
    assert_eq!(server.state.backend().invoked.load(Ordering::SeqCst), 0);
    still_fine(&server).await;
}

#[tokio::test]
async fn slow_heads_and_bodies_are_given_up() {
    let server = Server::with(short(), small()).await;
    let begin = Instant::now();
    let mut slow: Vec<_> = Vec::new();
    for _ in 0..200 {
        let mut io = server.connect().await;
        io.write_all(b"GET / HT").await.unwrap();
        slow.push(io);
    }
    still_fine(&server).await;
    for io in &mut slow {
        assert!(Said::until_close(io).await.closed);
    }
    assert!(begin.elapsed() < Duration::from_secs(3));

    let mut io = server.connect().await;
    io.write_all(b"POST /invoke/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n").await.unwrap();
    let (mut reader, mut writer) = io.into_split();
    let drip = tokio::spawn(async move {
        while writer.write_all(b"1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut said = Vec::new();
    let mut block = [0u8; 1024];
    while !said.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = tokio::time::timeout(Duration::from_secs(3), reader.read(&mut block)).await.unwrap().unwrap();
        assert!(n > 0);
        said.extend_from_slice(&block[..n]);
    }
    assert_eq!(Reply::parse(&said).status, 408);
    drip.await.unwrap();
    still_fine(&server).await;
    assert_eq!(server.state.backend().invoked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_given_up() {
    let server = Server::with(short(), small()).await;
    let mut io = server.connect().await;
    io.write_all(b"GET /invoke/web/big HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.state.open_connections(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(server.state.open_connections(), 0);
    let whole = server.ask("GET", "/invoke/web/big", &[], b"").await;
    assert_eq!(whole.body.len(), 32 << 20);
}

#[tokio::test]
async fn a_caller_that_hangs_up_frees_its_instance() {
    let server = Server::start().await;
    let mut io = server.connect().await;
    io.write_all(b"POST /invoke/web/hang HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.state.backend().running.load(Ordering::SeqCst), 1);
    drop(io);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.state.backend().running.load(Ordering::SeqCst), 0);
    still_fine(&server).await;
}

#[tokio::test]
async fn sizes() {
    let server = Server::start().await;
    let limit = 100_000;
    for (size, status) in [(limit - 1, 200), (limit, 200), (limit + 1, 413), (limit * 20, 413)] {
        let body = vec![b'1'; size - 2];
        let quoted = [b"\"".as_slice(), &body, b"\""].concat();
        assert_eq!(server.ask("POST", "/invoke/event", &[], &quoted).await.status, status, "{size}");
        let mut chunked = b"POST /invoke/event HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in quoted.chunks(10_000) {
            chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            chunked.extend_from_slice(piece);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(server.raw(&chunked).await.status(), status, "chunked {size}");
    }
    let said = server.raw(b"POST /invoke/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7000000\r\n\r\n").await;
    assert_eq!((said.status(), said.closed), (413, true));
    let said = server.raw(b"POST /invoke/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7000000\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!((said.status(), said.answers(), said.closed), (413, 1, true));
    still_fine(&server).await;
}

#[tokio::test]
async fn chunks() {
    let server = Server::with(Options::default(), offshoot_model::Limits::default()).await;
    let head = b"POST /invoke/web HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let tiny = [head.clone(), b"1\r\nx\r\n".repeat(300_000)].concat();
    let begin = Instant::now();
    let said = server.raw(&tiny).await;
    assert_eq!((said.status(), said.closed), (400, true), "after {:?}", begin.elapsed());
    let trailers = [head.clone(), b"1\r\nx\r\n0\r\n".to_vec(), b"X: y\r\n".repeat(100_000)].concat();
    let said = server.raw(&trailers).await;
    assert!(said.closed && said.status() != 200, "{}", said.status());
    let extensions = [head, b"1;".to_vec(), vec![b'e'; 1 << 20]].concat();
    let said = server.raw(&extensions).await;
    assert!(said.closed && said.status() != 200, "{}", said.status());
    assert_eq!(server.state.backend().invoked.load(Ordering::SeqCst), 0);
    still_fine(&server).await;
}

#[tokio::test]
async fn lengths_that_lie() {
    let server = Server::start().await;
    let mut io = server.connect().await;
    io.write_all(b"POST /invoke/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345").await.unwrap();
    io.shutdown().await.unwrap();
    let said = Said::until_close(&mut io).await;
    assert!(said.closed && (said.bytes.is_empty() || said.status() == 400), "{}", said.status());
    assert_eq!(server.state.backend().invoked.load(Ordering::SeqCst), 0);
    let said = server.raw(b"POST /invoke/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1garbage that is no request\r\n\r\n").await;
    assert_eq!((said.status(), said.answers(), said.closed), (200, 2, true));
    assert!(String::from_utf8_lossy(&said.bytes).contains("HTTP/1.1 400"));
    still_fine(&server).await;
}

#[tokio::test]
async fn json() {
    let server = Server::start().await;
    let open = "[".repeat(90_000);
    let nested = format!("{}{}", "[".repeat(40_000), "]".repeat(40_000));
    for event in ["{", "\"\\ud800\"", "NaN", "\u{feff}{}", "1e400", "{} {}", &open, &nested] {
        let reply = server.ask("POST", "/invoke/event", &[], event.as_bytes()).await;
        assert_eq!(reply.status, 400, "{event:.20}");
        assert!(reply.json()["error"].as_str().unwrap().contains("not JSON"));
    }
    assert_eq!(server.ask("POST", "/invoke/event", &[], b"\"\xff\"").await.status, 400);
    for config in [
        r#"{"rateLimit":1,"rateLimit":2}"#,
        r#"{"env":{"A":"1","A":"2"}}"#,
        r#"{"ratelimit":1}"#,
        "[]",
        "",
        "{",
        &nested,
    ] {
        assert_eq!(server.ask("POST", "/config/event", &[], config.as_bytes()).await.status, 400, "{config:.40}");
    }
    let bytes = server.ask("POST", "/invoke/web", &[], b"{\xff").await;
    assert_eq!(bytes.status, 200, "what is not promised to be JSON passes as it is");
}

#[tokio::test]
async fn replies_of_hostile_functions() {
    let server = Server::start().await;
    for (path, status) in [
        ("inject", 502),
        ("inject-name", 502),
        ("many", 502),
        ("status/42", 502),
        ("status/101", 502),
        ("status/999", 999),
        ("framing", 200),
        ("status/204", 204),
    ] {
        let reply = server.ask("GET", &format!("/invoke/web/{path}"), &[], b"").await;
        assert_eq!(reply.status, status, "{path}");
        assert!(!reply.head.contains("Set-Cookie") && reply.header("offshoot-request-id").is_some(), "{path}");
        assert!(status != 502 || reply.json()["error"].as_str().unwrap().contains("cannot be sent"), "{path}");
        assert!(!reply.head.to_lowercase().contains("transfer-encoding"), "{path}");
        assert!(status != 200 || reply.text() == "body");
    }
    let spoof = server.ask("GET", "/invoke/web/spoof", &[], b"").await;
    assert!(!spoof.head.contains("mine") && spoof.header("offshoot-request-id").is_some());
}

#[tokio::test]
async fn hosts_origins_and_methods() {
    let server = Server::start().await;
    for (target, headers, status) in [
        ("/info", vec![("Host", "evil.com")], 421),
        ("/health", vec![("Host", "evil.com")], 421),
        ("http://evil.com/info", vec![("Host", "localhost")], 421),
        ("http://evil.com/info", vec![("Host", "evil.com")], 421),
        ("http://localhost/info", vec![("Host", "localhost")], 200),
        ("/info", vec![("Host", "127.0.0.1:8000")], 200),
        ("/info", vec![("Host", "localhost"), ("Host", "evil.com")], 400),
        ("/info", vec![("Origin", "http://evil.com")], 403),
        ("/info", vec![("Origin", "null")], 403),
        ("/invoke/web", vec![("Origin", "http://evil.com")], 403),
        ("/invoke/web", vec![("Origin", "http://localhost:3000")], 200),
        ("/invoke/web", vec![("Sec-Fetch-Site", "cross-site")], 403),
        ("/v1/functions", vec![("Sec-Fetch-Site", "cross-site")], 403),
        ("/info", vec![("Sec-Fetch-Site", "none")], 200),
        ("/info", vec![("X-Forwarded-Host", "evil.com"), ("X-HTTP-Method-Override", "DELETE")], 200),
        (
            "/info",
            vec![
                ("Upgrade", "h2c"),
                ("Connection", "Upgrade, HTTP2-Settings"),
                ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ],
            200,
        ),
        ("/del/event", vec![("X-HTTP-Method-Override", "DELETE")], 405),
    ] {
        let reply = server.ask("GET", target, &headers, b"").await;
        assert_eq!(reply.status, status, "{target} {headers:?}: {}", reply.text());
    }
    let said = server.raw(b"GET /info HTTP/1.1\r\n\r\n").await;
    assert_eq!((said.status(), said.closed), (400, true));
    let said = server.raw(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n").await;
    assert!((400..=405).contains(&said.status()), "{}", said.status());
    for (method, path, allow) in [
        ("GET", "/deploy", "POST"),
        ("POST", "/info", "GET, HEAD"),
        ("GET", "/config/event", "POST"),
        ("POST", "/del/event", "DELETE"),
    ] {
        let reply = server.ask(method, path, &[], b"").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{path}");
    }
}

#[tokio::test]
async fn connections_are_counted() {
    let server = Server::with(Options { max_connections: 3, ..Options::default() }, small()).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut io = server.connect().await;
        io.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut block = [0u8; 512];
        assert!(io.read(&mut block).await.unwrap() > 0);
        held.push(io);
    }
    let mut io = server.connect().await;
    let said = Said::until_close(&mut io).await;
    let reply = Reply::parse(&said.bytes);
    assert_eq!((reply.status, said.closed), (503, true));
    assert_eq!(reply.header("content-length").unwrap(), reply.body.len().to_string());
    assert!(reply.json()["error"].is_string());
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.state.open_connections(), 0);
    still_fine(&server).await;
}
