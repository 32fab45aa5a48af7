//! What runs beside a runtime: layers at `/opt`, external extensions from them, and how an environment ends. A node without a
//! server around it, because which layers a version has is decided above this floor.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offshoot_model::{FunctionName, Invocation, Limits, RequestId};
use offshoot_node::observe::LogQuery;
use offshoot_node::pool::instance::WorkerAnswer;
use offshoot_node::pool::{Pool, Refusal};
use offshoot_node::queue::{NoCarrier, Pace};
use offshoot_node::runtime::RuntimeOptions;
use offshoot_node::{DeployRequest, Node, NodeConfig, PoolSettings, QueueSettings, Settings, Version, Warm};
use serde_json::{Value, json};

use crate::custom_runtimes::{provided, zip_with_modes};
use crate::harness::{Lang, binary, eventually, processes, root, zip_of};

/// User ids that no server of the other tests has.
static UIDS: AtomicU32 = AtomicU32::new(1_900_000);

struct Ground {
    runtime: tokio::runtime::Runtime,
    node: Arc<Node>,
    dir: tempfile::TempDir,
}

/// A function with its layers, and the shelf of its instances.
struct Function<'a> {
    ground: &'a Ground,
    pool: Arc<Pool>,
    name: FunctionName,
}

impl Ground {
    fn new() -> Self {
        Self::with_spares(0)
    }

    fn with_spares(spares: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        // Boxes run as users of their own, and have to get as far as the code.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let first = UIDS.fetch_add(100, Ordering::Relaxed);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let config = NodeConfig {
            data_dir: dir.path().join("data"),
            limits: Limits { init_ms: 2000, ..Limits::default() },
            pool: PoolSettings {
                keep_alive: Duration::from_secs(600),
                template_keep_alive: Duration::MAX,
                freeze_after: Duration::from_secs(600),
                prewarm: false,
                spares,
                cpu_limits: false,
                place: Default::default(),
            },
            runtimes: RuntimeOptions {
                path_dirs: std::env::split_paths(&path).collect(),
                home: std::env::var_os("HOME").map(Into::into),
                ..RuntimeOptions::default()
            },
            nursery: binary().into(),
            uids: first..first + 100,
            rootless: false,
            without: Default::default(),
            cgroup_root: None,
            warm: Warm::None,
            queue: QueueSettings { pace: Pace { retry_ms: 100 }, carrier: Arc::new(NoCarrier) },
            remote: Arc::new(offshoot_node::sources::NoRemote),
        };
        let node = runtime.block_on(async { Node::start(config).unwrap() });
        Ground { runtime, node, dir }
    }

    fn version(&self, name: &str, archive: &[u8], settings: Settings) -> Arc<Version> {
        let path = self.dir.path().join(format!("{name}.zip"));
        std::fs::write(&path, archive).unwrap();
        let name = FunctionName::parse(name).unwrap();
        let request = DeployRequest { archive: path, name, settings };
        self.runtime.block_on(self.node.deploy(request, offshoot_node::Load::No)).unwrap().version
    }

    /// A function whose `/opt` is this layer.
    fn function(&self, name: &str, archive: &[u8], layer: &[u8], settings: Settings) -> Function<'_> {
        let code = self.version(name, archive, settings);
        // Any code of the store can be shown at /opt; a bootstrap's runtime asks nothing of its files.
        let provided = Settings { runtime: Some("provided".to_owned().try_into().unwrap()), ..Settings::default() };
        let layer = self.version(&format!("{name}-layer"), layer, provided);
        let version = Version {
            config: code.config.clone(),
            revision: code.revision,
            code: code.code.clone(),
            opt: Some(layer.code.clone()),
            code_bytes: code.code_bytes,
            created_ms: code.created_ms,
            updated_ms: code.updated_ms,
            stats: code.stats.clone(),
            number: None,
            fields: None,
        };
        let pool = self.runtime.block_on(async { Pool::new(self.node.shared().clone(), Arc::new(version)) });
        Function { ground: self, pool, name: code.config.name.clone() }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.node.shut_down();
    }
}

