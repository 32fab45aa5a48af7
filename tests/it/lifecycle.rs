//! Instances from birth to death: cold and warm, replaced and deleted under load, kept, frozen, limited, and cloned from a
//! snapshot of themselves.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Lang, PATIENCE, Server, Shared, eventually, parallel, per_language};

static SERVER: Shared = Shared::new(&["--prewarm=false", "--limits-queue-wait-ms", "400"]);
const THRIFTY: &[&str] = &["--prewarm=false", "--keep-alive-ms", "1500", "--freeze-after-ms", "200"];

fn the_first_call_is_cold_and_the_next_are_warm(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "counter", &[]);
    let first = server.native(&name, "").expect(200);
    assert_eq!(
        (first.header("offshoot-start"), &first.json()["count"]),
        (Some("clone"), &json!(1)),
        "{}",
        first.text()
    );
    for n in 2..10 {
        let next = server.native(&name, "").expect(200);
        assert_eq!((next.header("offshoot-start"), &next.json()["count"]), (Some("warm"), &json!(n)));
        assert_eq!(next.json()["born"], first.json()["born"]);
    }
    assert_eq!(server.invoke(&name, "").expect(200).header("offshoot-start"), Some("warm"));
    server.delete(&name);
}

/// Requests run on while the code is replaced: those under way end on the old code, later ones get the new, none fails.
fn code_is_replaced_atomically_under_load(lang: Lang) {
    let server = SERVER.get();
    let name = format!("replaced-{}", lang.dir());
    let version = |n: u32| lang.inline(&n.to_string());
    server.deploy(&name, &version(0), &[]);
    let (deployed, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let calls: u32 = thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = server.connect();
                    let mut calls = 0;
                    while !stop.load(Ordering::SeqCst) {
                        let at_least = deployed.load(Ordering::SeqCst);
                        let answer =
                            connection.request("POST", &format!("/invoke/{name}"), &[], b"").unwrap().expect(200);
                        let got: u32 = answer.text().parse().unwrap();
                        assert!(got >= at_least, "version {got} answered after version {at_least} was deployed");
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for n in 1..=15 {
            server.deploy(&name, &version(n), &[]);
            deployed.store(n, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(30));
        }
        stop.store(true, Ordering::SeqCst);
        callers.into_iter().map(|c| c.join().unwrap()).sum()
    });
    assert!(calls > 50, "only {calls} calls");
    assert_eq!(server.get(&format!("/info/{name}")).json()["invokeCount"], calls);
    server.delete(&name);
}

