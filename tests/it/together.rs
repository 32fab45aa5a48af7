//! Quick calls that are sent one behind the other (docs/design/002-channel.md, "Claims"): none waits behind a long one,
//! none is begun twice, and whoever goes away takes nobody along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Conn, Lang, Server, Shared, parallel, per_language};

static SERVER: Shared = Shared::new(&["--prewarm=false"]);
/// Calls that are quick, by this many callers.
const CALLERS: usize = 6;
const QUICK: usize = 500;
/// How long the others take, in milliseconds.
const LONG: u64 = 5000;

fn deploy(server: &Server, lang: Lang) -> String {
    server.deploy_case(lang, "moody", &[("memory", "1769")])
}

/// What a caller learnt: which call of which instance answered, and how long it took.
fn call(connection: &mut Conn, name: &str, body: &str) -> (String, u64, Duration) {
    let asked = Instant::now();
    let answer = connection.request("POST", &format!("/invoke/{name}"), &[], body.as_bytes()).unwrap().expect(200);
    let said = answer.json();
    assert_eq!(said["asked"], body, "somebody else's answer");
    (said["born"].as_str().unwrap().to_owned(), said["begun"].as_u64().unwrap(), asked.elapsed())
}

fn quick_calls_stay_quick_beside_long_ones(lang: Lang) {
    let server = SERVER.get();
    let name = deploy(&server, lang);
    let answers: Vec<_> = thread::scope(|scope| {
        let long = scope.spawn(|| {
            let mut connection = server.connect();
            (0..2).map(|_| call(&mut connection, &name, &LONG.to_string())).collect::<Vec<_>>()
        });
        let quick = parallel(CALLERS, |_| {
            let mut connection = server.connect();
            (0..QUICK).map(|_| call(&mut connection, &name, "")).collect::<Vec<_>>()
        });
        let slowest = quick.iter().flatten().map(|(_, _, took)| *took).max().unwrap();
        assert!(slowest < Duration::from_millis(LONG * 2 / 3), "a quick call took {slowest:?}");
        quick.into_iter().flatten().chain(long.join().unwrap()).collect()
    });
    // On each instance the calls are numbered as they begin: with each number answered once, none was begun in vain.
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    answers.iter().for_each(|(born, begun, _)| seen.entry(born.clone()).or_default().push(*begun));
    for numbers in seen.values_mut() {
        numbers.sort_unstable();
        assert_eq!(*numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    }
    // A call that was withdrawn begins in the log where it ran, and nowhere else.
    let lines = server.logs(&name);
    let count = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!(count("START"), count("END"));
    server.delete(&name);
}

fn callers_that_go_away_take_nobody_along(lang: Lang) {
    let server = SERVER.get();
    let name = deploy(&server, lang);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let request = format!("POST /invoke/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
            while !done.load(Ordering::Relaxed) {
                let mut gone = server.connect();
                gone.send(request.as_bytes()).ok();
                drop(gone);
                thread::sleep(Duration::from_millis(3));
            }
        });
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = server.connect();
                    (0..QUICK).for_each(|_| drop(call(&mut connection, &name, "")));
                })
            })
            .collect();
        let ended: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.unwrap());
    });
    server.delete(&name);
    server.is_well();
}

/// Libraries close what they do not know and patch modules of the language: that costs speed, and no instance.
fn meddling_costs_no_instances(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "meddles", &[("memory", "1769")]);
    let born: BTreeSet<_> = parallel(CALLERS, |_| {
        let mut connection = server.connect();
        (0..QUICK).map(|_| call(&mut connection, &name, "").0).collect::<Vec<_>>()
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(born.len() <= 3 * CALLERS, "{} instances for {CALLERS} callers", born.len());
    server.delete(&name);
    server.is_well();
}

per_language! {
    meddling_costs_no_instances
    quick_calls_stay_quick_beside_long_ones
    callers_that_go_away_take_nobody_along
}