impl Function<'_> {
    /// Calls as the invoker does; `Err` is the function's error.
    fn call(&self, event: &Value) -> Result<Value, Value> {
        static CALLS: AtomicU32 = AtomicU32::new(1);
        let id = RequestId::from_random(u128::from(CALLS.fetch_add(1, Ordering::Relaxed)).to_le_bytes());
        let name = self.name.clone();
        let call =
            Invocation { id, function: name, http: None, payload: Bytes::from(event.to_string()), context: None };
        let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
        self.ground.runtime.block_on(async {
            let mut lease = match self.pool.lease(true).await {
                Ok(lease) => lease,
                Err(Refusal::Init(failure)) => return Err(parse(failure.error.body.as_bytes())),
                Err(other) => panic!("{other:?}"),
            };
            let deadline =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64 + 5000;
            let header = json!({"t": "invoke", "id": call.id, "deadline_ms": deadline, "arn": "arn:x:y:z:w:123:f"});
            let header = header.to_string().into_bytes();
            let answer = lease.call(&call.id, &header, &call.payload, 0).await;
            let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.expect("an answer").unwrap();
            match answer.answer {
                WorkerAnswer::Reply { body, .. } => {
                    lease.done(None);
                    Ok(parse(&body))
                }
                WorkerAnswer::Error { body, .. } => {
                    lease.done(None);
                    Err(parse(&body))
                }
                WorkerAnswer::Broken(breach) => Err(json!(format!("{breach:?}"))),
                other => panic!("nobody asked for this: {other:?}"),
            }
        })
    }

    fn retire(&self) {
        let _inside = self.ground.runtime.enter();
        self.pool.retire();
    }

    fn logs(&self) -> Vec<String> {
        let query = LogQuery { limit: Some(10_000), ..LogQuery::default() };
        self.ground.node.logs().read(&self.name, &query).into_iter().map(|e| e.text).collect()
    }

    #[track_caller]
    fn printed(&self, part: &str) -> String {
        let mut found = None;
        eventually(part, Duration::from_secs(5), || {
            found = self.logs().into_iter().find(|l| l.contains(part));
            found.is_some()
        });
        found.unwrap()
    }
}

fn watcher() -> Vec<u8> {
    std::fs::read(root().join("tests/functions/provided/layer/extensions/watcher")).unwrap()
}

/// A layer with these extensions, and a file beside them, so that its one folder is not taken for a wrapping.
fn layer(names: &[&str]) -> Vec<u8> {
    let text = watcher();
    let paths: Vec<String> = names.iter().map(|n| format!("extensions/{n}")).collect();
    let mut files: Vec<(&str, &[u8], u32)> = paths.iter().map(|p| (p.as_str(), &text[..], 0o755)).collect();
    files.push(("python/layered.py", b"NAME = 'layered'\n", 0o644));
    files.push(("nodejs/node_modules/layered/index.js", b"exports.name = 'layered';\n", 0o644));
    zip_with_modes(&files)
}

fn env(pairs: &[(&str, &str)]) -> Settings {
    Settings {
        env: Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
        ..Settings::default()
    }
}

fn lines<'a>(logs: &'a [String], part: &str) -> Vec<&'a String> {
    logs.iter().filter(|l| l.contains(part)).collect()
}

#[test]
fn a_layer_s_bootstrap_is_the_second_that_is_looked_for() {
    let ground = Ground::new();
    let text = std::fs::read(root().join("tests/functions/provided/probe/bootstrap")).unwrap();
    let layer = zip_with_modes(&[("bootstrap", &text, 0o755), ("readme", b"", 0o644)]);
    let provided = Settings { runtime: Some("provided.al2".to_owned().try_into().unwrap()), ..Settings::default() };
    let function = ground.function("layered", &zip_of(&[("app.txt", b"x")]), &layer, provided);
    assert_eq!(function.call(&json!({"do": "look"})).unwrap()["argv"], json!(["/opt/bootstrap"]));
}

#[test]
fn layers_are_there_for_clones_too() {
    let ground = Ground::with_spares(1);
    let python = zip_of(&[("lambda_function.py", b"import layered, os\ndef lambda_handler(event, context):\n    return [layered.NAME, os.access('/opt', os.W_OK), sorted(os.listdir('/opt'))]\n")]);
    let node = zip_of(&[("index.js", b"const l = require('layered'); exports.handler = async () => [l.name, false, require('fs').readdirSync('/opt').sort()];")]);
    let layer = zip_of(&[
        ("python/layered.py", b"NAME = 'layered'\n"),
        ("nodejs/node_modules/layered/index.js", b"exports.name = 'layered';"),
        ("ruby/lib/layered.rb", b"LAYERED = 'layered'\n"),
    ]);
    let ruby = zip_of(&[("lambda_function.rb", b"require 'layered'\ndef lambda_handler(event:, context:)\n  [LAYERED, File.writable?('/opt'), Dir.children('/opt').sort]\nend\n")]);
    let ruby = Lang::Ruby.is_here("layers of clones of Ruby").then_some(("ruby", ruby));
    for (name, code) in [("python", python), ("node", node)].into_iter().chain(ruby) {
        // The first start boots the language's template, which makes a spare; a later one is that spare.
        let mut was_spare = Vec::new();
        for n in 0..3 {
            let event = Settings { convention: Some(offshoot_model::Convention::Event), ..Settings::default() };
            let function = ground.function(&format!("{name}-{n}"), &code, &layer, event);
            let spares: Vec<u32> = processes().iter().filter(|p| p.name == "spare").map(|p| p.pid).collect();
            assert_eq!(function.call(&json!({})).unwrap(), json!(["layered", false, ["nodejs", "python", "ruby"]]));
            let pid = function.pool.pids()[0];
            was_spare.push(spares.contains(&pid));
            std::thread::sleep(Duration::from_millis(500));
        }
        assert!(!was_spare[0] && was_spare.contains(&true), "{name}: {was_spare:?}");
    }
}

