//! Ten thousand calls while instances are killed at random: every call is answered exactly once, rightly or with a clear
//! error, and nothing is left. A failed run is repeated with its seed: `SEED=n cargo test --test it chaos`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Lang, PATIENCE, Proc, Random, Server, eventually, lock, parallel};

const CALLS: u64 = 10_000;
const CLIENTS: usize = 6;

/// A function under fire: how it is called with a nonce, and what may come back.
struct Target {
    name: String,
    case: &'static str,
}

fn body_for(case: &str, nonce: &str) -> String {
    match case {
        "sleeps" => "3".to_owned(),
        "logs" => json!({"lines": [nonce]}).to_string(),
        "mirror" => json!({"statusCode": 202, "headers": {"x-nonce": nonce}, "body": nonce}).to_string(),
        _ => nonce.to_owned(),
    }
}

/// Whether an answer is what the function says when nothing is wrong.
fn right(case: &str, nonce: &str, body: &Value, headers: &[(String, String)]) -> bool {
    match case {
        "echo" => body["body"] == nonce,
        "sleeps" => body["slept"] == 3,
        "logs" => body["written"] == 1,
        "mirror" => body == nonce && headers.iter().any(|(n, v)| n == "x-nonce" && v == nonce),
        "counter" | "snapshot" => body["count"].is_u64() || body["calls"].is_u64(),
        "fails" => body["error"] == "no money" && body["errorType"] == "PaymentError",
        other => panic!("{other}"),
    }
}

#[test]
fn ten_thousand_calls_under_fire() {
    let seed = Random::seed();
    eprintln!("SEED={seed}");
    let server = Server::start(&[]);
    let mut targets = Vec::new();
    for lang in Lang::ALL {
        for case in ["echo", "sleeps", "logs", "mirror", "counter", "fails"] {
            targets.push(Target { name: server.deploy_case(lang, case, &[]), case });
        }
        let name = format!("snap-{}", lang.dir());
        server.deploy(&name, &lang.zip("counter"), &[("snapshot", "on")]);
        targets.push(Target { name, case: "counter" });
        let name = format!("wide-{}", lang.dir());
        server.deploy(&name, &lang.zip("echo"), &[("maxConcurrency", "4")]);
        targets.push(Target { name, case: "echo" });
    }
    let victims: Mutex<Vec<Proc>> = Mutex::default();
    let (next, killed) = (AtomicU64::new(0), AtomicU64::new(0));
    let tallies = parallel(CLIENTS, |client| {
        let mut random = Random::new(seed ^ (client as u64 + 1).wrapping_mul(0x9e37_79b9));
        let mut connection = server.connect();
        let mut tally: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= CALLS {
                return tally;
            }
            if number % 50 == 0 {
                *lock(&victims) = server.boxed();
            }
            if random.below(100) == 0 {
                let mut victims = lock(&victims);
                if !victims.is_empty() {
                    let at = random.below(victims.len() as u64) as usize;
                    let victim = victims.swap_remove(at);
                    if victim.alive() {
                        victim.signal("KILL");
                        killed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            let target = &targets[random.below(targets.len() as u64) as usize];
            let nonce = format!("{number}-{:x}", random.next());
            let path = format!("/invoke/{}", target.name);
            let answer = connection.request("POST", &path, &[], body_for(target.case, &nonce).as_bytes());
            // The connection is the server's word: it may not break because an instance did.
            let answer = answer
                .unwrap_or_else(|e| panic!("SEED={seed}: call {number} of {} was not answered: {e}", target.name));
            let body = answer.json();
            let expected = if target.case == "fails" {
                500
            } else if target.case == "mirror" {
                202
            } else {
                200
            };
            let kind = if answer.status == expected && right(target.case, &nonce, &body, &answer.headers) {
                "right".to_owned()
            } else {
                // A clone whose template was killed too has nobody left who could tell how it ended.
                let told = |e: &str| e.contains("signal: killed") || e.contains("exited without providing a reason");
                let clear = answer.status == 502
                    && body["errorType"] == "Runtime.ExitError"
                    && body["error"].as_str().is_some_and(told);
                let platform = answer.status == 503 && body["error"].is_string();
                let init = answer.status == 500 && body["error"].as_str().is_some_and(told);
                assert!(
                    clear || platform || init,
                    "SEED={seed}: call {number} of {}: {} {}",
                    target.name,
                    answer.status,
                    answer.text()
                );
                format!("{} {}", answer.status, body["errorType"].as_str().unwrap_or("platform"))
            };
            *tally.entry(kind).or_default() += 1;
        }
    });
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for (kind, count) in tallies.into_iter().flatten() {
        *all.entry(kind).or_default() += count;
    }
    let killed = killed.load(Ordering::Relaxed);
    assert_eq!(all.values().sum::<u64>(), CALLS, "each call has one answer");
    assert!(killed >= 20, "only {killed} instances were killed");
    assert!(all["right"] >= CALLS * 95 / 100, "SEED={seed}: {killed} kills made {all:?}");
    // Every call was counted, and counted once.
    let counted: u64 =
        targets.iter().map(|t| server.get(&format!("/info/{}", t.name)).json()["invokeCount"].as_u64().unwrap()).sum();
    assert_eq!(counted, CALLS);
    for target in &targets {
        let nonce = "after";
        let answer = server.invoke(&target.name, body_for(target.case, nonce));
        assert!(
            right(target.case, nonce, &answer.json(), &answer.headers),
            "{} afterwards: {}",
            target.name,
            answer.text()
        );
    }
    server.clear();
    eventually("every instance is gone", PATIENCE, || server.usage().instances == 0 && server.cgroups().is_empty());
    assert_eq!(server.temporary(), Vec::<String>::new());
    server.is_well();
}
