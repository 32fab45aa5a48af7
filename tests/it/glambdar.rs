//! Glambdar's README, word for word, on a fresh server; then every route with its statuses and bodies; then the faults of
//! the original that are mended here.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Answer, Lang, Server, Shared, form, parallel, per_language, root, zip_of};

static SERVER: Shared = Shared::new(&[]);

/// `index.js` of Glambdar's README, with its three ways to answer.
const MYFUNC: &str = r#"
exports.handler = async (req) => {
  const body = await req.json();
  return { statusCode: 200, headers: { "Content-Type": "application/json" }, body: { message: `Hello ${body.name}!`, contentType: req.headers["Content-Type"] } };
};
"#;

fn curl(command: &str) -> (u16, String) {
    let full = format!("{command} -s -w '\\n%{{http_code}}'");
    let done = Command::new("sh").args(["-c", &full]).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let (body, status) =
        text.rsplit_once('\n').unwrap_or_else(|| panic!("{command}: {}", String::from_utf8_lossy(&done.stderr)));
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn the_quick_start_word_for_word() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("myfunc.zip");
    std::fs::write(&archive, zip_of(&[("index.js", MYFUNC.as_bytes())])).unwrap();
    let at = |command: &str| {
        command
            .replace("localhost:8000", &format!("localhost:{}", server.port))
            .replace("/path/to/myfunc.zip", archive.to_str().unwrap())
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();

    let (status, body) = curl(&at("curl http://localhost:8000/info"));
    assert_eq!((status, json(&body)), (200, json!({"count": 0, "functions": []})), "an empty list is a list");

    let (status, body) =
        curl(&at("curl -X POST \\\n  -F \"file=@/path/to/myfunc.zip\" \\\n  http://localhost:8000/deploy"));
    assert_eq!(status, 201, "{body}");
    assert_eq!((&json(&body)["function"], &json(&body)["status"]), (&json!("myfunc"), &json!("deployed")));

    let (status, body) = curl(&at(
        "curl -X POST \\\n  -H \"Content-Type: application/json\" \\\n  -d '{\"name\":\"Glambdar\"}' \\\n  http://localhost:8000/invoke/myfunc",
    ));
    assert_eq!((status, json(&body)), (200, json!({"message": "Hello Glambdar!", "contentType": "application/json"})));

    let (status, body) = curl(&at("curl http://localhost:8000/info"));
    assert_eq!((status, json(&body)["count"].clone()), (200, json!(1)));
    assert_eq!(json(&body)["functions"][0]["name"], "myfunc");

    let (status, body) = curl(&at("curl http://localhost:8000/info/myfunc"));
    assert_eq!((status, &json(&body)["name"], &json(&body)["invokeCount"]), (200, &json!("myfunc"), &json!(1)));
    assert!(json(&body)["createdAt"].as_str().unwrap().ends_with('Z') && json(&body)["lastInvokedAt"].is_string());

    let (status, body) = curl(&at("curl -X DELETE http://localhost:8000/del/myfunc"));
    assert_eq!((status, body.as_str()), (204, ""));
    assert_eq!(curl(&at("curl http://localhost:8000/info/myfunc")).0, 404);
}

#[test]
fn every_route_has_its_statuses_and_bodies() {
    let server = SERVER.get();
    for (method, path) in [
        ("POST", "/invoke/nobody"),
        ("GET", "/info/nobody"),
        ("DELETE", "/del/nobody"),
        ("GET", "/logs/nobody"),
        ("POST", "/config/nobody"),
    ] {
        let answer = server.request(method, path, &[], b"{}").expect(404);
        assert_eq!(answer.json()["error"], "Function not found!", "{method} {path}");
        assert!(answer.header("content-type").unwrap().starts_with("application/json"));
    }
    for (method, path, allow) in [
        ("GET", "/deploy", "POST"),
        ("POST", "/info", "GET"),
        ("GET", "/del/x", "DELETE"),
        ("GET", "/config/x", "POST"),
        ("PUT", "/logs/x", "GET"),
    ] {
        let answer = server.request(method, path, &[], b"").expect(405);
        assert!(answer.header("allow").unwrap().contains(allow), "{method} {path}");
    }
    for path in ["/", "/nothing", "/invoke", "/info/a/b", "/v2/functions", "/deploy/x"] {
        server.request("POST", path, &[], b"").expect(if path == "/info/a/b" { 405 } else { 404 });
    }
    let (kind, body) = form(&[("funcName", "x")], None);
    assert_eq!(
        server.request("POST", "/deploy", &[("Content-Type", &kind)], &body).expect(400).error(),
        "missing zip file"
    );
    assert_eq!(server.request("POST", "/deploy", &[], b"").expect(400).error(), "missing zip file");
    assert_eq!(server.get("/health").expect(200).json(), json!({"status": "ok"}));
    assert_eq!(server.get("/readyz").expect(200).json(), json!({"status": "ready"}));
    assert!(server.get("/metrics").expect(200).text().contains("offshoot"));
}

#[test]
fn the_name_is_that_of_the_file_or_of_the_field() {
    let server = SERVER.get();
    let zip = Lang::Node.inline("'x'");
    for (fields, file, name) in [
        (&[][..], "by-file.zip", "by-file"),
        (&[("funcName", "by-field")], "whatever.zip", "by-field"),
        (&[], "no-extension", "no-extension"),
    ] {
        let (kind, body) = form(fields, Some((file, &zip)));
        let answer = server.request("POST", "/deploy", &[("Content-Type", &kind)], &body).expect(201);
        assert_eq!(answer.json()["function"], name);
        server.invoke(name, "").expect(200);
        server.delete(name);
    }
    for file in ["../../x.zip", ".zip", "a b.zip", "\u{e9}.zip", "x/y.zip"] {
        let (kind, body) = form(&[], Some((file, &zip)));
        server.request("POST", "/deploy", &[("Content-Type", &kind)], &body).expect(400);
    }
}

#[test]
fn a_deployment_says_what_it_did_and_can_be_repeated() {
    let server = SERVER.get();
    let first = server.deploy(
        "again",
        &Lang::Node.inline("1"),
        &[("memory", "256"), ("timeout", "1500ms"), ("env", r#"{"A":"b"}"#)],
    );
    assert_eq!(first["status"], "deployed");
    assert_eq!(first["handler"], "index.handler");
    assert!(first["runtime"].as_str().unwrap().starts_with("nodejs"));
    assert_eq!(first["codeSha256"].as_str().unwrap().len(), 64);
    assert_eq!(first["codeBytes"], Lang::Node.inline("1").len());
    let second = server.deploy("again", &Lang::Node.inline("2"), &[]);
    assert!(second["revision"].as_u64() > first["revision"].as_u64());
    assert_ne!(second["codeSha256"], first["codeSha256"]);
    let info = server.get("/info/again").expect(200).json();
    assert_eq!(
        (&info["memory"], &info["timeout"], &info["env"]),
        (&json!(256), &json!(1500), &json!({"A": "b"})),
        "settings stay"
    );
    assert_eq!(server.invoke("again", "").expect(200).text(), "2");
}

#[test]
fn configuration_changes_by_json_and_is_checked() {
    let server = SERVER.get();
    server.deploy("conf", &Lang::Node.zip("sleeps"), &[]);
    let before = server.get("/info/conf").json();
    let answer = server.post("/config/conf", r#"{"rateLimit":7,"timeout":"2s","env":{"MARK":"new"}}"#).expect(200);
    assert!(answer.json()["revision"].as_u64() > before["revision"].as_u64());
    let info = server.get("/info/conf").json();
    assert_eq!((&info["rateLimit"], &info["timeout"]), (&json!(7), &json!(2000)));
    assert_eq!(server.invoke("conf", "1").expect(200).json()["env"], "new");
    for (bad, word) in [
        (r#"{"memroy":1}"#, "memory"),
        (r#"{"memory":1}"#, "64"),
        (r#"{"memory":128,"memory":129}"#, "twice"),
        ("[]", "object"),
        ("{", "body"),
        (r#"{"env":{"LD_PRELOAD":"x"}}"#, "LD_PRELOAD"),
        (r#"{"env":{"PATH=x":"x"}}"#, "environment name"),
        (r#"{"handler":"../../x.y"}"#, "handler"),
        (r#"{"runtime":"java21"}"#, "runtime"),
        (r#"{"timeout":0}"#, "timeout"),
        (r#"{"timeout":"soon"}"#, "timeout"),
        (r#"{"network":"all"}"#, "network"),
    ] {
        let answer = server.post("/config/conf", bad).expect(400);
        assert!(answer.error().contains(word), "{bad}: {}", answer.text());
    }
    assert_eq!(server.get("/info/conf").json(), {
        let mut i = info;
        i["invokeCount"] = json!(1);
        i["lastInvokedAt"] = server.get("/info/conf").json()["lastInvokedAt"].clone();
        i
    });
}

/// The rate limit of the second Glambdar: a bucket of a tenth, its sentence, and a hint when to come back.
#[test]
fn the_rate_limit_speaks_as_glambdar_does() {
    let server = SERVER.get();
    server.deploy("limited", &Lang::Node.inline("1"), &[("rateLimit", "1")]);
    let answers: Vec<Answer> = (0..5).map(|_| server.invoke("limited", "")).collect();
    assert_eq!(answers[0].status, 200);
    let refused = answers.iter().find(|a| a.status == 429).expect("five calls at once, one per second allowed");
    assert_eq!(refused.json()["error"], "Rate limit exceeded. Please try again later.");
    assert!(refused.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok_and(|n| n >= 1)));
    server.post("/config/limited", r#"{"rateLimit":0}"#).expect(200);
    (0..20).for_each(|_| drop(server.invoke("limited", "").expect(200)));
}

#[test]
fn logs_are_json_and_lines() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "logs", &[]);
    let id = server
        .invoke(&name, r#"{"lines":["first line","second line"]}"#)
        .expect(200)
        .header("offshoot-request-id")
        .unwrap()
        .to_owned();
    crate::harness::eventually("the log is there", crate::harness::PATIENCE, || {
        server.logs(&name).iter().any(|l| l.starts_with("REPORT"))
    });
    let whole = server.get(&format!("/logs/{name}")).expect(200).json();
    assert_eq!(whole["function"], name.as_str());
    let texts: Vec<&str> = whole["logs"].as_array().unwrap().iter().map(|l| l["text"].as_str().unwrap()).collect();
    for wanted in ["first line", "second line", "and one to stderr"] {
        assert!(texts.contains(&wanted), "{wanted} in {texts:?}");
    }
    let of_this = server.get(&format!("/logs/{name}?requestId={id}")).json();
    assert!(of_this["logs"].as_array().unwrap().iter().all(|l| l["requestId"] == id.as_str()));
    assert_eq!(of_this["logs"].as_array().unwrap().iter().filter(|l| l["stream"] == "stderr").count(), 1);
    assert_eq!(server.get(&format!("/logs/{name}?limit=1")).json()["logs"].as_array().unwrap().len(), 1);
    server.get(&format!("/logs/{name}?limit=x")).expect(400);
}

#[test]
fn a_broken_zip_leaves_nothing() {
    let server = Server::start(&[]);
    server.deploy("warmup", &Lang::Node.inline("1"), &[]);
    let before = server.usage();
    let whole = Lang::Node.inline("'whole'");
    let broken: [&[u8]; 4] = [b"", b"this is no zip", &whole[..whole.len() - 5], &whole[3..]];
    for bytes in broken {
        let answer = server.try_deploy("broken", bytes, &[]).expect(400);
        assert!(!answer.error().is_empty(), "{}", answer.text());
        server.get("/info/broken").expect(404);
    }
    server.settles_to(&before);
    // In the original the directory stayed and kept the name from ever being used.
    server.deploy("broken", &whole, &[]);
    assert_eq!(server.invoke("broken", "").expect(200).text(), "\"whole\"");
}

fn calls_run_side_by_side(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "sleeps", &[]);
    let began = std::time::Instant::now();
    let answers = parallel(8, |_| server.invoke(&name, "1000"));
    assert!(answers.iter().all(|a| a.status == 200), "{:?}", answers.iter().map(|a| a.text()).collect::<Vec<_>>());
    assert!(began.elapsed().as_secs() < 6, "eight sleeps of a second ran one after another");
}

fn a_call_has_a_time_limit(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "hangs", &[("timeout", "300ms")]);
    let answer = server.invoke(&name, "").expect(504);
    assert!(answer.error().contains("Task timed out after 0.30 seconds"), "{}", answer.text());
}

fn large_and_binary_bodies_pass(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "echo", &[]);
    for size in [0, 1, 65_535, 65_536, 65_537, 200_000, 3 << 20] {
        let body: Vec<u8> = (0..size).map(|i| (i * 7 + i / 251) as u8).collect();
        let answer = server.post(&format!("/invoke/{name}/raw"), &body).expect(200);
        assert!(answer.body == body, "{size} bytes came back as {}", answer.body.len());
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    }
}

fn headers_may_be_arrays(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "mirror", &[]);
    let reply =
        r#"{"statusCode":201,"headers":{"X-Many":["a","b"],"Set-Cookie":["c=1","d=2"],"X-Number":5},"body":"text"}"#;
    let answer = server.invoke(&name, reply).expect(201);
    assert_eq!(answer.headers_named("x-many"), ["a", "b"]);
    assert_eq!(answer.headers_named("set-cookie"), ["c=1", "d=2"]);
    assert_eq!(answer.header("x-number"), Some("5"));
}

fn requests_arrive_whole(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "echo", &[]);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let headers = [
            ("X-Twice", "1"),
            ("x-twice", "2"),
            ("Content-Type", "text/plain"),
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "secret"),
        ];
        let path = format!("/invoke/{name}/a%20b/../c?q=1&q=2&r=%26");
        let seen = server.request(method, &path, &headers, b"h\xc3\xa9llo").expect(200).json();
        assert_eq!((&seen["method"], &seen["query"]), (&json!(method), &json!("q=1&q=2&r=%26")));
        assert_eq!((&seen["path"], &seen["body"]), (&json!("/a%20b/../c"), &json!("h\u{e9}llo")), "{method}");
        let headers = &seen["headers"];
        assert_eq!((&headers["X-Twice"], &headers["Content-Type"]), (&json!("1,2"), &json!("text/plain")));
        for dropped in ["Content-Length", "Connection", "X-Hop", "Transfer-Encoding"] {
            assert_eq!(headers[dropped], Value::Null, "{dropped}");
        }
    }
}

fn a_function_without_an_answer_is_an_error(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "fails", &[]);
    let answer = server.invoke(&name, "").expect(500);
    assert_eq!(answer.json()["error"], "no money");
    assert_eq!(answer.json()["errorType"], "PaymentError");
    assert_eq!(answer.json()["requestId"].as_str(), answer.header("offshoot-request-id"));
    assert!(!answer.text().contains("/tmp/offshoot-it-"), "a path of the host: {}", answer.text());
    // `await req.json()` on something else, in Glambdar's words.
    let name = server.deploy_case(lang, "mirror", &[]);
    assert_eq!(server.invoke(&name, "{not json").expect(500).json()["error"], "invalid JSON body");
}

/// In the original two calls at once could count as one.
fn counters_are_exact_under_concurrency(lang: Lang) {
    let server = SERVER.get();
    let name = format!("counted-{}", lang.dir());
    server.deploy(&name, &lang.zip("echo"), &[]);
    parallel(8, |_| {
        let mut connection = server.connect();
        for _ in 0..50 {
            let answer = connection.request("POST", &format!("/invoke/{name}"), &[], b"x").unwrap();
            answer.expect(200);
        }
    });
    assert_eq!(server.get(&format!("/info/{name}")).json()["invokeCount"], 400);
}

per_language! {
    calls_run_side_by_side
    a_call_has_a_time_limit
    large_and_binary_bodies_pass
    headers_may_be_arrays
    requests_arrive_whole
    a_function_without_an_answer_is_an_error
    counters_are_exact_under_concurrency
}

/// What tools read: the shape of `/info/:name`, with what changes from run to run made plain.
#[test]
fn golden_info() {
    let server = SERVER.get();
    server.deploy(
        "golden",
        &zip_of(&[("index.js", b"exports.handler = async () => 1;\n")]),
        &[("env", r#"{"B":"2","A":"1"}"#), ("runtime", &node_runtime(&server))],
    );
    let mut info = server.get("/info/golden").expect(200).json();
    for (key, plain) in
        [("createdAt", "<time>"), ("updatedAt", "<time>"), ("codeSha256", "<digest>"), ("runtime", "<runtime>")]
    {
        assert!(info[key].is_string(), "{key}");
        info[key] = json!(plain);
    }
    for key in ["revision", "codeBytes"] {
        assert!(info[key].is_u64(), "{key}");
        info[key] = json!(0);
    }
    crate::harness::golden("info.json", &serde_json::to_string_pretty(&info).unwrap());
}

fn node_runtime(server: &Server) -> String {
    server.deploy("which", &Lang::Node.inline("1"), &[])["runtime"].as_str().unwrap().to_owned()
}

/// The example of the README lies in `examples` too.
#[test]
fn the_readme_of_the_examples_names_every_example() {
    let readme = std::fs::read_to_string(root().join("examples/README.md")).unwrap();
    for entry in std::fs::read_dir(root().join("examples")).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(readme.contains(&format!("`{name}`")), "examples/README.md does not name {name}");
    }
}