#[test]
fn an_extension_is_told_of_every_call_and_of_the_end() {
    let ground = Ground::new();
    let function = ground.function("watched", &provided("probe"), &layer(&["watcher"]), Settings::default());
    for n in 1..=2 {
        assert_eq!(function.call(&json!({"do": "echo"})).unwrap()["calls"], n);
    }
    let about = function.printed("watcher registered");
    let wanted = r#"watcher registered 200 {"accountId": "000000000000", "functionName": "watched", "functionVersion": "$LATEST", "handler": "bootstrap"} []"#;
    assert_eq!(about, wanted);
    eventually("both calls are told", Duration::from_secs(5), || lines(&function.logs(), "\"INVOKE\"").len() == 2);
    let told = function.printed("\"INVOKE\"");
    assert!(told.contains("\"invokedFunctionArn\": \"arn:x:y:z:w:123:f\"") && told.contains("requestId"), "{told}");
    // Two programs, and the init that started them.
    let look = function.call(&json!({"do": "look"})).unwrap();
    assert_eq!(look["procs"].as_array().unwrap().len(), 3, "{}", look["procs"]);
    // They cannot look into it, as they can into themselves.
    assert_eq!((&look["init"], &look["self"]), (&json!("PermissionError"), &json!("ok")));
    let pids = function.pool.pids();
    let began = Instant::now();
    function.retire();
    let end = function.printed("\"SHUTDOWN\"");
    assert!(end.contains("\"shutdownReason\": \"spindown\"") && end.contains("deadlineMs"), "{end}");
    function.printed("watcher leaves");
    eventually("the box is gone", Duration::from_secs(5), || !Path::new(&format!("/proc/{}", pids[0])).exists());
    // It left by itself: nobody had to wait for the end of its time.
    assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
}

#[test]
fn a_call_is_not_over_before_its_extensions_are() {
    let ground = Ground::new();
    let function = ground.function("slow", &provided("probe"), &layer(&["watcher"]), env(&[("EXT", "slow")]));
    function.call(&json!({"do": "echo"})).unwrap();
    let began = Instant::now();
    function.call(&json!({"do": "echo"})).unwrap();
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
}

#[test]
fn extensions_that_fail_end_their_environment() {
    let ground = Ground::new();
    for (mode, kind) in
        [("init-error", "Extension.InitError"), ("exit-first", "Extension.Crash"), ("crash", "Extension.Crash")]
    {
        let name = format!("ext-{mode}");
        let function = ground.function(&name, &provided("probe"), &layer(&["watcher"]), env(&[("EXT", mode)]));
        // The crash races with the answer to the first call, and may as well hit the second.
        let first = function.call(&json!({"do": "sleep", "seconds": 0.5}));
        let error = first.expect_err(mode);
        assert_eq!(error["errorType"], kind, "{mode}: {error}");
        assert!(error["errorMessage"].as_str().unwrap().contains("watcher"), "{error}");
    }
    let eleven: Vec<String> = (0..11).map(|i| format!("e{i:02}")).collect();
    let eleven: Vec<&str> = eleven.iter().map(String::as_str).collect();
    let function = ground.function("eleven", &provided("probe"), &layer(&eleven), Settings::default());
    assert_eq!(function.call(&json!({})).unwrap_err()["errorType"], "Extension.LaunchError");
    let bad = zip_with_modes(&[("extensions/not", b"#!/bin/sh\n", 0o644), ("x", b"", 0o644)]);
    let function = ground.function("not-exec", &provided("probe"), &bad, Settings::default());
    let error = function.call(&json!({})).unwrap_err();
    assert!(error["errorMessage"].as_str().unwrap().contains("/opt/extensions/not: permission denied"), "{error}");
}

#[test]
fn the_runtime_s_end_is_told_although_an_init_stands_between() {
    let ground = Ground::new();
    let function = ground.function("ends", &provided("probe"), &layer(&["watcher"]), Settings::default());
    for (event, words) in [
        (json!({"do": "exit", "code": 5}), "Runtime exited with error: exit status 5"),
        (json!({"do": "signal"}), "Runtime exited with error: signal: segmentation fault"),
    ] {
        let error = function.call(&event).unwrap_err();
        assert_eq!(error["errorType"], "Runtime.ExitError", "{error}");
        let message = error["errorMessage"].as_str().unwrap();
        assert!(message.starts_with("RequestId: ") && message.ends_with(words), "{message}");
    }
    let small = Settings { memory: Some(offshoot_model::MiB(96)), ..Settings::default() };
    let function = ground.function("eats", &provided("probe"), &layer(&["watcher"]), small);
    let error = function.call(&json!({"do": "eat", "mib": 200})).unwrap_err();
    assert!(error["errorMessage"].as_str().unwrap().ends_with("signal: killed (out of memory)"), "{error}");
}