fn what_runs_ends_on_the_code_it_began_with(lang: Lang) {
    let server = SERVER.get();
    let name = format!("old-{}", lang.dir());
    server.deploy(&name, &lang.zip("sleeps"), &[("env", r#"{"MARK":"old"}"#)]);
    server.invoke(&name, "1").expect(200);
    thread::scope(|scope| {
        let slow = scope.spawn(|| server.invoke(&name, "1500"));
        thread::sleep(Duration::from_millis(300));
        server.deploy(&name, &lang.inline("'new'"), &[]);
        assert_eq!(server.invoke(&name, "").expect(200).json(), "new");
        let slow = slow.join().unwrap().expect(200).json();
        assert_eq!((&slow["slept"], &slow["env"]), (&json!(1500), &json!("old")));
    });
    server.delete(&name);
}

fn what_runs_ends_although_the_function_is_deleted(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "sleeps", &[]);
    server.invoke(&name, "1").expect(200);
    thread::scope(|scope| {
        let slow = scope.spawn(|| server.invoke(&name, "1200"));
        thread::sleep(Duration::from_millis(300));
        server.delete(&name);
        server.invoke(&name, "1").expect(404);
        assert_eq!(slow.join().unwrap().expect(200).json()["slept"], 1200);
    });
    server.request("DELETE", &format!("/del/{name}"), &[], b"").expect(404);
    // The name is free again, and its count starts anew.
    server.deploy(&name, &lang.zip("counter"), &[]);
    assert_eq!(server.invoke(&name, "").expect(200).json()["count"], 1);
    assert_eq!(server.get(&format!("/info/{name}")).json()["invokeCount"], 1);
    server.delete(&name);
}

fn the_functions_concurrency_is_a_limit(lang: Lang) {
    let server = SERVER.get();
    let name = format!("narrow-{}", lang.dir());
    server.deploy(&name, &lang.zip("sleeps"), &[("concurrency", "2")]);
    let answers = parallel(6, |_| server.invoke(&name, "1500"));
    let count = |status: u16| answers.iter().filter(|a| a.status == status).count();
    assert_eq!((count(200), count(429)), (2, 4), "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
    let refused = answers.iter().find(|a| a.status == 429).unwrap();
    assert!(refused.header("retry-after").is_some() && refused.error().contains("concurrency"), "{}", refused.text());
    assert_eq!(server.native(&name, "1").expect(200).header("offshoot-start"), Some("warm"), "no permit was lost");
    server.delete(&name);
}

/// More callers at once than the machine starts instances at once: most are served by instances that others caused.
fn a_cold_burst_is_served(lang: Lang) {
    let server = Server::start(&[]);
    let name = server.deploy_case(lang, "counter", &[]);
    for round in 0..5 {
        server.post(&format!("/config/{name}"), format!("{{\"env\":{{\"ROUND\":\"{round}\"}}}}")).expect(200);
        let answers = parallel(48, |_| server.invoke(&name, ""));
        assert!(
            answers.iter().all(|a| a.status == 200),
            "round {round}: {:?}",
            answers.iter().map(|a| a.status).collect::<Vec<_>>()
        );
    }
    server.get("/health").expect(200);
}

/// What a function usually takes is only a guess about what it takes now.
fn an_unusually_slow_call_does_not_hold_up_the_next(lang: Lang) {
    let server = SERVER.get();
    let name = format!("moody-{}", lang.dir());
    server.deploy(&name, &lang.zip("sleeps"), &[]);
    (0..20).for_each(|_| drop(server.invoke(&name, "1").expect(200)));
    thread::scope(|scope| {
        let slow = scope.spawn(|| server.invoke(&name, "3000"));
        thread::sleep(Duration::from_millis(200));
        let next = server.native(&name, "1");
        assert_eq!(next.status, 200, "no limit is set, and the call was refused: {}", next.text());
        slow.join().unwrap().expect(200);
    });
    server.delete(&name);
}

fn one_instance_serves_several_when_it_may(lang: Lang) {
    let server = SERVER.get();
    let name = format!("wide-{}", lang.dir());
    server.deploy(&name, &lang.zip("sleeps"), &[("maxConcurrency", "8"), ("concurrency", "8")]);
    server.invoke(&name, "1").expect(200);
    let answers = parallel(8, |_| server.native(&name, "600").expect(200));
    assert!(answers.iter().all(|a| a.header("offshoot-start") == Some("warm")));
    assert_eq!(answers.iter().map(|a| a.json()["most"].as_u64().unwrap()).max(), Some(8));
    server.delete(&name);
}

fn frozen_instances_thaw_and_idle_ones_end(lang: Lang) {
    let server = Server::start(THRIFTY);
    let name = server.deploy_case(lang, "counter", &[]);
    let born = server.invoke(&name, "").expect(200).json()["born"].clone();
    thread::sleep(Duration::from_millis(1000));
    let again = server.native(&name, "").expect(200);
    assert_eq!(
        (again.header("offshoot-start"), &again.json()["born"]),
        (Some("warm"), &born),
        "it was frozen, not ended"
    );
    eventually("it has ended for being idle", PATIENCE, || server.boxed().is_empty());
    let anew = server.native(&name, "").expect(200);
    assert_eq!((anew.header("offshoot-start"), &anew.json()["count"]), (Some("clone"), &json!(1)));
    server.delete(&name);
}

fn a_functions_own_keep_alive_wins(lang: Lang) {
    let server = Server::start(THRIFTY);
    let name = format!("kept-{}", lang.dir());
    server.deploy(&name, &lang.zip("counter"), &[("keepAlive", "60s")]);
    server.invoke(&name, "").expect(200);
    thread::sleep(Duration::from_millis(4000));
    assert_eq!(server.native(&name, "").expect(200).header("offshoot-start"), Some("warm"));
    server.delete(&name);
}

fn a_snapshot_initialises_once(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "snapshot", &[("snapshot", "on")]);
    let mut initialised = BTreeSet::new();
    for _ in 0..10 {
        let answer = server.native(&name, "leave").expect(200);
        if answer.header("offshoot-function-error").is_some() || answer.header("offshoot-start") == Some("warm") {
            continue; // it met the instance that was just leaving
        }
        assert_eq!(answer.header("offshoot-start"), Some("restore"), "{}", answer.text());
        let seen = answer.json();
        // Before the snapshot the last registered hook runs first, afterwards the first registered one, as on AWS.
        assert_eq!(seen["hooks"], json!(["before 2", "before 1", "after 1", "after 2"]), "{seen}");
        assert_eq!((&seen["before"], &seen["after"], &seen["calls"]), (&json!(1), &json!(1), &json!(1)));
        assert_eq!(seen["kind"], "snap-start");
        initialised.insert(seen["initialised"].as_str().unwrap().to_owned());
        thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(initialised.len(), 1, "initialisation ran once for all clones");
    let first = initialised.into_iter().next().unwrap();
    // New configuration, new snapshot.
    server.post(&format!("/config/{name}"), r#"{"env":{"A":"1"}}"#).expect(200);
    let seen = server.native(&name, "").expect(200);
    assert_eq!(seen.header("offshoot-start"), Some("restore"));
    assert_ne!(seen.json()["initialised"], first.as_str());
    assert_eq!(server.native(&name, "").expect(200).header("offshoot-start"), Some("warm"));
    server.delete(&name);
}

fn templates_of_idle_functions_go_and_come_back(lang: Lang) {
    let server = Server::start(&["--prewarm=false", "--keep-alive-ms", "300", "--template-keep-alive-ms", "1500"]);
    let name = server.deploy_case(lang, "snapshot", &[("snapshot", "on")]);
    assert!(!server.boxed().is_empty(), "the template is made with the deployment");
    for _ in 0..2 {
        let answer = server.native(&name, "").expect(200);
        assert_eq!(answer.header("offshoot-start"), Some("restore"), "{}", answer.text());
        let after = Instant::now();
        // Its instance goes first, and the template is still there.
        eventually("the instance ends", PATIENCE, || server.boxed().len() == 1);
        assert!(after.elapsed() < Duration::from_millis(1400), "the template may have gone");
        eventually("the template ends", PATIENCE, || server.boxed().is_empty());
        assert!(after.elapsed() > Duration::from_millis(1400), "the template went too early");
    }
    server.is_well();
}

fn clones_of_a_snapshot_are_boxed_like_others(lang: Lang) {
    let server = SERVER.get();
    let name = format!("boxed-snapshot-{}", lang.dir());
    server.deploy(
        &name,
        &lang.zip("eats_memory"),
        &[("snapshot", "on"), ("memory", "128"), ("tmp", "1024"), ("timeout", "30s")],
    );
    for way in ["tmp", "buffers"] {
        let way = if lang != Lang::Node && way == "buffers" { "heap" } else { way };
        let answer = server.native(&name, way).expect(200);
        assert_eq!(
            (answer.header("offshoot-start"), answer.header("offshoot-function-error")),
            (Some("restore"), Some("out-of-memory")),
            "{way}: {}",
            answer.text()
        );
    }
    let probe = format!("probed-snapshot-{}", lang.dir());
    server.deploy(&probe, &lang.zip("probe"), &[("snapshot", "on"), ("memory", "512"), ("timeout", "60s")]);
    let ask = json!({"hostFile": "/etc/machine-id", "dataDir": server.data, "port": server.port, "serverPid": server.pid, "otherPid": server.pid, "abstract": "nobody", "shmKey": 12345});
    let answer = server.native(&probe, ask.to_string()).expect(200);
    assert_eq!(answer.header("offshoot-start"), Some("restore"), "{}", answer.text());
    let found = answer.json();
    let through: Vec<_> = found["attempts"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, how)| how.as_str().unwrap().starts_with("got"))
        .collect();
    assert!(through.is_empty(), "{through:#?}");
    let status = &found["facts"]["status"];
    assert_eq!(
        (status["CapBnd"].as_str().map(str::trim), status["NoNewPrivs"].as_str().map(str::trim)),
        (Some("0000000000000000"), Some("1"))
    );
    assert!(found["facts"]["pids"].as_u64().unwrap() <= 2, "{}", found["facts"]["pids"]);
    server.delete(&name);
    server.delete(&probe);
}

fn a_snapshot_that_cannot_be_made_says_why(lang: Lang) {
    let server = SERVER.get();
    let name = format!("no-snapshot-{}", lang.dir());
    let answer = server.try_deploy(&name, &lang.zip("init_fails"), &[("snapshot", "on")]);
    // It may be refused at once or answered at the first call; either way the reason is told.
    let said =
        if answer.status == 201 { server.native(&name, "").expect(200).text() } else { answer.expect(400).text() };
    assert!(said.contains("the moon is in the wrong phase"), "{said}");
    server.request("DELETE", &format!("/del/{name}"), &[], b"");
}

per_language! {
    the_first_call_is_cold_and_the_next_are_warm
    code_is_replaced_atomically_under_load
    what_runs_ends_on_the_code_it_began_with
    what_runs_ends_although_the_function_is_deleted
    the_functions_concurrency_is_a_limit
    a_cold_burst_is_served
    an_unusually_slow_call_does_not_hold_up_the_next
    one_instance_serves_several_when_it_may
    frozen_instances_thaw_and_idle_ones_end
    a_functions_own_keep_alive_wins
    templates_of_idle_functions_go_and_come_back
    a_snapshot_initialises_once
    clones_of_a_snapshot_are_boxed_like_others
    a_snapshot_that_cannot_be_made_says_why
}

/// A caller that hangs up frees its instance and its place at once.
#[test]
fn a_caller_that_leaves_holds_nothing() {
    let server = SERVER.get();
    server.deploy("abandoned", &Lang::Node.zip("sleeps"), &[("concurrency", "1"), ("timeout", "60s")]);
    for _ in 0..5 {
        let mut caller = server.connect();
        caller.send(b"POST /invoke/abandoned HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n50000").unwrap();
        thread::sleep(Duration::from_millis(150));
    }
    eventually("the only place is free again", PATIENCE, || server.invoke("abandoned", "1").status == 200);
    server.delete("abandoned");
}

/// Deploy, call, delete, fifty times: nothing piles up.
#[test]
fn a_hundred_short_lives_leave_nothing() {
    let server = Server::start(&["--prewarm=false"]);
    let round = |n: usize| {
        let lang = Lang::ALL[n % 2];
        let fields: &[(&str, &str)] = if n.is_multiple_of(5) { &[("snapshot", "on")] } else { &[] };
        server.deploy("mayfly", &lang.zip("counter"), fields);
        assert_eq!(server.invoke("mayfly", "").expect(200).json()["count"], 1);
        server.delete("mayfly");
    };
    (0..10).for_each(round);
    eventually("quiet", PATIENCE, || server.usage().instances == 0);
    let before = server.usage();
    (0..90).for_each(round);
    server.settles_to(&before);
    assert_eq!(server.get("/info").json(), json!({"count": 0, "functions": []}));
}

/// The account in the log is in AWS's words.
#[test]
fn golden_report_lines() {
    let server = SERVER.get();
    server.deploy("reported", &Lang::Node.inline("1"), &[]);
    let ids: Vec<String> = (0..2)
        .map(|_| server.invoke("reported", "").expect(200).header("offshoot-request-id").unwrap().to_owned())
        .collect();
    eventually("both are reported", PATIENCE, || {
        server.logs("reported").iter().filter(|l| l.starts_with("REPORT")).count() == 2
    });
    let mut text = server.logs("reported").join("\n");
    for id in &ids {
        text = text.replace(id, "<id>");
    }
    let mut plain = String::new();
    let mut digits = false;
    for c in text.replace("128 MB", "<memory> MB").replace('\t', "<tab>").chars() {
        let number = c.is_ascii_digit() || (digits && c == '.');
        if number && !digits {
            plain.push('N');
        }
        if !number {
            plain.push(c);
        }
        digits = number;
    }
    crate::harness::golden("report.txt", &plain);
}
