//! The Telemetry API 2022-07-01: what happens in an environment and what its programs print, told to the extensions that
//! subscribed. And the metadata endpoint, and the Logs API 2020-08-15 that telemetry replaced, which is answered as AWS's
//! emulator does.
//!
//! Connections to extensions are made by the box's init, inside the box and with its rights, never by the server. A
//! subscriber that does not keep up loses events and is told how many; nothing here makes a call wait.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use offshoot_sandbox::process::Process;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::body::{self, Ending};
use super::http::{Reply, error, not_allowed, not_found, text, too_large, with_type};
use super::subscription::{self, Destination, Subscription};
use super::{Environment, News, extensions, random_id};
use crate::observe::system::timestamp;
use crate::pool::tap::now_ms;

/// What a function may know of where it runs.
const METADATA: &str = "/2026-01-15/metadata/execution-environment";
/// The longest subscription, in bytes.
const MAX_SUBSCRIPTION: usize = 64 << 10;
/// Events that wait for a subscriber to take them, at most, and their bytes.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 2 << 20;
/// Events from before a subscription that it is told of, at most, and their bytes.
const BACKLOG: usize = 256;
const BACKLOG_BYTES: usize = 256 << 10;
/// How long an extension may take for one portion.
const DELIVERY: Duration = Duration::from_secs(5);
/// What is read of an extension's answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Answers what is neither the Runtime API nor the Extensions API.
pub async fn route(environment: &Arc<Environment>, path: &str, request: Request<Incoming>) -> Reply {
    match (path, request.method()) {
        ("/2022-07-01/telemetry", &Method::PUT) => subscribe(environment, request).await,
        ("/2020-08-15/logs", &Method::PUT) => {
            error(StatusCode::ACCEPTED, "Logs.NotSupported", "Logs API is not supported")
        }
        (METADATA, &Method::GET) => metadata(environment, &request),
        (METADATA, _) => text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
        ("/2022-07-01/telemetry" | "/2020-08-15/logs", _) => not_allowed(),
        _ => not_found(),
    }
}

