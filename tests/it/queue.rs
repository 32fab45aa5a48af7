//! Asynchronous invocations: accepted means durable, tried as AWS tries them, delivered where they are told to, and never
//! lost, whatever happens to the server.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Conn, Lang, PATIENCE, Random, Server, Shared, binary, eventually, lock, parallel, root};

static SERVER: Shared = Shared::new(&["--async-retry-base-ms", "300"]);

const EVENT: &[(&str, &str)] = &[("convention", "event"), ("runtime", "nodejs20.x")];

fn hand_in(server: &Server, name: &str, event: &Value, more: &[(&str, &str)]) -> Answer {
    let mut headers = vec![("Offshoot-Invocation-Type", "Event"), ("Content-Type", "application/json")];
    headers.extend_from_slice(more);
    let body = event.to_string();
    server.request("POST", &format!("/v1/functions/{name}/invoke"), &headers, body.as_bytes())
}

/// Hands an event in and gives its id.
#[track_caller]
fn later(server: &Server, name: &str, event: &Value, more: &[(&str, &str)]) -> String {
    let answer = hand_in(server, name, event, more).expect(202);
    let id = answer.json()["requestId"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("offshoot-request-id"), Some(id.as_str()));
    id
}

fn items(server: &Server, query: &str) -> Vec<Value> {
    server.get(&format!("/v1/queue?{query}")).expect(200).json()["items"].as_array().unwrap().clone()
}

/// The balance that must always hold, on the disk and in the metrics.
#[track_caller]
fn balanced(server: &Server) -> HashMap<String, u64> {
    let all = server.get("/v1/queue?limit=1").expect(200).json()["counts"].as_object().unwrap().clone();
    let counts: HashMap<String, u64> = all.into_iter().map(|(k, v)| (k, v.as_u64().unwrap())).collect();
    let sum = ["finished", "purged", "evicted", "waiting", "running", "delivering", "dead"].map(|k| counts[k]);
    assert_eq!(counts["accepted"], sum.iter().sum::<u64>(), "{counts:?}");
    counts
}

fn metric(server: &Server, name: &str) -> u64 {
    let text = server.get("/metrics").expect(200).text();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

/// What the function wrote of its events, and under which ids it ran.
fn got(server: &Server, name: &str) -> Vec<Value> {
    let lines = server.logs(name);
    lines.iter().filter_map(|l| serde_json::from_str(l.split_once("GOT ")?.1).ok()).collect()
}
fn starts(server: &Server, name: &str, id: &str) -> usize {
    server.logs(name).iter().filter(|l| l.starts_with("START") && l.contains(id)).count()
}

/// A program that takes HTTP requests and remembers them.
struct Listener {
    port: u16,
    heard: Mutex<Vec<(String, Vec<u8>)>>,
    down: AtomicBool,
    ended: AtomicBool,
}

impl Listener {
    fn start() -> &'static Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let listener: &'static Listener =
            Box::leak(Box::new(Listener { port, heard: Mutex::default(), down: false.into(), ended: false.into() }));
        thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                if listener.ended.load(Ordering::SeqCst) {
                    return;
                }
                thread::spawn(move || listener.serve(stream));
            }
        });
        listener
    }
    fn serve(&self, mut stream: std::net::TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut bytes = Vec::new();
        let mut block = [0; 65536];
        let (head, length) = loop {
            let n = stream.read(&mut block).ok().filter(|n| *n > 0)?;
            bytes.extend_from_slice(&block[..n]);
            if let Some(end) = crate::harness::find(&bytes, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).to_string();
                let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                break (head, end + 4 + length.unwrap_or(0));
            }
        };
        while bytes.len() < length {
            let n = stream.read(&mut block).ok().filter(|n| *n > 0)?;
            bytes.extend_from_slice(&block[..n]);
        }
        let down = self.down.load(Ordering::SeqCst);
        if !down {
            let body = bytes.split_off(length - (length - head.len() - 4));
            lock(&self.heard).push((head, body));
        }
        let status = if down { "503 Not Now" } else { "200 OK" };
        stream
            .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}").as_bytes())
            .ok()
    }
    fn paths(&self) -> Vec<String> {
        lock(&self.heard).iter().filter_map(|(head, _)| Some(head.split(' ').nth(1)?.to_owned())).collect()
    }
}

