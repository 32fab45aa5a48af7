//! HTTP/1.1 over kept connections, with as little work per request as the standard library and tokio allow: requests are
//! bytes made once, replies are looked through only for their end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Res, percentile};

/// Longest that any single reply is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The same for a call among a thousand at once.
const BURST_PATIENCE: Duration = Duration::from_secs(60);

/// A reply.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head.lines().find(named)?.split_once(':').map(|(_, value)| value.trim())
    }

    /// An error unless the status is 2xx.
    pub fn good(self) -> Res<Self> {
        if (200..300).contains(&self.status) {
            Ok(self)
        } else {
            Err(format!("status {}: {}", self.status, self.text()).into())
        }
    }
}

/// Where a reply ends.
struct Extent {
    status: u16,
    head: usize,
    total: usize,
    chunked: bool,
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// The reply at the start of these bytes, once it is whole.
fn extent(bytes: &[u8]) -> Res<Option<Extent>> {
    let Some(head) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head])?;
    let status = text.get(9..12).and_then(|s| s.parse().ok()).ok_or("not an HTTP reply")?;
    let (mut length, mut chunked) = (0, false);
    for line in text.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    if !chunked {
        return Ok((bytes.len() >= head + length).then_some(Extent { status, head, total: head + length, chunked }));
    }
    let mut at = head;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + line])?.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16)?;
        at += line + 2 + size + 2;
        if bytes.len() < at {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(Extent { status, head, total: at, chunked }));
        }
    }
}

fn reply(bytes: &[u8], extent: &Extent) -> Reply {
    let head = String::from_utf8_lossy(&bytes[..extent.head]).into_owned();
    let raw = &bytes[extent.head..extent.total];
    let mut body = Vec::new();
    if extent.chunked {
        let mut rest = raw;
        while let Some(line) = find(rest, b"\r\n") {
            let size =
                std::str::from_utf8(&rest[..line]).ok().and_then(|s| usize::from_str_radix(s, 16).ok()).unwrap_or(0);
            if size == 0 {
                break;
            }
            body.extend(&rest[line + 2..line + 2 + size]);
            rest = &rest[line + 2 + size + 2..];
        }
    } else {
        body.extend(raw);
    }
    Reply { status: extent.status, head, body }
}

/// A request as bytes.
pub fn request(method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub fn post_json(path: &str, body: &str) -> Vec<u8> {
    request("POST", path, "application/json", body.as_bytes())
}

/// One kept connection, for one request at a time.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Res<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream, inbox: Vec::new() })
    }

    fn exchange(&mut self, request: &[u8]) -> Res<Extent> {
        self.inbox.clear();
        self.stream.write_all(request)?;
        let mut piece = [0; 16 << 10];
        loop {
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                return Err("the connection was closed before the reply was whole".into());
            }
            self.inbox.extend_from_slice(&piece[..read]);
            if let Some(extent) = extent(&self.inbox)? {
                return Ok(extent);
            }
        }
    }

    pub fn send(&mut self, request: &[u8]) -> Res<Reply> {
        let extent = self.exchange(request)?;
        Ok(reply(&self.inbox, &extent))
    }

    /// Sends a request that must succeed; returns how long it took.
    pub fn timed(&mut self, request: &[u8]) -> Res<(Duration, Reply)> {
        let began = Instant::now();
        let extent = self.exchange(request)?;
        let took = began.elapsed();
        Ok((took, reply(&self.inbox, &extent).good()?))
    }
}

/// What a load did.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Latencies of requests that succeeded, in microseconds.
    pub micros: Vec<u32>,
    /// Requests that did not answer 2xx with the expected size, or whose connection broke.
    pub errors: usize,
    /// The first of those.
    pub first_error: Option<String>,
    pub seconds: f64,
}

impl Load {
    pub fn per_second(&self) -> f64 {
        self.micros.len() as f64 / self.seconds.max(1e-9)
    }

    pub fn at(&mut self, share: f64) -> f64 {
        f64::from(percentile(&mut self.micros, share))
    }

    fn failed(&mut self, why: String) {
        self.errors += 1;
        self.first_error.get_or_insert(why);
    }
}

