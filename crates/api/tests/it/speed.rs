//! What this floor adds to bare hyper, side by side in one run. By hand, on a quiet machine:
//! `cargo test --release -p offshoot-api --test it speed -- --ignored --nocapture`

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;

use crate::node::Server;

const ROUNDS: usize = 20_000;

/// The smallest server that reads a body and echoes it.
struct Whole(Bytes);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.0);
        std::task::Poll::Ready((!bytes.is_empty()).then(|| Ok(hyper::body::Frame::data(bytes))))
    }
    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.len() as u64)
    }
}

async fn echo(request: http::Request<Incoming>) -> Result<http::Response<Whole>, Infallible> {
    let mut body = request.into_body();
    let mut whole = Vec::new();
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        whole.extend_from_slice(frame.data_ref().unwrap());
    }
    Ok(http::Response::new(Whole(whole.into())))
}

async fn bare() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            io.set_nodelay(true).unwrap();
            let service = hyper::service::service_fn(echo);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service));
        }
    });
    address
}

/// The median and the 99th hundredth of one connection's round trips.
fn measure(address: SocketAddr, target: &str) -> (Duration, Duration) {
    let mut io = TcpStream::connect(address).unwrap();
    io.set_nodelay(true).unwrap();
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: speed\r\nContent-Length: 16\r\n\r\n{{\"name\":\"World\"}}"
    );
    let mut block = [0u8; 4096];
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            io.write_all(request.as_bytes()).unwrap();
            let n = io.read(&mut block).unwrap();
            assert!(block[..n].starts_with(b"HTTP/1.1 200") && block[..n].ends_with(b"}"));
            begin.elapsed()
        })
        .collect();
    times.sort();
    (times[ROUNDS / 2], times[ROUNDS * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement, not a test"]
async fn beside_bare_hyper() {
    let floor = bare().await;
    let server = Server::start().await;
    let ours = server.address;
    let rows = tokio::task::spawn_blocking(move || {
        let mut rows = Vec::new();
        for _ in 0..3 {
            rows.push(("bare hyper", measure(floor, "/")));
            rows.push(("/invoke", measure(ours, "/invoke/event")));
            rows.push(("/v1/…/invoke", measure(ours, "/v1/functions/event/invoke")));
        }
        rows
    });
    for (name, (median, slowest)) in rows.await.unwrap() {
        eprintln!("{name:14} median {median:>9.1?}  p99 {slowest:>9.1?}");
    }
}