#[test]
fn what_is_accepted_is_delivered() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "queued", EVENT);
    let ids: Vec<String> = (0..20).map(|n| later(&server, &name, &json!({"n": n, "f": 1.50}), &[])).collect();
    eventually("all ran", PATIENCE, || got(&server, &name).len() == 20);
    for id in &ids {
        assert_eq!(starts(&server, &name, id), 1);
        eventually("it is done", PATIENCE, || server.get(&format!("/v1/queue/{id}")).status == 404);
    }
    balanced(&server);
}

#[test]
fn a_failing_function_is_tried_three_times_and_kept() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "queued", EVENT);
    let began = Instant::now();
    let id = later(&server, &name, &json!({"fail": "no money", "n": 1}), &[]);
    let item = || server.get(&format!("/v1/queue/{id}")).expect(200).json();
    eventually("it is dead", PATIENCE, || item()["state"] == "dead");
    // 300 ms before the first retry and 600 before the second.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    eventually("the log is written", PATIENCE, || starts(&server, &name, &id) == 3);
    let item = item();
    let record = &item["record"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    assert_eq!((item["attempts"].as_u64(), text(&item["condition"])), (Some(3), "RetriesExhausted".to_owned()));
    assert_eq!(item["event"], json!({"fail": "no money", "n": 1}));
    assert!(text(&record["timestamp"]).ends_with('Z'));
    assert_eq!(
        record["requestContext"],
        json!({"requestId": id, "condition": "RetriesExhausted", "approximateInvokeCount": 3,
            "functionArn": format!("arn:aws:lambda:us-east-1:000000000000:function:{name}:$LATEST")})
    );
    assert_eq!(record["requestPayload"], json!({"fail": "no money", "n": 1}));
    assert_eq!(
        record["responseContext"],
        json!({"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"})
    );
    let payload = &record["responsePayload"];
    assert_eq!((text(&payload["errorType"]), text(&payload["errorMessage"])), ("TypeError".into(), "no money".into()));
    assert_eq!(record["version"], "1.0");
    // Redriven, it begins again; and can be removed.
    let again = server.post("/v1/queue/redrive", json!({"ids": [id]}).to_string()).expect(200).json();
    assert_eq!(again["redriven"], 1);
    eventually("three more", PATIENCE, || starts(&server, &name, &id) == 6);
    eventually("dead again", PATIENCE, || items(&server, &format!("function={name}&state=dead")).len() == 1);
    let gone = server.request("DELETE", &format!("/v1/queue?function={name}"), &[], b"").expect(200).json();
    assert_eq!(gone["purged"], 1);
    assert!(items(&server, &format!("function={name}")).is_empty());
    balanced(&server);
}

#[test]
fn retries_and_age_can_be_said_for_one_call() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "queued", EVENT);
    let id = later(&server, &name, &json!({"fail": "x"}), &[("Offshoot-Max-Retries", "0")]);
    eventually("it is dead", PATIENCE, || items(&server, &format!("function={name}&state=dead")).len() == 1);
    assert_eq!(server.get(&format!("/v1/queue/{id}")).json()["attempts"], 1);
    for (header, value) in [
        ("Offshoot-Max-Retries", "3"),
        ("Offshoot-Max-Age", "0"),
        ("Offshoot-Max-Age", "21601"),
        ("Offshoot-On-Failure", "a b"),
        ("Offshoot-On-Failure", "http://127.0.0.1:1/"),
        ("Offshoot-Dead-Letter", "arn:aws:sqs:us-east-1:000000000000:q"),
        ("Offshoot-Invocation-Type", "Later"),
    ] {
        let headers = if header == "Offshoot-Invocation-Type" { vec![] } else { vec![(header, value)] };
        let answer = match headers.is_empty() {
            true => server.request("POST", &format!("/v1/functions/{name}/invoke"), &[(header, value)], b"{}"),
            false => hand_in(&server, &name, &json!({}), &headers),
        };
        assert_eq!(answer.status, 400, "{header}: {value}: {}", answer.text());
    }
    assert_eq!(hand_in(&server, "nobody-is-called-so", &json!({}), &[]).status, 404);
    let large = json!("x".repeat(1 << 20));
    let answer = hand_in(&server, &name, &large, &[]).expect(413);
    assert!(answer.error().contains("too large for the Event invocation type (limit 1048576 bytes)"));
    server.request("DELETE", &format!("/v1/queue/{id}"), &[], b"").expect(200);
}

