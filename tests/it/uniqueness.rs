//! A thousand instances cloned from one process must not share a single random value, wherever they draw it from.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use crate::harness::{Lang, Server, lock, parallel, per_language, skip};

/// Sources that must be there: one that a function no longer reports would be compared with nothing.
const NODE_SOURCES: &[&str] = &[
    "Math.random",
    "Math.random kept",
    "crypto.randomUUID",
    "crypto.randomBytes",
    "getRandomValues",
    "generateKey",
    "mkdtemp",
];
const PYTHON_SOURCES: &[&str] =
    &["random.random", "random kept", "uuid1", "uuid4", "secrets", "os.urandom", "ssl.RAND_bytes", "tempfile"];

const RUBY_SOURCES: &[&str] = &[
    "rand",
    "rand kept",
    "Random.new",
    "Random.bytes",
    "Random.seed",
    "SecureRandom.uuid",
    "SecureRandom.bytes",
    "OpenSSL::Random",
    "OpenSSL::PKey",
    "Dir::Tmpname",
];

/// Instances that are looked at.
const CLONES: usize = 1000;

fn values_of_clones(lang: Lang, snapshot: bool) {
    let server = Server::start(&["--prewarm=false"]);
    let kind = if snapshot { "restore" } else { "clone" };
    server.deploy("random", &lang.zip("random"), &[("snapshot", if snapshot { "on" } else { "off" })]);
    let seen: Mutex<Vec<BTreeMap<String, String>>> = Mutex::default();
    parallel(4, |_| {
        let mut connection = server.connect();
        for _ in 0..CLONES * 4 {
            if lock(&seen).len() >= CLONES {
                return;
            }
            let answer = connection.request("POST", "/v1/functions/random/invoke", &[], b"").unwrap();
            // Each instance ends after its answer; a call that meets one on its way out is told so.
            if answer.status != 200
                || answer.header("offshoot-function-error").is_some()
                || answer.header("offshoot-start") != Some(kind)
            {
                continue;
            }
            lock(&seen).push(serde_json::from_slice(&answer.body).unwrap());
        }
    });
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() >= CLONES, "only {} fresh instances of kind {kind} answered", seen.len());
    let required: &[&str] = match lang {
        Lang::Node => NODE_SOURCES,
        Lang::Python => PYTHON_SOURCES,
        Lang::Ruby => RUBY_SOURCES,
    };
    for name in required {
        assert!(seen[0].contains_key(*name), "the function does not report {name}: {:?}", seen[0].keys());
    }
    let sources: Vec<&String> = seen[0].keys().collect();
    assert!(sources.len() >= 10, "{sources:?}");
    let repeated: Vec<String> = sources
        .iter()
        .filter_map(|source| {
            let distinct: HashSet<&String> = seen.iter().map(|values| &values[*source]).collect();
            (distinct.len() < seen.len())
                .then(|| format!("{source}: {} values in {} instances", distinct.len(), seen.len()))
        })
        .collect();
    assert!(repeated.is_empty(), "clones repeat each other: {repeated:#?}");
    if lang == Lang::Python && !seen[0].contains_key("numpy.random") {
        skip("uniqueness: numpy.random", "this machine's Python has no numpy");
    }
}

fn clones_share_no_random_value(lang: Lang) {
    values_of_clones(lang, false);
}

fn clones_of_a_snapshot_share_no_random_value(lang: Lang) {
    values_of_clones(lang, true);
}

per_language! {
    clones_share_no_random_value
    clones_of_a_snapshot_share_no_random_value
}
