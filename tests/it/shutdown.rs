//! The end of the server: asked for, insisted on, and sudden.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Conn, Lang, PATIENCE, Server, eventually};

#[test]
fn sigterm_lets_running_calls_end() {
    for signal in ["TERM", "INT"] {
        let server = Server::start(&[]);
        server.deploy("slow", &Lang::Node.zip("sleeps"), &[]);
        server.invoke("slow", "1").expect(200);
        let idle = Conn::open(server.port).unwrap();
        thread::scope(|scope| {
            let running: Vec<_> = (0..3).map(|_| scope.spawn(|| server.invoke("slow", "1500"))).collect();
            thread::sleep(Duration::from_millis(400));
            server.family();
            server.signal(signal);
            thread::sleep(Duration::from_millis(200));
            // New work is refused, by a closed door or in words.
            if let Ok(answer) = Conn::open(server.port).and_then(|mut c| c.request("POST", "/invoke/slow", &[], b"1")) {
                assert_eq!(answer.status, 503, "{}", answer.text());
            }
            for call in running {
                assert_eq!(call.join().unwrap().expect(200).json()["slept"], 1500);
            }
        });
        assert_eq!(server.wait(PATIENCE), Some(0));
        drop(idle);
        eventually("nothing is left", PATIENCE, || server.usage().processes == 0);
        assert_eq!((server.cgroups(), server.usage().mounts), (Vec::new(), 0));
    }
}

#[test]
fn a_second_signal_ends_the_server_now() {
    let server = Server::start(&[]);
    server.deploy("slow", &Lang::Python.zip("sleeps"), &[("timeout", "120s")]);
    server.invoke("slow", "1").expect(200);
    thread::scope(|scope| {
        let running = scope.spawn(|| Conn::open(server.port).unwrap().request("POST", "/invoke/slow", &[], b"100000"));
        thread::sleep(Duration::from_millis(300));
        server.family();
        server.signal("TERM");
        thread::sleep(Duration::from_millis(300));
        assert!(server.running(), "the first signal waits for what runs");
        let asked = Instant::now();
        server.signal("TERM");
        server.wait(Duration::from_secs(10));
        assert!(asked.elapsed() < Duration::from_secs(10));
        // The caller is told, or its connection ends; it is never left waiting.
        if let Ok(answer) = running.join().unwrap() {
            assert!(answer.status >= 500, "{} {}", answer.status, answer.text());
        }
    });
    eventually("nothing is left", PATIENCE, || server.usage().processes == 0);
}

#[test]
fn the_drain_has_an_end() {
    let server = Server::start(&["--drain-ms", "700"]);
    server.deploy("endless", &Lang::Node.zip("hangs"), &[("timeout", "300s")]);
    thread::scope(|scope| {
        scope.spawn(|| Conn::open(server.port).unwrap().request("POST", "/invoke/endless", &[], b""));
        thread::sleep(Duration::from_millis(500));
        server.family();
        server.signal("TERM");
        server.wait(PATIENCE);
    });
    eventually("nothing is left", PATIENCE, || server.usage().processes == 0);
    assert_eq!((server.cgroups(), server.usage().mounts), (Vec::new(), 0));
}

#[test]
fn after_sigkill_nothing_runs_and_a_restart_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_on(&data, &[]);
    for lang in Lang::ALL {
        for case in ["sleeps", "background"] {
            server.deploy(&format!("{case}-{}", lang.dir()), &lang.zip(case), &[]);
        }
        server.deploy(&format!("snap-{}", lang.dir()), &lang.zip("counter"), &[("snapshot", "on")]);
    }
    thread::scope(|scope| {
        for lang in Lang::ALL {
            for case in ["sleeps", "background"] {
                let server = &server;
                scope.spawn(move || {
                    Conn::open(server.port).unwrap().request(
                        "POST",
                        &format!("/invoke/{case}-{}", lang.dir()),
                        &[],
                        b"5000",
                    )
                });
            }
        }
        thread::sleep(Duration::from_millis(700));
        assert!(server.boxed().len() >= 6);
        server.kill();
    });
    assert_eq!(server.usage().mounts, 0);
    let after = Server::start_on(&data, &[]);
    eventually("what the crash left is cleared", PATIENCE, || after.temporary().is_empty());
    assert_eq!(after.get("/info").json()["count"], 6);
    for lang in Lang::ALL {
        after.invoke(&format!("sleeps-{}", lang.dir()), "1").expect(200);
        after.invoke(&format!("snap-{}", lang.dir()), "").expect(200);
    }
    after.clear();
    after.stop();
}

/// Frozen processes cannot die by themselves; whatever ends the server has to see to it.
#[test]
fn frozen_instances_end_with_the_server_too() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for sudden in [false, true] {
        let server = Server::start_as(&data, 297_000_000, &["--freeze-after-ms", "200", "--prewarm=false"]);
        for lang in Lang::ALL {
            let name = server.deploy_case(lang, "counter", &[]);
            server.invoke(&name, "").expect(200);
        }
        thread::sleep(Duration::from_millis(2500));
        assert_eq!(server.boxed().len(), 2);
        if sudden { server.kill() } else { server.stop() }
    }
}

/// When server and nursery are killed at once, nobody is left to thaw what lies frozen: the next start has to.
#[test]
fn what_lies_frozen_when_everything_is_killed_ends_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_as(&data, 296_000_000, &["--freeze-after-ms", "200", "--prewarm=false"]);
    for lang in Lang::ALL {
        let name = server.deploy_case(lang, "counter", &[]);
        server.invoke(&name, "").expect(200);
    }
    thread::sleep(Duration::from_millis(2500));
    let boxed = server.boxed();
    assert_eq!(boxed.len(), 2);
    // Stopped first, so that it cannot clear up after its nursery.
    server.signal("STOP");
    server.family().iter().filter(|p| p.name == "offshoot").for_each(|nursery| nursery.signal("KILL"));
    server.signal("KILL");
    assert_eq!(server.wait(PATIENCE), None);
    let after = Server::start_as(&data, 298_100_000, &[]);
    eventually("what lay frozen has ended", PATIENCE, || boxed.iter().all(|p| !p.alive()));
    after.clear();
    after.stop();
}

/// Two servers on one data directory would undo each other's work.
#[test]
fn a_data_directory_has_one_server() {
    let server = Server::start(&[]);
    let port = crate::harness::free_port();
    let second = Server::command(&server.data, port, 900_000_000, &[]).output().unwrap();
    assert_ne!(second.status.code(), Some(0));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("data directory") && !said.contains("panicked"), "{said}");
    server.is_well();
    // And a port has one server.
    let other = tempfile::tempdir().unwrap();
    let third = Server::command(other.path(), server.port, 900_010_000, &[]).output().unwrap();
    assert_ne!(third.status.code(), Some(0));
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert!(said.contains(&server.port.to_string()) && said.contains("in use"), "{said}");
}