#[test]
fn extensions_run_beside_the_workers_of_languages_too() {
    let ground = Ground::new();
    let python = zip_of(&[("lambda_function.py", b"import layered, os\nn = 0\ndef lambda_handler(event, context):\n    global n\n    n += 1\n    if event.get('fail'):\n        raise ValueError('asked to')\n    if event.get('exit'):\n        os._exit(4)\n    return [layered.NAME, n, os.environ['AWS_LAMBDA_FUNCTION_NAME']]\n")]);
    let node = zip_of(&[("index.js", b"const l = require('layered'); let n = 0; exports.handler = async (event) => { n += 1; if (event.fail) throw new TypeError('asked to'); if (event.exit) process.exit(4); return [l.name, n, process.env.AWS_LAMBDA_FUNCTION_NAME]; };")]);
    for (name, code, kind) in [("py-ext", python, "ValueError"), ("js-ext", node, "TypeError")] {
        let event = Settings { convention: Some(offshoot_model::Convention::Event), ..Settings::default() };
        let function = ground.function(name, &code, &layer(&["watcher"]), event);
        assert_eq!(function.call(&json!({})).unwrap(), json!(["layered", 1, name]));
        assert_eq!(function.call(&json!({"fail": true})).unwrap_err()["errorType"], kind);
        assert_eq!(function.call(&json!({})).unwrap(), json!(["layered", 3, name]));
        eventually("three calls are told", Duration::from_secs(5), || lines(&function.logs(), "\"INVOKE\"").len() == 3);
        let error = function.call(&json!({"exit": true})).unwrap_err();
        assert!(
            error["errorMessage"].as_str().unwrap().ends_with("Runtime exited with error: exit status 4"),
            "{error}"
        );
        assert_eq!(function.call(&json!({})).unwrap(), json!(["layered", 1, name]));
        function.retire();
        function.printed("watcher leaves");
    }
}

#[test]
fn telemetry_tells_of_calls_and_of_what_is_printed() {
    let ground = Ground::new();
    for mode in ["telemetry", "telemetry-tcp"] {
        let function = ground.function(mode, &provided("probe"), &layer(&["watcher"]), env(&[("EXT", mode)]));
        function.call(&json!({"do": "echo"})).unwrap();
        function.call(&json!({"do": "fail"})).unwrap_err();
        function.call(&json!({"do": "echo"})).unwrap();
        function.retire();
        function.printed("watcher leaves");
        let logs = function.logs();
        let answers: Vec<_> = logs.iter().filter_map(|l| l.strip_prefix("watcher subscribed ")).collect();
        assert!(answers[0].starts_with("400 ") && answers[0].contains("ValidationError"), "{answers:?}");
        assert_eq!(answers[1], "200 \"OK\"");
        let took: Vec<Value> =
            logs.iter().filter_map(|l| l.strip_prefix("took ")).map(|l| serde_json::from_str(l).unwrap()).collect();
        let of = |kind: &str| took.iter().filter(|e| e["type"] == kind).collect::<Vec<_>>();
        for (kind, count) in [
            ("platform.initStart", 1),
            ("platform.telemetrySubscription", 1),
            ("platform.extension", 1),
            ("platform.initRuntimeDone", 1),
            ("platform.initReport", 1),
            ("platform.start", 3),
            ("platform.runtimeDone", 3),
        ] {
            assert_eq!(of(kind).len(), count, "{mode}: {kind} in {took:#?}");
        }
        assert!(of("platform.report").len() >= 2, "{took:#?}");
        let statuses: Vec<_> = of("platform.runtimeDone").iter().map(|e| e["record"]["status"].clone()).collect();
        assert_eq!(statuses, ["success", "error", "success"]);
        assert_eq!(
            of("platform.start")[0]["record"]["requestId"],
            of("platform.runtimeDone")[0]["record"]["requestId"]
        );
        assert!(of("platform.report")[0]["record"]["metrics"]["memorySizeMB"] == 128, "{took:#?}");
        assert!(of("function").iter().any(|e| e["record"] == "call 1 echo"), "{took:#?}");
        assert!(of("extension").iter().any(|e| e["record"].as_str().unwrap().starts_with("watcher told")), "{took:#?}");
        let time = of("platform.start")[0]["time"].as_str().unwrap().to_owned();
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
        // What programs print is in the function's log too, as always.
        assert!(logs.iter().any(|l| l == "call 1 echo"), "{logs:?}");
    }
}
