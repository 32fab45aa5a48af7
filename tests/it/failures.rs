//! Every way in which a function can fail: its own cause, its status, its words; and each time the next call works and
//! another function notices nothing.

use serde_json::json;

use crate::harness::{Lang, PATIENCE, Server, Shared, eventually, per_language};

static SERVER: Shared = Shared::new(&["--limits-init-ms", "1500"]);

/// Calls natively and by Glambdar's route, checks cause and status, and gives back the error's type and message.
#[track_caller]
fn fails(server: &Server, name: &str, body: &str, cause: &str, status: u16) -> (String, String) {
    let native = server.native(name, body).expect(200);
    assert_eq!(native.header("offshoot-function-error"), Some(cause), "{}", native.text());
    let error = native.json();
    let text = |key: &str| error[key].as_str().unwrap_or_else(|| panic!("no {key} in {error}")).to_owned();
    let glambdar = server.invoke(name, body).expect(status).json();
    assert_eq!(glambdar["errorType"], error["errorType"]);
    let id = native.header("offshoot-request-id").unwrap();
    let tail = server.request("GET", &format!("/logs/{name}?requestId={id}"), &[], b"");
    assert_eq!(tail.status, 200);
    for said in [native.text(), glambdar.to_string()] {
        assert!(!said.contains(server.data.to_str().unwrap()), "a path of the host: {said}");
    }
    (text("errorType"), text("errorMessage"))
}

/// Deploys the case beside a neighbour that counts; runs the check; then the function (mended) and the neighbour must be as
/// if nothing had happened.
#[track_caller]
fn beside_a_neighbour(lang: Lang, case: &str, fields: &[(&str, &str)], check: impl FnOnce(&Server, &str)) {
    let server = SERVER.get();
    let neighbour = format!("by-{case}-{}", lang.dir());
    server.deploy(&neighbour, &lang.zip("counter"), &[]);
    let before = server.invoke(&neighbour, "").expect(200).json();
    let name = server.deploy_case(lang, case, fields);
    check(&server, &name);
    let after = server.invoke(&neighbour, "").expect(200).json();
    assert_eq!((after["count"].as_u64(), &after["born"]), (Some(2), &before["born"]), "the neighbour was disturbed");
    server.deploy(&name, &lang.zip("echo"), &[("timeout", "30s"), ("memory", "128")]);
    server.invoke(&name, "mended").expect(200);
    server.delete(&name);
    server.delete(&neighbour);
    server.is_well();
}

fn hangs(lang: Lang) {
    beside_a_neighbour(lang, "hangs", &[("timeout", "400ms")], |server, name| {
        let (kind, message) = fails(server, name, "", "timeout", 504);
        assert_eq!(kind, "Sandbox.Timedout");
        assert!(message.ends_with("Task timed out after 0.40 seconds"), "{message}");
    });
}

fn spins(lang: Lang) {
    beside_a_neighbour(lang, "spins", &[("timeout", "1s")], |server, name| {
        let (kind, message) = fails(server, name, "", "timeout", 504);
        assert_eq!(
            (kind.as_str(), message.ends_with("Task timed out after 1.00 seconds")),
            ("Sandbox.Timedout", true),
            "{message}"
        );
        eventually("nothing spins on", PATIENCE, || !server.boxed().iter().any(|p| p.state == 'R'));
    });
}

fn crashes(lang: Lang) {
    beside_a_neighbour(lang, "crashes", &[], |server, name| {
        let (kind, message) = fails(server, name, "", "exit", 502);
        assert_eq!(kind, "Runtime.ExitError");
        // The first process of a PID namespace cannot abort itself: the C library then runs into an illegal instruction.
        let signals = [
            "signal: segmentation fault",
            "signal: aborted",
            "signal: illegal instruction",
            "signal: trace/breakpoint trap",
        ];
        assert!(signals.iter().any(|s| message.contains(s)), "{message}");
    });
}

fn exits(lang: Lang) {
    beside_a_neighbour(lang, "exits", &[], |server, name| {
        let (kind, message) = fails(server, name, "", "exit", 502);
        assert_eq!(kind, "Runtime.ExitError");
        assert!(message.ends_with("Runtime exited without providing a reason"), "{message}");
    });
}

fn exits_one(lang: Lang) {
    beside_a_neighbour(lang, "exits_one", &[], |server, name| {
        let (kind, message) = fails(server, name, "", "exit", 502);
        assert_eq!(kind, "Runtime.ExitError");
        assert!(message.ends_with("exit status 1"), "{message}");
    });
}

fn eats_memory(lang: Lang) {
    let ways: &[&str] = match lang {
        Lang::Node => &["buffers", "tmp"],
        Lang::Python => &["heap", "mmap", "tmp", "memfd"],
        Lang::Ruby => &["heap", "objects", "tmp"],
    };
    beside_a_neighbour(
        lang,
        "eats_memory",
        &[("memory", "128"), ("timeout", "30s"), ("tmp", "1024")],
        |server, name| {
            for way in ways {
                let (kind, message) = fails(server, name, way, "out-of-memory", 502);
                assert_eq!(kind, "Runtime.OutOfMemory", "{way}");
                assert!(message.contains("out of memory") || message.contains("signal: killed"), "{way}: {message}");
            }
            let report = server.native(name, ways[0]).expect(200);
            let (peak, limit) = report
                .header("offshoot-memory")
                .unwrap()
                .split_once('/')
                .map(|(a, b)| (a.parse::<u64>().unwrap(), b.parse::<u64>().unwrap()))
                .unwrap();
            assert_eq!(limit, 128 << 20);
            assert!(peak >= limit * 9 / 10, "{peak}");
        },
    );
}

