//! The queue as a whole, on a real file, with functions and destinations that do what the test says.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use offshoot_model::invocation::FailureCause;
use offshoot_model::{Answer, FunctionError, Phases, Report, RequestId, RuntimeName, StartKind};
use serde_json::{Value, json};

use super::*;

/// What a function does with its event: `{"do": "return" | "fail" | "throttle" | "refuse" | "hang" | "panic"}`.
#[derive(Default)]
struct World {
    calls: Mutex<Vec<(String, String, String)>>,
    settings: Mutex<HashMap<String, EventInvokeConfig>>,
    limits: Mutex<HashMap<String, u32>>,
    running: Mutex<HashMap<String, u32>>,
    most: Mutex<HashMap<String, u32>>,
    cured: AtomicBool,
    shipped: Mutex<Vec<Shipment>>,
    unreachable: AtomicU32,
}

impl World {
    fn calls_of(&self, function: &str) -> Vec<(String, String)> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|c| c.0 == function).map(|c| (c.1.clone(), c.2.clone())).collect()
    }
}

fn outcome(result: Answer<Bytes>) -> Outcome<Bytes> {
    Outcome {
        result,
        start: StartKind::Warm,
        version: None,
        runtime: RuntimeName::parse("nodejs20.x").unwrap(),
        phases: Phases::default(),
        report: Report::default(),
        log_tail: Vec::new(),
    }
}

impl Host for World {
    fn run(&self, invocation: Invocation<Bytes>, _: Context) -> Boxed<'_, Result<Outcome<Bytes>, Error>> {
        Box::pin(async move {
            let name = invocation.function.to_string();
            let text = String::from_utf8(invocation.payload.to_vec()).unwrap();
            let event: Value = serde_json::from_str(&text).unwrap_or_default();
            self.calls.lock().unwrap().push((name.clone(), invocation.id.to_string(), text));
            {
                let mut running = self.running.lock().unwrap();
                let now = running.entry(name.clone()).or_default();
                *now += 1;
                let mut most = self.most.lock().unwrap();
                let top = most.entry(name.clone()).or_default();
                *top = (*top).max(*now);
            }
            tokio::time::sleep(Duration::from_millis(event["ms"].as_u64().unwrap_or(0))).await;
            *self.running.lock().unwrap().get_mut(&name).unwrap() -= 1;
            let body = r#"{"errorType":"E","errorMessage":"no money"}"#.to_owned();
            match event["do"].as_str().unwrap_or("return") {
                "fail" if !self.cured.load(Ordering::SeqCst) => {
                    Ok(outcome(Answer::Failed(FunctionError { cause: FailureCause::Handler, body })))
                }
                "throttle" if !self.cured.load(Ordering::SeqCst) => {
                    Err(Error::new(ErrorKind::Throttled, "all instances are busy"))
                }
                "refuse" => Err(Error::new(ErrorKind::NotFound, "no function is called so")),
                "hang" => std::future::pending().await,
                "panic" if !self.cured.load(Ordering::SeqCst) => panic!("a bug on purpose"),
                _ => Ok(outcome(Answer::Reply { http: None, body: Bytes::from_static(b"{\"ok\":1.0}") })),
            }
        })
    }
    fn concurrency(&self, function: &FunctionName) -> Option<u32> {
        self.limits.lock().unwrap().get(function.as_str()).copied()
    }
    fn settings_for(&self, function: &FunctionName, _: Option<&str>) -> EventInvokeConfig {
        self.settings.lock().unwrap().get(function.as_str()).cloned().unwrap_or_default()
    }
    fn arn(&self, function: &FunctionName, qualifier: &str) -> String {
        format!("arn:aws:lambda:us-east-1:000000000000:function:{function}:{qualifier}")
    }
}