#[test]
fn a_throttled_function_waits_without_spending_attempts() {
    let server = Server::start(&["--async-retry-base-ms", "1200", "--limits-queue-wait-ms", "50"]);
    let fields = &[("convention", "event"), ("runtime", "nodejs20.x"), ("concurrency", "1")];
    server.deploy("one", &Lang::Node.zip("queued"), fields);
    server.native("one", "{}").expect(200);
    let (id, ids) = thread::scope(|scope| {
        // Somebody else has its only instance.
        let holder = scope.spawn(|| server.native("one", r#"{"ms": 2500}"#).expect(200));
        thread::sleep(Duration::from_millis(200));
        let id = later(&server, "one", &json!({"n": 1}), &[]);
        let more: Vec<_> = (0..5).map(|n| later(&server, "one", &json!({"n": n}), &[])).collect();
        let item = || server.get(&format!("/v1/queue/{id}")).json();
        eventually("it was refused", PATIENCE, || item()["setbacks"].as_u64().unwrap_or(0) >= 1);
        assert_eq!(item()["attempts"], 0);
        assert!(metric(&server, "offshoot_async_attempts_total{result=\"setback\"}") >= 1);
        holder.join().unwrap();
        (id, more)
    });
    eventually("all are done", PATIENCE, || balanced(&server)["finished"] == 6);
    eventually("one start each", PATIENCE, || ids.iter().chain([&id]).all(|id| starts(&server, "one", id) == 1));
}

#[test]
fn destinations_learn_how_it_ended() {
    let hook = Listener::start();
    let sqs = Listener::start();
    let address = format!("http://127.0.0.1:{}/hook", hook.port);
    let queues = format!("http://127.0.0.1:{}", sqs.port);
    let server =
        Server::start(&["--async-retry-base-ms", "100", "--http-destinations", &address, "--sqs-endpoint", &queues]);
    for name in ["work", "sink"] {
        server.deploy(name, &Lang::Node.zip("queued"), EVENT);
    }
    let dead = "arn:aws:sqs:us-east-1:000000000000:dead";
    let well = later(&server, "work", &json!({"n": 7}), &[("Offshoot-On-Success", &address)]);
    let badly = [("Offshoot-On-Failure", "sink"), ("Offshoot-Dead-Letter", dead), ("Offshoot-Max-Retries", "1")];
    let ill = later(&server, "work", &json!({"fail": "broken"}), &badly);
    eventually("both are heard of", PATIENCE, || !lock(&hook.heard).is_empty() && !lock(&sqs.heard).is_empty());
    let (head, body) = lock(&hook.heard)[0].clone();
    assert!(head.starts_with("POST /hook HTTP/1.1"), "{head}");
    let record: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(record["requestContext"]["requestId"], well);
    assert_eq!(record["requestContext"]["condition"], "Success");
    assert_eq!((&record["requestPayload"], &record["responsePayload"]), (&json!({"n": 7}), &json!({"did": 7})));
    let (head, body) = lock(&sqs.heard)[0].clone();
    assert!(head.to_lowercase().contains("x-amz-target: amazonsqs.sendmessage"), "{head}");
    let message: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(message["QueueUrl"], format!("{queues}/000000000000/dead"));
    assert_eq!(message["MessageBody"], json!({"fail": "broken"}).to_string());
    assert_eq!(
        message["MessageAttributes"],
        json!({"RequestID": {"DataType": "String", "StringValue": ill}, "ErrorCode": {"DataType": "Number", "StringValue": "200"},
            "ErrorMessage": {"DataType": "String", "StringValue": "broken"}})
    );
    eventually("the sink has its record", PATIENCE, || got(&server, "sink").len() == 1);
    let record = &got(&server, "sink")[0];
    assert_eq!(record["requestContext"]["requestId"], ill);
    assert_eq!(record["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 2);
    eventually("all is done", PATIENCE, || balanced(&server)["finished"] == 3);
    // A destination that is down gets it when it is back; the function is not called again.
    hook.down.store(true, Ordering::SeqCst);
    let id = later(&server, "work", &json!({"n": 8}), &[("Offshoot-On-Success", &address)]);
    let failed = "offshoot_async_deliveries_total{result=\"failed\"}";
    eventually("it was tried", PATIENCE, || server.get("/metrics").text().contains(failed));
    assert_eq!(server.get(&format!("/v1/queue/{id}")).expect(200).json()["state"], "delivering");
    hook.down.store(false, Ordering::SeqCst);
    eventually("it has arrived", PATIENCE, || lock(&hook.heard).len() == 2);
    eventually("all is done", PATIENCE, || balanced(&server)["finished"] == 4);
    assert_eq!(starts(&server, "work", &id), 1);
}

#[test]
fn event_buses_learn_how_it_ended() {
    let buses = Listener::start();
    let address = format!("http://127.0.0.1:{}", buses.port);
    let server = Server::start(&["--async-retry-base-ms", "100", "--eventbridge-endpoint", &address]);
    server.deploy("work", &Lang::Node.zip("queued"), EVENT);
    let bus = "arn:aws:events:eu-west-1:000000000000:event-bus/line";
    let well = later(&server, "work", &json!({"n": 7}), &[("Offshoot-On-Success", bus)]);
    let badly = [("Offshoot-On-Failure", bus), ("Offshoot-Max-Retries", "0")];
    let ill = later(&server, "work", &json!({"fail": "broken"}), &badly);
    eventually("both are heard of", PATIENCE, || lock(&buses.heard).len() == 2);
    for (head, body) in lock(&buses.heard).iter() {
        let head = head.to_lowercase();
        assert!(
            head.contains("x-amz-target: awsevents.putevents") && head.contains("/eu-west-1/events/aws4_request"),
            "{head}"
        );
        let told: Value = serde_json::from_slice(body).unwrap();
        let event = &told["Entries"][0];
        let record: Value = serde_json::from_str(event["Detail"].as_str().unwrap()).unwrap();
        let (id, word) = if record["requestPayload"]["n"] == 7 { (&well, "Success") } else { (&ill, "Failure") };
        assert_eq!(event["DetailType"], format!("Lambda Function Invocation Result - {word}"));
        assert_eq!((&event["Source"], &event["EventBusName"]), (&json!("lambda"), &json!(bus)));
        assert_eq!(event["Resources"], json!([bus, record["requestContext"]["functionArn"]]));
        assert_eq!(record["requestContext"]["requestId"], json!(id));
    }
    eventually("all is done", PATIENCE, || balanced(&server)["finished"] == 2);
}

#[test]
fn a_stop_keeps_what_waits_and_finishes_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_on(&data, &["--async-retry-base-ms", "60000"]);
    server.deploy("work", &Lang::Node.zip("queued"), EVENT);
    let _ = later(&server, "work", &json!({"fail": "waits a minute now"}), &[]);
    eventually("it waits", PATIENCE, || items(&server, "state=waiting").first().is_some_and(|i| i["attempts"] == 1));
    let _ = later(&server, "work", &json!({"ms": 800}), &[]);
    eventually("it runs", PATIENCE, || items(&server, "state=running").len() == 1);
    server.stop();
    let server = Server::start_on(&data, &[]);
    let counts = balanced(&server);
    assert_eq!((counts["finished"], counts["waiting"], counts["redelivered"]), (1, 1, 0), "{counts:?}");
}

/// A server that is killed while an item runs runs it again, and says so.
#[test]
fn what_ran_when_the_server_was_killed_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_on(&data, &[]);
    server.deploy("work", &Lang::Node.zip("queued"), EVENT);
    let _ = later(&server, "work", &json!({"ms": 1500}), &[]);
    eventually("it runs", PATIENCE, || items(&server, "state=running").len() == 1);
    server.kill();
    let server = Server::start_on(&data, &[]);
    eventually("it is done", PATIENCE, || balanced(&server)["finished"] == 1);
    assert_eq!(metric(&server, "offshoot_async_redelivered_total"), 1);
    assert_eq!(metric(&server, "offshoot_async_accepted_total"), 1);
    assert_eq!(metric(&server, "offshoot_async_finished_total"), 1);
}

/// Nothing that was answered 202 is ever lost. The function tells a program outside of the server which invocation it is,
/// and waits until that was heard; whoever was acknowledged must be heard of, however often the server is killed.
#[test]
fn kill_loop() {
    let rounds: u64 = std::env::var("KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
    let seed = Random::seed();
    let mut random = Random::new(seed);
    let hearer = Listener::start();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let flags = &["--async-retry-base-ms", "500", "--drain-ms", "2000"];
    let fields = &[("convention", "event"), ("runtime", "nodejs20.x"), ("network", "host")];
    let (mut acknowledged, mut redelivered) = (HashSet::new(), 0);
    let event = json!({"port": hearer.port});
    for round in 0..rounds {
        let server = Server::start_on(&data, flags);
        if round == 0 {
            server.deploy("tells", &Lang::Node.zip("tells"), fields);
        }
        let over = AtomicBool::new(false);
        let fire = 20 + random.below(600);
        let ids = thread::scope(|scope| {
            let senders = scope.spawn(|| parallel(4, |_| send_until(&server, &event, &over)));
            thread::sleep(Duration::from_millis(fire));
            server.kill();
            over.store(true, Ordering::SeqCst);
            senders.join().unwrap()
        });
        acknowledged.extend(ids.into_iter().flatten());
        assert!(round > 3 || !acknowledged.is_empty() || fire < 200, "nothing was accepted (seed {seed})");
    }
    let server = Server::start_on(&data, flags);
    eventually("the queue is empty", PATIENCE * 4, || {
        let counts = balanced(&server);
        redelivered = counts["redelivered"];
        counts["waiting"] + counts["running"] + counts["delivering"] == 0
    });
    let counts = balanced(&server);
    let paths = hearer.paths();
    let heard: HashSet<&str> = paths.iter().map(|p| p.trim_start_matches('/')).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !heard.contains(id.as_str())).collect();
    hearer.ended.store(true, Ordering::SeqCst);
    println!(
        "{rounds} kills: {} acknowledged, {} accepted, {} heard of, {} duplicates, {redelivered} redelivered, {} dead, {} lost (seed {seed})",
        acknowledged.len(),
        counts["accepted"],
        heard.len(),
        paths.len() - heard.len(),
        counts["dead"],
        lost.len()
    );
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?} (seed {seed})");
    assert!(!acknowledged.is_empty());
    assert!(counts["accepted"] >= acknowledged.len() as u64);
    assert!((paths.len() - heard.len()) as u64 <= redelivered, "more duplicates than were counted (seed {seed})");
    assert_eq!(counts["dead"], 0);
}

/// Hands in as fast as it goes, until the server is gone; gives the ids that were acknowledged.
fn send_until(server: &Server, event: &Value, over: &AtomicBool) -> Vec<String> {
    let (body, mut ids) = (event.to_string(), Vec::new());
    let headers = [("Offshoot-Invocation-Type", "Event")];
    while !over.load(Ordering::SeqCst) {
        let Ok(mut conn) = Conn::open(server.port) else { break };
        while let Ok(answer) = conn.request("POST", "/v1/functions/tells/invoke", &headers, body.as_bytes()) {
            if answer.status == 202 {
                ids.push(answer.json()["requestId"].as_str().unwrap().to_owned());
            } else if answer.status != 429 {
                break;
            }
            // Not faster than functions run, so that the queue is worked off within the test.
            thread::sleep(Duration::from_millis(4));
        }
    }
    ids
}

#[test]
fn the_command_line() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "queued", EVENT);
    let run = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.args(args).env("OFFSHOOT_SERVER", format!("http://127.0.0.1:{}", server.port));
        let done = command.current_dir(root()).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let id = run(&["invoke", &name, "--async", "-d", r#"{"fail":"by hand"}"#]).trim().to_owned();
    assert_eq!(id.len(), 36);
    eventually("it is dead", PATIENCE, || items(&server, &format!("function={name}&state=dead")).len() == 1);
    let list = run(&["queue", "ls", &name]);
    assert!(list.contains(&id) && list.contains("dead") && list.contains("Error: by hand"), "{list}");
    // A message that says little without its type has it.
    let bare = server.deploy_case(Lang::Python, "bare", &[("convention", "event")]);
    let bare_id = run(&["invoke", &bare, "--async", "-d", "{}"]).trim().to_owned();
    eventually("it is dead", PATIENCE, || items(&server, &format!("function={bare}&state=dead")).len() == 1);
    let list = run(&["queue", "ls", &bare]);
    assert!(list.contains(&bare_id) && list.trim_end().ends_with("KeyError: 'x'"), "{list}");
    let listed: Value = serde_json::from_str(&run(&["queue", "ls", &name, "--state", "dead", "-o", "json"])).unwrap();
    assert_eq!(listed["items"][0]["requestId"], id);
    assert!(run(&["queue", "show", &id]).contains("RetriesExhausted"));
    let shown: Value = serde_json::from_str(&run(&["queue", "show", &id, "-o", "json"])).unwrap();
    assert_eq!(shown["item"]["record"]["requestContext"]["requestId"], id);
    assert_eq!(run(&["queue", "redrive", &id]).trim(), "redriven 1");
    eventually("it is dead", PATIENCE, || items(&server, &format!("function={name}&state=dead")).len() == 1);
    assert_eq!(run(&["queue", "purge", "--function", &name]).trim(), "purged 1");
    let accepted: Value = serde_json::from_str(&run(&["invoke", &name, "--async", "-o", "json"])).unwrap();
    assert_eq!(accepted["requestId"].as_str().map(str::len), Some(36));
}