/// One connection after the other request, without other threads: for latency on one core.
pub fn one_connection(address: SocketAddr, request: &[u8], warm_up: Duration, duration: Duration) -> Res<Load> {
    let mut client = Client::connect(address)?;
    let until = Instant::now() + warm_up;
    while Instant::now() < until {
        client.timed(request)?;
    }
    let mut load = Load::default();
    let began = Instant::now();
    while began.elapsed() < duration {
        let sent = Instant::now();
        let extent = client.exchange(request)?;
        let took = sent.elapsed();
        if extent.status == 200 {
            load.micros.push(took.as_micros() as u32);
        } else {
            load.failed(reply(&client.inbox, &extent).text());
        }
    }
    load.seconds = began.elapsed().as_secs_f64();
    Ok(load)
}

struct Connection {
    stream: tokio::net::TcpStream,
    inbox: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Res<Self> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, inbox: Vec::with_capacity(4 << 10) })
    }

    async fn exchange(&mut self, request: &[u8]) -> Res<Extent> {
        self.inbox.clear();
        self.stream.write_all(request).await?;
        loop {
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err("the connection was closed before the reply was whole".into());
            }
            if let Some(extent) = extent(&self.inbox)? {
                return Ok(extent);
            }
        }
    }
}

fn reactor() -> Res<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?)
}

/// As many requests as these connections carry, from one thread.
pub fn load(
    address: SocketAddr,
    request: &[u8],
    connections: usize,
    warm_up: Duration,
    duration: Duration,
) -> Res<Load> {
    let request: Rc<[u8]> = request.into();
    let work = async {
        let tasks = tokio::task::LocalSet::new();
        let start = Instant::now() + warm_up;
        let handles: Vec<_> =
            (0..connections).map(|_| tasks.spawn_local(busy(address, request.clone(), start, duration))).collect();
        tasks.await;
        let mut all = Load { seconds: duration.as_secs_f64(), ..Load::default() };
        for handle in handles {
            match handle.await {
                Ok(one) => {
                    all.micros.extend(one.micros);
                    all.errors += one.errors;
                    all.first_error = all.first_error.or(one.first_error);
                }
                Err(e) => all.failed(e.to_string()),
            }
        }
        all
    };
    Ok(reactor()?.block_on(work))
}

async fn busy(address: SocketAddr, request: Rc<[u8]>, start: Instant, duration: Duration) -> Load {
    let mut load = Load::default();
    let mut connection = match Connection::open(address).await {
        Ok(connection) => connection,
        Err(e) => {
            load.failed(e.to_string());
            return load;
        }
    };
    loop {
        let sent = Instant::now();
        if sent >= start + duration {
            return load;
        }
        let answer = tokio::time::timeout(PATIENCE, connection.exchange(&request)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer in {} s", PATIENCE.as_secs()).into()));
        let took = sent.elapsed();
        let counts = sent >= start;
        match answer {
            Ok(extent) if extent.status == 200 => {
                if counts {
                    load.micros.push(took.as_micros() as u32);
                }
            }
            Ok(extent) => load.failed(reply(&connection.inbox, &extent).text()),
            Err(e) => {
                load.failed(e.to_string());
                match Connection::open(address).await {
                    Ok(again) => connection = again,
                    Err(_) => return load,
                }
            }
        }
    }
}

/// One answer of a burst: when it came after the burst began, or why it did not.
pub type Landed = Result<(Duration, Reply), String>;

/// Sends all of these at once, each on a connection of its own that was open before.
pub fn burst(address: SocketAddr, requests: Vec<Vec<u8>>) -> Res<Vec<Landed>> {
    let work = async {
        let mut open = Vec::new();
        for request in requests {
            open.push((Connection::open(address).await?, request));
        }
        // The server has taken them all.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let tasks = tokio::task::LocalSet::new();
        let began = Instant::now();
        let handles: Vec<_> = open
            .into_iter()
            .map(|(mut connection, request)| {
                tasks.spawn_local(async move {
                    match tokio::time::timeout(BURST_PATIENCE, connection.exchange(&request)).await {
                        Ok(Ok(extent)) => {
                            let took = began.elapsed();
                            reply(&connection.inbox, &extent).good().map(|r| (took, r)).map_err(|e| e.to_string())
                        }
                        Ok(Err(e)) => Err(e.to_string()),
                        Err(_) => Err(format!("no answer in {} s", BURST_PATIENCE.as_secs())),
                    }
                })
            })
            .collect();
        tasks.await;
        let mut landed = Vec::new();
        for handle in handles {
            landed.push(handle.await?);
        }
        Ok(landed)
    };
    reactor()?.block_on(work)
}
