//! Sudden death: of the server in the middle of deployments, of templates, of everything. What was acknowledged is there
//! afterwards, what was not is whole or absent, and no call is lost for a template that died.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Conn, Lang, PATIENCE, Random, Server, eventually, form, parallel, per_language};

/// What a client knows of one name: the last state that was acknowledged, and what may have happened since.
#[derive(Debug, Clone, Default)]
struct Known {
    /// `None`: deleted, or never there.
    acknowledged: Option<u64>,
    /// Asked for, but not answered.
    asked: Option<Option<u64>>,
}

fn code(version: u64) -> Vec<u8> {
    Lang::Node.inline(&version.to_string())
}

/// Deploys, deploys again and deletes until the server dies; returns what it knows then.
fn work(port: u16, name: &str, mut known: Known, version: &mut u64, random: &mut Random) -> Known {
    let Ok(mut connection) = Conn::open(port) else { return known };
    loop {
        *version += 1;
        let delete = known.acknowledged.is_some() && random.below(3) == 0;
        known.asked = Some(if delete { None } else { Some(*version) });
        let answer = if delete {
            connection.request("DELETE", &format!("/del/{name}"), &[], b"")
        } else {
            let (kind, body) = form(&[("funcName", name)], Some(("f.zip", &code(*version))));
            connection.request("POST", "/deploy", &[("Content-Type", &kind)], &body)
        };
        match answer {
            Ok(answer) if answer.status == if delete { 204 } else { 201 } => {
                known.acknowledged = known.asked.take().unwrap()
            }
            Ok(answer) => panic!("{name}: {} {}", answer.status, answer.text()),
            Err(_) => return known,
        }
    }
}