fn metadata(environment: &Arc<Environment>, request: &Request<Incoming>) -> Reply {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
    if given != Some(environment.metadata_token().as_bytes()) {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let mut reply =
        with_type(StatusCode::OK, "application/json", Bytes::from_static(b"{\"AvailabilityZoneID\":\"use1-az1\"}"));
    let cache = HeaderValue::from_static("private, max-age=43200, immutable");
    reply.headers_mut().insert(header::CACHE_CONTROL, cache);
    reply
}

async fn subscribe(environment: &Arc<Environment>, request: Request<Incoming>) -> Reply {
    if !environment.telemetry().supported {
        // Without an external extension there is nobody in the box to make the connection.
        return error(StatusCode::ACCEPTED, "Telemetry.NotSupported", "Telemetry API is not supported");
    }
    let id = match extensions::identified(request.headers()) {
        Ok(id) => id,
        Err(reply) => return *reply,
    };
    let Some(name) = environment.extension_name(&id) else {
        let kind = "Extension.UnknownExtensionIdentifier";
        return error(StatusCode::FORBIDDEN, kind, &format!("Unknown extension {id}"));
    };
    let Ending::Whole(bytes) = body::collect(request.into_body(), MAX_SUBSCRIPTION).await else {
        return too_large(MAX_SUBSCRIPTION);
    };
    let wanted = match subscription::read(&bytes) {
        Ok(wanted) => wanted,
        Err(why) => return error(StatusCode::BAD_REQUEST, "ValidationError", &why),
    };
    let kinds = wanted.kinds.clone();
    if !environment.telemetry().subscribe(environment, &name, wanted) {
        let message = "Telemetry API subscription is closed";
        return error(StatusCode::FORBIDDEN, "Telemetry.SubscriptionClosed", message);
    }
    let record = json!({"name": name, "state": "Subscribed", "types": kinds});
    environment.telemetry().tell("platform", "platform.telemetrySubscription", record);
    with_type(StatusCode::OK, "application/json", Bytes::from_static(b"\"OK\""))
}

/// Who is told what in one environment.
pub struct Telemetry {
    supported: bool,
    hub: Mutex<Hub>,
    /// The end is near: nothing waits for company any more.
    flush: watch::Sender<bool>,
}

struct Hub {
    open: bool,
    /// What was told before initialisation was over, for those who subscribe meanwhile.
    backlog: Vec<(&'static str, Bytes)>,
    /// By the extension's name: who subscribes again replaces what it had.
    subscribers: HashMap<String, Subscriber>,
}

struct Subscriber {
    kinds: Vec<&'static str>,
    queue: mpsc::Sender<Bytes>,
    /// Bytes in the queue.
    queued: Arc<AtomicUsize>,
    lost: Lost,
    task: tokio::task::JoinHandle<()>,
}

/// What a subscriber did not take: records and bytes.
type Lost = Arc<Mutex<(u64, u64)>>;

impl Subscriber {
    /// Queues an event of a kind that it wants, or counts it as lost.
    fn offer(&self, kind: &str, event: &Bytes) {
        if !self.kinds.contains(&kind) {
            return;
        }
        let size = event.len();
        let fits = self.queued.fetch_add(size, Ordering::Relaxed) + size <= QUEUE_BYTES;
        if !fits || self.queue.try_send(event.clone()).is_err() {
            self.queued.fetch_sub(size, Ordering::Relaxed);
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            *lost = (lost.0 + 1, lost.1 + size as u64);
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Telemetry {
    /// `supported`: there is an init in the box that can connect to an extension.
    pub fn new(supported: bool) -> Self {
        let hub = Hub { open: true, backlog: Vec::new(), subscribers: HashMap::new() };
        Telemetry { supported, hub: Mutex::new(hub), flush: watch::Sender::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self, environment: &Arc<Environment>, name: &str, wanted: Subscription) -> bool {
        let mut hub = self.lock();
        if !hub.open {
            return false;
        }
        let (queue, events) = mpsc::channel(QUEUE);
        let (lost, queued) = (Lost::default(), Arc::new(AtomicUsize::new(0)));
        let kinds = wanted.kinds.clone();
        let delivery = Delivery {
            wanted,
            events,
            queued: queued.clone(),
            lost: lost.clone(),
            flush: self.flush.subscribe(),
            news: environment.news.clone(),
            process: Some(environment.process.clone()),
        };
        let subscriber = Subscriber { kinds, queue, queued, lost, task: tokio::spawn(delivery.run()) };
        for (kind, event) in &hub.backlog {
            subscriber.offer(kind, event);
        }
        hub.subscribers.insert(name.to_owned(), subscriber);
        true
    }

    /// Initialisation is over: nobody subscribes any more.
    pub fn close(&self) {
        let mut hub = self.lock();
        hub.open = false;
        hub.backlog = Vec::new();
    }

    /// From now on what waits is sent at once, as far as it can be.
    pub fn flush(&self) {
        self.flush.send_replace(true);
    }

    /// Tells of an event. Never waits.
    pub fn tell(&self, kind: &'static str, name: &str, record: Value) {
        if !self.supported {
            return;
        }
        let event = json!({"time": timestamp(now_ms()), "type": name, "record": record});
        let event = Bytes::from(event.to_string());
        let mut hub = self.lock();
        hub.subscribers.values().for_each(|subscriber| subscriber.offer(kind, &event));
        let kept: usize = hub.backlog.iter().map(|(_, event)| event.len()).sum();
        if hub.open && hub.backlog.len() < BACKLOG && kept + event.len() <= BACKLOG_BYTES {
            hub.backlog.push((kind, event));
        }
    }
}

/// What brings events to one subscriber.
struct Delivery {
    wanted: Subscription,
    events: mpsc::Receiver<Bytes>,
    queued: Arc<AtomicUsize>,
    lost: Lost,
    flush: watch::Receiver<bool>,
    news: mpsc::UnboundedSender<News>,
    /// The box, which may be frozen; `None` in tests without one.
    process: Option<Arc<Process>>,
}

/// Events that go together.
#[derive(Debug)]
struct Portion {
    events: Vec<Bytes>,
    /// What its last event tells of: records and bytes that were lost before. Zero: there is no such event.
    lost: (u64, u64),
}

impl Delivery {
    async fn run(mut self) {
        while let Some(portion) = self.portion().await {
            let sent = tokio::select! {
                sent = self.deliver(&portion.events) => sent.is_ok(),
                () = self.too_long() => false,
            };
            if !sent {
                tracing::debug!("an extension did not take its telemetry");
                self.lose(&portion);
            }
        }
    }

    /// Counts what a portion held, and what it told of, so that the next tells of both.
    fn lose(&self, portion: &Portion) {
        let told = usize::from(portion.lost.0 > 0);
        let own = &portion.events[..portion.events.len() - told];
        let bytes: usize = own.iter().map(Bytes::len).sum();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost = (lost.0 + own.len() as u64 + portion.lost.0, lost.1 + bytes as u64 + portion.lost.1);
    }

    /// Comes back when an extension has had as much time as it may take. While it is frozen it has none.
    async fn too_long(&self) {
        let Some(process) = &self.process else { return tokio::time::sleep(DELIVERY).await };
        loop {
            process.running().await;
            let before = process.freezes();
            tokio::time::sleep(DELIVERY).await;
            if process.freezes() == before {
                return;
            }
        }
    }

    /// The next events: as many as fit, or those that came within the time that they may wait.
    async fn portion(&mut self) -> Option<Portion> {
        let first = self.events.recv().await?;
        self.queued.fetch_sub(first.len(), Ordering::Relaxed);
        let mut size = first.len();
        let mut portion = vec![first];
        let mut flush = self.flush.clone();
        let flushed = async move {
            // Without a sender the environment is over.
            flush.wait_for(|now| *now).await.map(drop).ok();
        };
        let waited = tokio::time::sleep(self.wanted.timeout);
        tokio::pin!(waited, flushed);
        while portion.len() < self.wanted.max_items && size < self.wanted.max_bytes {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => {
                        self.queued.fetch_sub(event.len(), Ordering::Relaxed);
                        size += event.len();
                        portion.push(event);
                    }
                    None => break,
                },
                () = &mut flushed => break,
                () = &mut waited => break,
            }
        }
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        if lost.0 > 0 {
            let record = json!({
                "droppedRecords": lost.0, "droppedBytes": lost.1, "reason": "Consumer seems to have fallen behind",
            });
            let event = json!({"time": timestamp(now_ms()), "type": "platform.logsDropped", "record": record});
            portion.push(Bytes::from(event.to_string()));
        }
        Some(Portion { events: portion, lost })
    }

    async fn deliver(&self, portion: &[Bytes]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (tell, made) = oneshot::channel();
        self.news.send(News::Connect { port: self.wanted.destination.port(), tell })?;
        let stream = std::net::TcpStream::from(made.await?);
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream)?;
        match &self.wanted.destination {
            Destination::Tcp { .. } => {
                for event in portion {
                    stream.write_all(event).await?;
                    stream.write_all(b"\n").await?;
                }
                stream.shutdown().await?;
            }
            Destination::Http { host, path, .. } => post(stream, host, path, array_of(portion)).await?,
        }
        Ok(())
    }
}

fn array_of(portion: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(portion.iter().map(|e| e.len() + 1).sum::<usize>() + 2);
    for (at, event) in portion.iter().enumerate() {
        all.extend_from_slice(if at == 0 { b"[" } else { b"," });
        all.extend_from_slice(event);
    }
    all.extend_from_slice(b"]");
    all.freeze()
}

async fn post(
    stream: TcpStream,
    host: &str,
    path: &str,
    events: Bytes,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header("Sequence-Id", random_id())
        .body(Full::new(events))?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Limited::new(answer.into_body(), MAX_ANSWER).collect().await.ok();
        if status.is_client_error() || status.is_server_error() {
            return Err(format!("the extension answered {status}").into());
        }
        Ok(())
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // It may end with the answer: then that is there. What went wrong otherwise, the exchange knows as well.
        _ = connection => exchange.await,
    }
}

/// Connections that deliveries have asked the box's init for.
#[derive(Default)]
pub struct Connecting(HashMap<u64, oneshot::Sender<OwnedFd>>);

impl Connecting {
    /// Remembers who asked.
    pub fn wait(&mut self, id: u64, tell: oneshot::Sender<OwnedFd>) {
        self.0.insert(id, tell);
    }

    /// Gives a connection to who asked for it; without one, whoever asked hears that there is none.
    pub fn made(&mut self, id: u64, connection: Option<OwnedFd>) -> bool {
        let Some(tell) = self.0.remove(&id) else { return false };
        if let Some(connection) = connection {
            tell.send(connection).ok();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_aws_writes_them() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(1_709_210_096_007), "2024-02-29T12:34:56.007Z");
    }

    #[test]
    fn a_portion_is_an_array() {
        let events: Vec<Bytes> = ["1", "{}"].iter().map(|e| Bytes::from_static(e.as_bytes())).collect();
        assert_eq!(array_of(&events), &b"[1,{}]"[..]);
        assert_eq!(array_of(&events[..1]), &b"[1]"[..]);
    }

    /// A delivery, the queue that it takes from, and what was lost.
    fn delivery(flush: &watch::Sender<bool>) -> (Delivery, mpsc::Sender<Bytes>, Lost) {
        let form = br#"{"schemaVersion":"2022-12-13","types":["platform"],"destination":{"protocol":"TCP","port":1},"buffering":{"timeoutMs":30000}}"#;
        let (queue, events) = mpsc::channel(QUEUE);
        let (news, _) = mpsc::unbounded_channel();
        let lost = Lost::default();
        let wanted = subscription::read(form).unwrap();
        let queued = Arc::new(AtomicUsize::new(1));
        let flush = flush.subscribe();
        (Delivery { wanted, events, queued, lost: lost.clone(), flush, news, process: None }, queue, lost)
    }

    fn notice(portion: &Portion) -> Value {
        serde_json::from_slice(portion.events.last().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn who_does_not_keep_up_is_told_what_it_lost() {
        let flush = watch::Sender::new(true);
        let (mut delivery, queue, lost) = delivery(&flush);
        queue.send(Bytes::from_static(b"1")).await.unwrap();
        *lost.lock().unwrap() = (3, 30);
        let portion = delivery.portion().await.unwrap();
        let last = notice(&portion);
        assert_eq!((&last["type"], &last["record"]["droppedRecords"]), (&json!("platform.logsDropped"), &json!(3)));
        // What was to tell of it was lost too: the next tells of both.
        delivery.lose(&portion);
        queue.send(Bytes::from_static(b"2")).await.unwrap();
        let record = notice(&delivery.portion().await.unwrap())["record"].clone();
        assert_eq!((&record["droppedRecords"], &record["droppedBytes"]), (&json!(4), &json!(31)));
        drop(queue);
        assert!(delivery.portion().await.is_none());
    }

    #[tokio::test]
    async fn after_a_flush_nothing_waits_for_company() {
        let flush = watch::Sender::new(false);
        let (mut delivery, queue, _) = delivery(&flush);
        flush.send_replace(true);
        queue.send(Bytes::from_static(b"1")).await.unwrap();
        let portion = tokio::time::timeout(Duration::from_secs(10), delivery.portion()).await.expect("it waited");
        assert_eq!(portion.unwrap().events.len(), 1);
    }

    #[tokio::test]
    async fn an_answer_counts_although_its_connection_ends_with_it() {
        use tokio::io::AsyncReadExt;
        for answer in ["HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"] {
            for status in ["200", "500"] {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let answer = answer.replace("200", status);
                tokio::spawn(async move {
                    let (mut other, _) = listener.accept().await.unwrap();
                    let mut request = Vec::new();
                    while !request.ends_with(b"[1]") {
                        assert!(other.read_buf(&mut request).await.unwrap() > 0);
                    }
                    other.write_all(answer.as_bytes()).await.unwrap();
                });
                let done = post(stream, "sandbox:1", "/", Bytes::from_static(b"[1]")).await;
                assert_eq!(done.is_ok(), status == "200", "{done:?}");
            }
        }
    }
}