fn big_reply(lang: Lang) {
    beside_a_neighbour(lang, "big_reply", &[("memory", "256")], |server, name| {
        let most = (6 << 20) + 100;
        assert_eq!(server.invoke(name, most.to_string()).expect(200).body.len(), most);
        let (kind, message) = fails(server, name, &(most + 1).to_string(), "reply-too-large", 502);
        assert_eq!(kind, "Function.ResponseSizeTooLarge");
        assert!(message.contains(&most.to_string()), "{message}");
        fails(server, name, &(20 << 20).to_string(), "reply-too-large", 502);
        server.invoke(name, "10").expect(200);
    });
}

fn init_fails(lang: Lang) {
    beside_a_neighbour(lang, "init_fails", &[], |server, name| {
        let (kind, message) = fails(server, name, "", "init", 500);
        let own = match lang {
            Lang::Node => "RangeError",
            Lang::Python => "ValueError",
            Lang::Ruby => "ArgumentError",
        };
        assert_eq!(kind, own);
        assert_eq!(message, "the moon is in the wrong phase");
        eventually("what it printed is in the log", PATIENCE, || {
            server.logs(name).iter().any(|l| l == "about to fail")
        });
    });
}

fn init_exits(lang: Lang) {
    beside_a_neighbour(lang, "init_exits", &[], |server, name| {
        let (kind, message) = fails(server, name, "", "init", 500);
        assert!(message.contains("exit status 3"), "{kind}: {message}");
    });
}

fn init_hangs(lang: Lang) {
    beside_a_neighbour(lang, "init_hangs", &[], |server, name| {
        let (_, message) = fails(server, name, "", "init", 500);
        assert!(message.contains("timed out after 1.50 seconds"), "{message}");
        eventually("nothing spins on", PATIENCE, || !server.boxed().iter().any(|p| p.state == 'R'));
    });
}

fn init_slow(lang: Lang) {
    beside_a_neighbour(lang, "init_slow", &[], |server, name| {
        let first = server.native(name, "").expect(200);
        assert_eq!((first.json(), first.header("offshoot-function-error")), (json!("ready at last"), None));
        let init = timing(first.header("offshoot-timing").unwrap(), "init");
        assert!((500.0..1500.0).contains(&init), "an initialisation of half a second is shown as {init} ms");
        let second = server.native(name, "").expect(200);
        assert_eq!(timing(second.header("offshoot-timing").unwrap(), "init"), 0.0);
    });
}

fn timing(header: &str, phase: &str) -> f64 {
    let found = header.split(';').find_map(|p| p.strip_prefix(phase)?.strip_prefix('=')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {phase} in {header}"))
}

/// The first answer counts; who gives a second one is not asked again.
fn double_reply(lang: Lang) {
    beside_a_neighbour(lang, "double_reply", &[], |server, name| {
        for _ in 0..20 {
            let answer = server.invoke(name, "");
            // Exactly one outcome: the first answer, or (when this call met the instance just before it was stopped) a clear error.
            assert!(
                (answer.status == 200 && answer.text() == "forged") || answer.status == 502,
                "{} {}",
                answer.status,
                answer.text()
            );
        }
        let found = || server.logs(name).iter().any(|l| l.contains("protocol error"));
        eventually("the log says why the instance was stopped", PATIENCE, found);
    });
}

fn garbage(lang: Lang) {
    beside_a_neighbour(lang, "garbage", &[("timeout", "2s")], |server, name| {
        for what in ["noise", "huge_header", "not_json", "unknown", "again_ready", "foreign", "deep", "many"] {
            let (kind, _) = fails(server, name, what, "protocol", 502);
            assert_eq!(kind, "Runtime.ProtocolError", "{what}");
        }
        let (kind, _) = fails(server, name, "huge_body", "reply-too-large", 502);
        assert_eq!(kind, "Function.ResponseSizeTooLarge");
        fails(server, name, "partial", "timeout", 504);
    });
}

/// A hundred instances fail at the same time, each in its own way; every caller hears of its own failure only.
fn all_at_once(lang: Lang) {
    let server = SERVER.get();
    let suffix = lang.dir();
    let cases =
        [("hangs", 504), ("crashes", 502), ("exits_one", 502), ("fails", 500), ("echo", 200), ("init_fails", 500)];
    for (case, _) in cases {
        server.deploy(&format!("all-{case}-{suffix}"), &lang.zip(case), &[("timeout", "1s")]);
    }
    let statuses = crate::harness::parallel(24, |i| {
        let (case, status) = cases[i % cases.len()];
        let all: Vec<u16> = (0..3).map(|_| server.invoke(&format!("all-{case}-{suffix}"), "").status).collect();
        (case, status, all)
    });
    for (case, status, all) in statuses {
        assert!(all.iter().all(|s| *s == status), "{case}: {all:?}");
    }
    for (case, _) in cases {
        server.delete(&format!("all-{case}-{suffix}"));
    }
    server.is_well();
}

per_language! {
    hangs
    spins
    crashes
    exits
    exits_one
    eats_memory
    big_reply
    init_fails
    init_exits
    init_hangs
    init_slow
    double_reply
    garbage
    all_at_once
}

/// V8 ends the process itself when its heap is full; callers must hear of memory, not of a riddle.
#[test]
fn a_full_javascript_heap_is_out_of_memory() {
    let server = SERVER.get();
    // A name of its own: the test of the same function runs beside this one.
    let name = "eats_and_recovers".to_owned();
    server.deploy(&name, &Lang::Node.zip("eats_memory"), &[("memory", "128"), ("timeout", "30s")]);
    let answer = server.native(&name, "heap").expect(200);
    let cause = answer.header("offshoot-function-error");
    assert_eq!(cause, Some("out-of-memory"), "{}", answer.text());
    server.delete(&name);
}