#[test]
fn kill_nine_in_the_middle_of_deployments() {
    let seed = Random::seed();
    eprintln!("SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut random = Random::new(seed);
    let names = ["alpha", "beta", "gamma"];
    let mut known: BTreeMap<&str, Known> = names.iter().map(|n| (*n, Known::default())).collect();
    let mut versions = [0u64; 3];
    let mut changes = 0;
    for round in 0..25 {
        // The same user ids each time: what a killed server left would be in the way of the next.
        let server = Server::start_as(&data, 299_000_000, &[]);
        check(&server, &mut known, seed, round);
        let (port, pause, seeds) = (server.port, 3 + random.below(150), [random.next(), random.next(), random.next()]);
        let before = versions;
        let results: Vec<(Known, u64)> = thread::scope(|scope| {
            let workers: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(i, name)| {
                    let (mine, mut version) = (known[name].clone(), versions[i]);
                    scope.spawn(move || (work(port, name, mine, &mut version, &mut Random::new(seeds[i])), version))
                })
                .collect();
            thread::sleep(Duration::from_millis(pause));
            server.kill();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        for (i, (state, version)) in results.into_iter().enumerate() {
            known.insert(names[i], state);
            versions[i] = version;
            changes += version - before[i];
        }
    }
    assert!(changes > 100, "only {changes} changes in 25 lives");
    let server = Server::start_as(&data, 299_000_000, &[]);
    check(&server, &mut known, seed, 99);
    server.clear();
    assert_eq!(server.get("/info").json()["count"], 0);
}

/// The store, the code and the answers agree with what clients know.
fn check(server: &Server, known: &mut BTreeMap<&str, Known>, seed: u64, round: usize) {
    // It is cleared beside the first requests, not before them.
    eventually(&format!("SEED={seed} round {round}: what the crash left is cleared"), PATIENCE, || {
        server.temporary().is_empty()
    });
    let listed = server.get("/info").expect(200).json();
    let mut referred = Vec::new();
    for (name, state) in known.iter_mut() {
        let found = listed["functions"].as_array().unwrap().iter().find(|f| f["name"] == *name);
        let allowed: Vec<Option<u64>> = [Some(state.acknowledged), state.asked].into_iter().flatten().collect();
        let now = found.map(|f| {
            referred.push(f["codeSha256"].as_str().unwrap().to_owned());
            server.invoke(name, "").expect(200).json().as_u64().unwrap()
        });
        assert!(allowed.contains(&now), "SEED={seed} round {round}: {name} is {now:?}, allowed is {allowed:?}");
        *state = Known { acknowledged: now, asked: None };
    }
    for digest in referred {
        let manifest: Value =
            serde_json::from_slice(&fs::read(server.data.join("code.meta").join(format!("{digest}.json"))).unwrap())
                .unwrap();
        assert!(manifest.is_object());
        assert!(server.data.join("code").join(&digest).join("index.js").is_file());
    }
}

/// The counters of a killed server may lag a second, never more, and never count what was not called.
#[test]
fn counters_survive_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_on(&data, &[]);
    server.deploy("counted", &Lang::Node.inline("1"), &[]);
    (0..40).for_each(|_| drop(server.invoke("counted", "").expect(200)));
    thread::sleep(Duration::from_millis(2500));
    server.kill();
    let server = Server::start_on(&data, &[]);
    assert_eq!(server.get("/info/counted").json()["invokeCount"], 40);
    server.invoke("counted", "").expect(200);
    server.stop();
    let server = Server::start_on(&data, &[]);
    assert_eq!(server.get("/info/counted").json()["invokeCount"], 41, "a clean end loses nothing");
}

/// A template dies again and again while functions start from it: nobody notices more than a slower start.
fn no_call_is_lost_when_a_template_dies(lang: Lang) {
    let server = Server::start(&[]);
    server.deploy("fn", &lang.zip("echo"), &[]);
    assert_eq!(server.native("fn", "x").expect(200).header("offshoot-start"), Some("clone"));
    let mut kills = 0;
    for round in 0..8 {
        let templates = server.language_templates();
        thread::scope(|scope| {
            let calls: Vec<_> = (0..6)
                .map(|i| {
                    let server = &server;
                    scope.spawn(move || {
                        // A new version has no instances: this call must start one.
                        if i == 0 {
                            server.post("/config/fn", format!("{{\"env\":{{\"ROUND\":\"{round}\"}}}}")).expect(200);
                        }
                        server.native("fn", "x")
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(round));
            for template in &templates {
                template.signal("KILL");
                kills += 1;
            }
            for call in calls {
                let answer = call.join().unwrap().expect(200);
                assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
            }
        });
        eventually("there is a template again", PATIENCE, || {
            server
                .post(
                    "/config/fn",
                    format!("{{\"env\":{{\"AGAIN\":\"{round}-{:?}\"}}}}", std::time::Instant::now())
                        .replace("Instant { ", "")
                        .replace(" }", ""),
                )
                .expect(200);
            server.native("fn", "x").expect(200).header("offshoot-start") == Some("clone")
        });
    }
    assert!(kills >= 8, "only {kills} templates were killed");
    server.is_well();
}

/// A template that hangs is worse than a dead one: starts go on without it.
fn a_stopped_template_is_left_behind(lang: Lang) {
    let server = Server::start(&[]);
    server.deploy("fn", &lang.zip("echo"), &[]);
    server.native("fn", "x").expect(200);
    let templates = server.language_templates();
    assert!(!templates.is_empty(), "no template of {lang:?} among {:?}", server.family());
    templates.iter().for_each(|t| t.signal("STOP"));
    server.post("/config/fn", r#"{"env":{"A":"1"}}"#).expect(200);
    let answers = parallel(3, |_| server.native("fn", "x").expect(200));
    for answer in &answers {
        assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
    }
    assert!(
        answers.iter().any(|a| a.header("offshoot-start") == Some("boot")),
        "the first start has nothing to be cloned from"
    );
    eventually("the hung template is gone", PATIENCE, || templates.iter().all(|t| !t.alive()));
    server.is_well();
}

/// The same for the template of one function.
fn a_killed_snapshot_is_made_again(lang: Lang) {
    let server = Server::start(&["--prewarm=false"]);
    server.deploy("snap", &lang.zip("random"), &[("snapshot", "on")]);
    assert_eq!(server.native("snap", "").expect(200).header("offshoot-start"), Some("restore"));
    for _ in 0..5 {
        server.boxed().iter().for_each(|p| p.signal("KILL"));
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let answer = server.native("snap", "").expect(200);
            // Each instance ends after its answer; only a call that met one on its way out may fail.
            let cause = answer.header("offshoot-function-error");
            assert!(matches!(cause, None | Some("exit")), "{cause:?}: {}", answer.text());
            kinds.extend(answer.header("offshoot-start").map(str::to_owned));
            thread::sleep(Duration::from_millis(20));
        }
        assert!(kinds.iter().any(|k| k == "restore" || k == "clone"), "{kinds:?}");
    }
    server.is_well();
}

/// Instances that are idle when they are killed cost their next caller a start, not an error.
fn killed_idle_instances_are_replaced(lang: Lang) {
    let server = Server::start(&["--prewarm=false"]);
    server.deploy("fn", &lang.zip("counter"), &[]);
    for _ in 0..20 {
        assert_eq!(server.invoke("fn", "").expect(200).json()["count"], 1);
        server.boxed().iter().for_each(|p| p.signal("KILL"));
        eventually("it is dead", PATIENCE, || server.boxed().is_empty());
        // The server hears of it a moment later.
        thread::sleep(Duration::from_millis(100));
    }
}

/// Stopped, not dead: the time limit holds all the same.
fn a_stopped_instance_times_out(lang: Lang) {
    let server = Server::start(&["--prewarm=false"]);
    server.deploy("fn", &lang.zip("echo"), &[("timeout", "1s")]);
    server.invoke("fn", "").expect(200);
    server.boxed().iter().for_each(|p| p.signal("STOP"));
    let answer = server.invoke("fn", "").expect(504);
    assert!(answer.error().contains("Task timed out after 1.00 seconds"), "{}", answer.text());
    server.invoke("fn", "").expect(200);
}

per_language! {
    no_call_is_lost_when_a_template_dies
    a_stopped_template_is_left_behind
    a_killed_snapshot_is_made_again
    killed_idle_instances_are_replaced
    a_stopped_instance_times_out
}

/// The nursery is the parent of everything; a server without it must not go on as if nothing had happened.
#[test]
fn without_its_nursery_the_server_recovers_or_ends() {
    let server = Server::start(&[]);
    server.deploy("fn", &Lang::Node.zip("echo"), &[]);
    server.invoke("fn", "x").expect(200);
    let nurseries: Vec<_> = server.family().into_iter().filter(|p| p.parent == server.pid).collect();
    assert!(!nurseries.is_empty());
    nurseries.iter().for_each(|p| p.signal("KILL"));
    let family = server.family();
    eventually("all below it died with it", PATIENCE, || {
        family.iter().filter(|p| p.alive() && p.parent != server.pid).count() == 0
    });
    let serves = || {
        !server.running()
            || Conn::open(server.port)
                .and_then(|mut c| c.request("POST", "/invoke/fn", &[], b"x"))
                .is_ok_and(|a| a.status == 200)
    };
    eventually("it serves again, or has ended", PATIENCE, serves);
}

/// A bit that tips over in the registry must be noticed, not served.
#[test]
fn a_damaged_registry_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_on(&data, &[]);
    server.deploy("fn", &Lang::Node.zip("echo"), &[]);
    server.stop();
    let file = data.join("registry.db");
    let good = fs::read(&file).unwrap();
    for (what, bytes) in [
        ("cut", good[..good.len() / 2].to_vec()),
        ("overwritten", vec![0xa5; good.len()]),
        ("no head", [vec![0; 100], good[100..].to_vec()].concat()),
    ] {
        fs::write(&file, bytes).unwrap();
        let port = crate::harness::free_port();
        let mut command = Server::command(&data, port, 298_000_000, &[]);
        let out = dir.path().join("out");
        command.stderr(fs::File::create(&out).unwrap()).stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut status = None;
        for _ in 0..100 {
            status = child.try_wait().unwrap();
            if status.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let said = fs::read_to_string(&out).unwrap();
        let code = status.unwrap_or_else(|| panic!("{what}: it serves a damaged registry")).code();
        assert!(
            code.is_some_and(|c| c != 0) && said.contains("registry") && !said.contains("panicked"),
            "{what}: {code:?} {said}"
        );
    }
    fs::write(&file, good).unwrap();
    let server = Server::start_on(&data, &[]);
    server.invoke("fn", "x").expect(200);
}