impl Carrier for World {
    fn check(&self, target: &Target) -> Result<(), Error> {
        match target {
            Target::Http(url) if url.contains("forbidden") => Err(Error::new(ErrorKind::InvalidInput, "not allowed")),
            _ => Ok(()),
        }
    }
    fn carry(&self, shipment: Shipment) -> Boxed<'_, Result<(), Undelivered>> {
        Box::pin(async move {
            if self.unreachable.load(Ordering::SeqCst) > 0 {
                self.unreachable.fetch_sub(1, Ordering::SeqCst);
                return Err(Undelivered { message: "connection refused".into(), lasting: false });
            }
            self.shipped.lock().unwrap().push(shipment);
            Ok(())
        })
    }
}

const QUICK: Pace = Pace { retry_ms: 20 };

fn limits() -> QueueLimits {
    QueueLimits { items: 1000, bytes: 64 << 20, payload: 1 << 20, concurrency: 64 }
}

struct Bench {
    dir: tempfile::TempDir,
    world: Arc<World>,
    queue: Option<Queue>,
}

impl Bench {
    fn new() -> Self {
        Self::with(limits())
    }
    fn with(limits: QueueLimits) -> Self {
        let mut bench = Bench { dir: tempfile::tempdir().unwrap(), world: Arc::default(), queue: None };
        bench.open(limits, QUICK);
        bench
    }
    fn open(&mut self, limits: QueueLimits, pace: Pace) {
        let world = self.world.clone();
        let opened = Opened::open(self.dir.path(), pace).unwrap();
        self.queue = Some(Queue::start(opened, limits, world.clone(), world, QueueMetrics::default()));
    }
    fn queue(&self) -> &Queue {
        self.queue.as_ref().unwrap()
    }
    /// Ends the queue as a killed server does: what runs is not written.
    async fn crash(&mut self) {
        let queue = self.queue.take().unwrap();
        queue.abandon();
        let (core, world) = (Arc::downgrade(&queue.core), self.world.clone());
        drop(queue);
        world.cured.store(true, Ordering::SeqCst);
        for _ in 0..500 {
            if core.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the queue is still held");
    }
    async fn send(&self, function: &str, event: Value) -> String {
        self.send_with(function, event, None).await.unwrap()
    }
    async fn send_with(&self, name: &str, event: Value, settings: Option<EventInvokeConfig>) -> Result<String, Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).unwrap();
        let id = RequestId::from_random(random);
        let call = QueuedCall {
            id: id.clone(),
            function: FunctionName::parse(name).unwrap(),
            context: Context::default(),
            http: None,
            payload: Bytes::from(event.to_string()),
            settings,
        };
        self.queue().accept(call).await.map(|()| id.to_string())
    }
    /// Waits until the totals are so.
    async fn until(&self, what: &str, holds: impl Fn(&Totals) -> bool) -> Totals {
        for _ in 0..1000 {
            let (disk, memory) = (self.queue().counts().await.unwrap(), self.queue().totals());
            assert!(disk.balanced(), "{disk:?}");
            if holds(&disk) && disk == memory {
                return disk;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not in time: {what}: {:?} {:?}", self.queue().counts().await, self.queue().totals());
    }
    fn set(&self, function: &str, settings: EventInvokeConfig) {
        self.world.settings.lock().unwrap().insert(function.to_owned(), settings);
    }
}

fn to(text: &str) -> Option<Target> {
    Some(Target::parse(text).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_is_run_once() {
    let bench = Bench::new();
    assert!(!bench.dir.path().join("queue.db").exists(), "who is never called so has no queue");
    let mut ids = Vec::new();
    for n in 0..200 {
        ids.push(bench.send("f", json!({"n": n})).await);
    }
    let totals = bench.until("all done", |t| t.finished == 200).await;
    assert_eq!(totals, Totals { accepted: 200, finished: 200, ..Totals::default() });
    let mut ran: Vec<String> = bench.world.calls_of("f").into_iter().map(|c| c.0).collect();
    ran.sort();
    ids.sort();
    assert_eq!(ran, ids);
    assert_eq!(bench.queue().bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_function_is_tried_three_times_with_one_id_and_kept() {
    let bench = Bench::new();
    let id = bench.send("f", json!({"do": "fail", "n": 1.50})).await;
    bench.until("it is dead", |t| t.dead == 1).await;
    let calls = bench.world.calls_of("f");
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|(i, _)| *i == id));
    let detail = bench.queue().show(&id).await.unwrap().unwrap();
    assert_eq!((detail.view.attempts, detail.view.condition), (3, Some(Condition::RetriesExhausted)));
    assert_eq!(detail.view.error.as_deref(), Some("E: no money"));
    let record: Value = serde_json::from_slice(&detail.record.unwrap()).unwrap();
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 3);
    assert_eq!(record["requestContext"]["requestId"], id);
    assert_eq!(record["responsePayload"]["errorMessage"], "no money");
    // Cured and driven again, it is done; with its own id, and with attempts of its own.
    bench.world.cured.store(true, Ordering::SeqCst);
    assert_eq!(bench.queue().redrive(Which::Ids(vec![id.clone(), "x".into()])).await.unwrap(), 1);
    bench.until("done", |t| t.finished == 1 && t.dead == 0).await;
    assert!(bench.queue().show(&id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttles_spend_no_attempts() {
    let bench = Bench::new();
    let id = bench.send("f", json!({"do": "throttle"})).await;
    for _ in 0..500 {
        if bench.world.calls_of("f").len() >= 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let view = bench.queue().show(&id).await.unwrap().unwrap().view;
    assert_eq!(view.attempts, 0, "{view:?}");
    assert!(view.setbacks >= 3, "{view:?}");
    bench.world.cured.store(true, Ordering::SeqCst);
    bench.until("done", |t| t.finished == 1).await;
    assert!(bench.world.calls_of("f").iter().all(|(i, _)| *i == id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_grows_too_old_ends() {
    let bench = Bench::new();
    bench.set("f", EventInvokeConfig { max_age_s: Some(1), on_failure: to("sink"), ..Default::default() });
    let id = bench.send("f", json!({"do": "throttle"})).await;
    bench.until("done", |t| t.finished == 2).await;
    let (_, record) = bench.world.calls_of("sink").pop().unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["requestContext"]["condition"], "EventAgeExceeded");
    assert_eq!(record["requestContext"]["requestId"], id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_function_that_reserves_nothing_is_tried() {
    let bench = Bench::new();
    bench.world.limits.lock().unwrap().insert("shut".into(), 0);
    bench.set("shut", EventInvokeConfig { on_failure: to("sink"), ..Default::default() });
    let id = bench.send("shut", json!({})).await;
    bench.until("done", |t| t.finished == 2).await;
    assert!(bench.world.calls_of("shut").is_empty());
    let (_, record) = bench.world.calls_of("sink").pop().unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["requestContext"]["condition"], "ZeroReservedConcurrency");
    assert_eq!((&record["requestContext"]["requestId"], record.get("responseContext")), (&json!(id), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_function_does_not_hold_up_others() {
    let bench = Bench::new();
    bench.world.limits.lock().unwrap().insert("slow".into(), 2);
    for _ in 0..40 {
        bench.send("slow", json!({"ms": 50})).await;
    }
    for _ in 0..40 {
        bench.send("fast", json!({})).await;
    }
    let began = std::time::Instant::now();
    while bench.world.calls_of("fast").len() < 40 {
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bench.world.calls_of("slow").len() < 40, "the fast ones overtook");
    bench.until("all", |t| t.finished == 80).await;
    assert_eq!(bench.world.most.lock().unwrap()["slow"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_get_the_record_and_dead_letters_the_event() {
    let bench = Bench::new();
    let queue = "arn:aws:sqs:us-east-1:000000000000:dead";
    bench.set("good", EventInvokeConfig { on_success: to("http://127.0.0.1:1/hook"), ..Default::default() });
    bench.set(
        "bad",
        EventInvokeConfig {
            max_retries: Some(0),
            on_failure: to("sink"),
            dead_letter: to(queue),
            ..Default::default()
        },
    );
    let good = bench.send("good", json!({"a": 1})).await;
    let bad = bench.send("bad", json!({"do": "fail"})).await;
    bench.until("all", |t| t.finished == 3).await;
    let shipped = bench.world.shipped.lock().unwrap().clone();
    let of = |target: &str| shipped.iter().find(|s| s.target.to_string() == target).cloned().unwrap();
    let record: Value = serde_json::from_slice(&of("http://127.0.0.1:1/hook").body).unwrap();
    assert_eq!(record["requestContext"]["condition"], "Success");
    assert_eq!(record["requestContext"]["requestId"], good);
    assert_eq!(record["requestPayload"], json!({"a": 1}));
    assert_eq!(record["responsePayload"].to_string(), r#"{"ok":1.0}"#);
    let letter = of(queue);
    assert_eq!(&letter.body[..], br#"{"do":"fail"}"#);
    assert_eq!(letter.attributes[0], ("RequestID", "String", bad.clone()));
    assert_eq!(letter.attributes[1], ("ErrorCode", "Number", "200".to_owned()));
    assert_eq!(letter.attributes[2], ("ErrorMessage", "String", "no money".to_owned()));
    let (own, record) = bench.world.calls_of("sink").pop().unwrap();
    assert_ne!(own, bad, "an invocation of its own");
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(record["requestContext"]["functionArn"], "arn:aws:lambda:us-east-1:000000000000:function:bad:$LATEST");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_down_is_tried_again_and_then_kept() {
    let bench = Bench::new();
    bench.set("f", EventInvokeConfig { on_success: to("http://127.0.0.1:1/"), ..Default::default() });
    bench.world.unreachable.store(3, Ordering::SeqCst);
    bench.send("f", json!({})).await;
    bench.until("delivered in the end", |t| t.finished == 1).await;
    assert_eq!(bench.world.calls_of("f").len(), 1, "the function is not called for it again");
    bench.world.unreachable.store(u32::MAX, Ordering::SeqCst);
    let id = bench.send("f", json!({})).await;
    bench.until("kept", |t| t.dead == 1).await;
    let view = bench.queue().show(&id).await.unwrap().unwrap().view;
    assert!(view.error.unwrap().contains("connection refused"));
    assert_eq!(view.deliveries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_of_destinations_ends() {
    let bench = Bench::new();
    bench.set("loop", EventInvokeConfig { on_success: to("loop"), ..Default::default() });
    bench.send("loop", json!({})).await;
    let totals = bench.until("stopped", |t| t.dead == 1).await;
    assert_eq!((totals.accepted, totals.finished), (17, 16));
    let page = bench.queue().list(Filter::default(), 0, 10).await.unwrap();
    assert_eq!(page.items[0].condition, Some(Condition::ChainTooLong));
}

/// A bug of the server under an item costs nothing but time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_a_setback() {
    let bench = Bench::new();
    let id = bench.send("f", json!({"do": "panic"})).await;
    while bench.world.calls_of("f").len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.queue().show(&id).await.unwrap().unwrap().view.attempts, 0);
    bench.world.cured.store(true, Ordering::SeqCst);
    bench.until("done", |t| t.finished == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_kept_at_once() {
    let bench = Bench::new();
    bench.send("gone", json!({"do": "refuse"})).await;
    bench.until("dead", |t| t.dead == 1).await;
    assert_eq!(bench.world.calls_of("gone").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_bounded() {
    let small = QueueLimits { items: 10, bytes: 20_000, payload: 1000, concurrency: 1 };
    let bench = Bench::with(small);
    // One hangs, so nothing moves.
    bench.send("h", json!({"do": "hang"})).await;
    bench.until("it hangs", |t| t.running == 1).await;
    let kind = |r: Result<String, Error>| r.unwrap_err().kind;
    assert_eq!(kind(bench.send_with("f", json!("x".repeat(2000)), None).await), ErrorKind::TooLarge);
    for _ in 0..10 {
        bench.send("f", json!({})).await;
    }
    assert_eq!(kind(bench.send_with("f", json!({}), None).await), ErrorKind::Throttled);
    let mut taken = 0;
    while bench.send_with(&format!("g{taken}"), json!("x".repeat(900)), None).await.is_ok() {
        taken += 1;
        assert!(taken < 100);
    }
    assert!(bench.queue().bytes() <= 20_000 && taken >= 5, "{taken}");
    let wrong = EventInvokeConfig { on_failure: to("http://forbidden/"), ..Default::default() };
    assert_eq!(kind(bench.send_with("f", json!({}), Some(wrong)).await), ErrorKind::InvalidInput);
    // What is refused leaves nothing reserved.
    let left = bench.queue().bytes();
    assert_eq!(bench.queue().purge(Which::Of(FunctionName::parse("f").unwrap())).await.unwrap(), 10);
    assert_eq!(bench.queue().bytes(), left - 10 * 514);
    for _ in 0..5 {
        bench.send("f", json!({})).await;
    }
    assert!(bench.queue().counts().await.unwrap().balanced());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_are_bounded_too_and_counted() {
    let bench = Bench::with(QueueLimits { items: 20, ..limits() });
    for n in 0..50 {
        bench.send("gone", json!({"do": "refuse", "n": n})).await;
        bench.until("settled", |t| t.waiting == 0 && t.running == 0).await;
    }
    let totals = bench.queue().counts().await.unwrap();
    assert!(totals.dead <= 20 && totals.dead + totals.evicted == 50, "{totals:?}");
    let oldest = &bench.queue().list(Filter::default(), 0, 1).await.unwrap().items[0];
    let event = bench.queue().show(&oldest.request_id).await.unwrap().unwrap().event.unwrap();
    assert!(serde_json::from_slice::<Value>(&event).unwrap()["n"].as_u64().unwrap() >= 30, "the oldest went first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_the_last_one_stopped() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.send("running", json!({"ms": 2000})).await;
    }
    bench.until("they run", |t| t.running == 5).await;
    let failed = bench.send("gone", json!({"do": "refuse"})).await;
    bench.until("one is dead", |t| t.dead == 1).await;
    let before = bench.queue().counts().await.unwrap();
    bench.crash().await;
    bench.open(limits(), QUICK);
    let after = bench.queue().totals();
    assert_eq!(after.redelivered, 5);
    assert_eq!(after.accepted, before.accepted);
    bench.until("all of them are done", |t| t.finished == 5 && t.dead == 1).await;
    assert_eq!(bench.queue().show(&failed).await.unwrap().unwrap().view.state, State::Dead);
    let mut ids: Vec<_> = bench.world.calls_of("running").into_iter().map(|c| c.0).collect();
    assert_eq!(ids.len(), 10, "at least once");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "the ids stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_queue_takes_nothing_and_keeps_everything() {
    let mut bench = Bench::new();
    bench.send("f", json!({"ms": 200})).await;
    bench.until("it runs", |t| t.running == 1).await;
    bench.queue().close();
    assert_eq!(bench.send_with("f", json!({}), None).await.unwrap_err().kind, ErrorKind::ShuttingDown);
    bench.queue().settled(Duration::from_secs(5)).await;
    assert_eq!(bench.queue().counts().await.unwrap().finished, 1);
    bench.crash().await;
    bench.open(limits(), QUICK);
    assert_eq!(bench.queue().totals().redelivered, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_event_is_kept_and_the_rest_goes_on() {
    let mut bench = Bench::new();
    let bad = bench.send("f", json!({"do": "throttle"})).await;
    bench.until("it waits", |t| t.waiting == 1).await;
    bench.crash().await;
    let db = rusqlite::Connection::open(bench.dir.path().join("queue.db")).unwrap();
    db.execute("UPDATE bodies SET data = x'00'", []).unwrap();
    drop(db);
    let before = bench.world.calls_of("f").len();
    bench.open(limits(), QUICK);
    bench.send("f", json!({})).await;
    bench.until("one done, one dead", |t| t.finished == 1 && t.dead == 1).await;
    assert_eq!(bench.queue().show(&bad).await.unwrap().unwrap().view.condition, Some(Condition::Damaged));
    assert_eq!(bench.world.calls_of("f").len(), before + 1, "it never ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_not_understood_are_refused() {
    let mut bench = Bench::new();
    bench.send("gone", json!({"do": "refuse"})).await;
    bench.until("dead", |t| t.dead == 1).await;
    bench.crash().await;
    let path = bench.dir.path().join("queue.db");
    let refused = || Opened::open(bench.dir.path(), QUICK).err().expect("it opens").message;
    let good = std::fs::read(&path).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute("UPDATE counters SET value = value + 1 WHERE name = 'accepted'", []).unwrap();
    drop(db);
    assert!(refused().contains("damaged"));
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute("UPDATE schema SET version = 9", []).unwrap();
    drop(db);
    assert!(refused().contains("newer Offshoot"));
    let mut torn = good.clone();
    torn[4096..].fill(0x55);
    std::fs::write(&path, &torn).unwrap();
    assert!(refused().contains("damaged"));
    std::fs::write(&path, &good).unwrap();
    bench.open(limits(), QUICK);
    assert_eq!(bench.queue().totals().dead, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_filters() {
    let bench = Bench::new();
    for n in 0..25 {
        bench.send(if n % 2 == 0 { "a" } else { "b" }, json!({"do": "refuse"})).await;
    }
    bench.until("dead", |t| t.dead == 25).await;
    let filter = Filter { function: FunctionName::parse("a").ok(), state: Some(State::Dead) };
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = bench.queue().list(filter.clone(), after, 4).await.unwrap();
        seen.extend(page.items.into_iter().map(|i| i.request_id));
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(seen.len(), 13);
    let none = Filter { state: Some(State::Waiting), ..filter };
    assert!(bench.queue().list(none, 0, 10).await.unwrap().items.is_empty());
    let many = Which::Ids(vec!["x".into(); 1001]);
    assert_eq!(bench.queue().purge(many).await.unwrap_err().kind, ErrorKind::InvalidInput);
}

/// What a caller says besides the event counts, and so does the record of how it ended; and all of it is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_stored_is_counted() {
    let bench = Bench::with(QueueLimits { bytes: 10_000, ..limits() });
    let mut random = [0; 16];
    getrandom::fill(&mut random).unwrap();
    let large = offshoot_model::HttpPart { headers: vec![("x".into(), "y".repeat(20_000))], ..Default::default() };
    let call = QueuedCall {
        id: RequestId::from_random(random),
        function: FunctionName::parse("f").unwrap(),
        context: Context::default(),
        http: Some(large),
        payload: Bytes::from_static(b"{}"),
        settings: None,
    };
    assert_eq!(bench.queue().accept(call).await.unwrap_err().kind, ErrorKind::Throttled);
    assert_eq!(bench.queue().bytes(), 0);
    let id = bench.send("gone", json!({"do": "refuse"})).await;
    bench.until("dead", |t| t.dead == 1).await;
    let detail = bench.queue().show(&id).await.unwrap().unwrap();
    let (event, record) = (detail.event.unwrap().len(), detail.record.unwrap().len());
    assert_eq!(detail.view.bytes, (event + record) as u64);
    assert_eq!(bench.queue().bytes(), 0, "the dead are counted apart");
    bench.queue().redrive(Which::Ids(vec![id.clone()])).await.unwrap();
    bench.until("dead again", |t| t.dead == 1 && t.waiting + t.running == 0).await;
    assert_eq!(bench.queue().bytes(), 0);
}

/// Callers that hang up at any moment leave nothing half done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_may_go_away() {
    let bench = Bench::new();
    for n in 0..300u64 {
        let send = bench.send_with("f", json!({"n": n}), None);
        let _ = tokio::time::timeout(Duration::from_micros(n * 7 % 900), send).await;
    }
    bench.until("settled", |t| t.accepted == t.finished).await;
    assert_eq!(bench.queue().bytes(), 0);
}

/// Group commit: what waits together is synced together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_a_sync() {
    let bench = Arc::new(Bench::new());
    let began = std::time::Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    bench.send("f", json!({})).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("640 accepted in {:?}", began.elapsed());
    bench.until("done", |t| t.finished == 640).await;
}
