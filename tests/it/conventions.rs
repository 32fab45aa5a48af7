//! How handlers are called: AWS's event convention and the request convention, CommonJS and ES modules, plain and
//! asynchronous Python, and every form of answer and of error.

use serde_json::{Value, json};

use crate::harness::{Lang, Shared, per_language, zip_of};

static SERVER: Shared = Shared::new(&[]);

fn events_arrive_with_their_context(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(
        lang,
        "event_echo",
        &[("convention", "event"), ("memory", "256"), ("timeout", "20s"), ("env", r#"{"MINE":"x=y z"}"#)],
    );
    let answer = server.native(&name, r#"{"a":[1,2.5,"é",null,true],"nested":{"k":"v"}}"#).expect(200);
    assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
    let seen = answer.json();
    assert_eq!(seen["event"], json!({"a": [1, 2.5, "é", null, true], "nested": {"k": "v"}}));
    let context = &seen["context"];
    assert_eq!((&context["functionName"], &context["functionVersion"]), (&json!(name), &json!("$LATEST")));
    assert_eq!(context["memoryLimitInMB"], "256");
    assert_eq!(context["awsRequestId"].as_str(), answer.header("offshoot-request-id"));
    assert_eq!(context["invokedFunctionArn"], format!("arn:aws:lambda:us-east-1:000000000000:function:{name}"));
    assert!((15_000..=20_000).contains(&context["remaining"].as_i64().unwrap()), "{context}");
    let env = &seen["env"];
    assert_eq!(
        (&env["MINE"], &env["AWS_LAMBDA_FUNCTION_NAME"], &env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]),
        (&json!("x=y z"), &json!(name), &json!("256"))
    );
    assert_eq!((&env["LAMBDA_TASK_ROOT"], &env["TZ"]), (&json!("/var/task"), &json!(":UTC")));
    for absent in ["HOST_SECRET", "OFFSHOOT_LISTEN", "USER", "SSH_AUTH_SOCK", "CARGO_MANIFEST_DIR"] {
        assert_eq!(env[absent], Value::Null, "{absent} of the host is in the function's environment");
    }
    // Nothing stands for an empty event; by Glambdar's route it is the same function.
    assert_eq!(server.native(&name, "").expect(200).json()["event"], json!({}));
    assert_eq!(server.invoke(&name, "[1]").expect(200).json()["event"], json!([1]));
    for bad in ["{", "nope", "{\"a\":}", "\u{feff}{}", "[1,]", "1e999", "\"\\ud800\""] {
        assert!(server.native(&name, bad).expect(400).error().contains("JSON"), "{bad}");
    }
    server.native(&name, b"\"\xff\"").expect(400);
    server.native(&name, "[".repeat(1 << 20)).expect(400);
}

fn answers_take_every_form(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "mirror", &[]);
    for (reply, status, kind, body) in [
        (r#"{"body":{"a":1}}"#, 200, "application/json", r#"{"a":1}"#),
        (r#"{"a":1}"#, 200, "application/json", r#"{"a":1}"#),
        (r#"[1,2]"#, 200, "application/json", "[1,2]"),
        (r#""text""#, 200, "application/json", "\"text\""),
        ("5", 200, "application/json", "5"),
        ("null", 200, "application/json", "null"),
        (r#"{"statusCode":404,"body":{"no":true}}"#, 404, "application/json", r#"{"no":true}"#),
        (r#"{"statusCode":0,"body":1}"#, 200, "application/json", "1"),
        (r#"{"headers":{"content-type":"text/html"},"body":"<b>"}"#, 200, "text/html", "<b>"),
        (r#"{"body":"aGk=","isBase64Encoded":true}"#, 200, "application/octet-stream", "hi"),
        (r#"{"statusCode":299,"headers":null,"body":""}"#, 299, "application/json", "\"\""),
    ] {
        let answer = server.invoke(&name, reply).expect(status);
        let same = answer.text() == body
            || (kind == "application/json" && answer.json() == serde_json::from_str::<Value>(body).unwrap());
        assert!(same, "{reply}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some(kind), "{reply}");
    }
    let nothing = server.invoke(&name, r#"{"statusCode":204}"#).expect(204);
    assert!(nothing.body.is_empty());
}

fn answers_that_cannot_be_sent_are_errors(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "mirror", &[]);
    for reply in [
        r#"{"statusCode":99,"body":1}"#,
        r#"{"statusCode":1000,"body":1}"#,
        r#"{"statusCode":"two hundred","body":1}"#,
        r#"{"statusCode":200.5,"body":1}"#,
        r#"{"statusCode":true,"body":1}"#,
        r#"{"headers":{"X":"a\r\nSet-Cookie: evil=1"},"body":1}"#,
        r#"{"headers":{"X\r\nY":"a"},"body":1}"#,
        r#"{"headers":{"X":{"a":1}},"body":1}"#,
        r#"{"headers":{"":"a"},"body":1}"#,
        r#"{"headers":"nope","body":1}"#,
        r#"{"headers":{"X":"a\u0000b"},"body":1}"#,
    ] {
        let answer = server.invoke(&name, reply).expect(502);
        assert!(!answer.error().is_empty(), "{reply}: {}", answer.text());
        assert_eq!(answer.header("set-cookie"), None);
        assert!(!answer.headers.iter().any(|(n, _)| n == "evil" || n == "y"));
    }
    // What would change the framing of the answer is dropped, the rest is sent.
    let answer = server.invoke(&name, r#"{"headers":{"Transfer-Encoding":"chunked","Content-Length":"3","Connection":"close","X-Kept":"1"},"body":"abcdef"}"#).expect(200);
    assert_eq!((answer.header("x-kept"), answer.text().as_str()), (Some("1"), "\"abcdef\""));
    assert_eq!(answer.header("transfer-encoding"), None);
    let many: Vec<String> = (0..10_000).map(|i| format!("\"x-{i}\":\"1\"")).collect();
    server.invoke(&name, format!("{{\"headers\":{{{}}},\"body\":1}}", many.join(","))).expect(502);
    // The instance has not suffered from any of it.
    assert_eq!(server.native(&name, "1").expect(200).header("offshoot-start"), Some("warm"));
}

fn errors_tell_type_message_and_stack(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "fails", &[]);
    let answer = server.native(&name, "").expect(200);
    assert_eq!(answer.header("offshoot-function-error"), Some("handler"));
    let error = answer.json();
    assert_eq!((&error["errorType"], &error["errorMessage"]), (&json!("PaymentError"), &json!("no money")));
    let stack = error["stackTrace"].as_array().unwrap();
    assert!(stack.iter().any(|l| l.as_str().unwrap().contains("/var/task/index")), "{error}");
    assert!(!error.to_string().contains("worker."), "the worker's own frames: {error}");
    // A handler that throws leaves its instance as it was.
    assert_eq!(server.native(&name, "").expect(200).header("offshoot-start"), Some("warm"));
}

fn what_cannot_be_json_is_said_so(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "unserialisable", &[]);
    let values = match lang {
        Lang::Node => ["circle", "bigint", "fn", "symbol", "thrower"],
        Lang::Python => ["circle", "object", "set", "bytes_inside", "fn"],
        Lang::Ruby => ["circle", "not_a_number", "endless", "bad_text", "thrower"],
    };
    for value in values {
        let answer = server.native(&name, value).expect(200);
        assert_eq!(answer.header("offshoot-function-error"), Some("unserialisable"), "{value}: {}", answer.text());
        assert_eq!(answer.json()["errorType"], "Runtime.MarshalError");
        server.invoke(&name, value).expect(502);
    }
}

fn handlers_are_found_where_they_are_named(lang: Lang) {
    let server = SERVER.get();
    let (nested, flat): (&[(&str, &[u8])], &str) = match lang {
        Lang::Node => (&[("src/deep/app.js", b"exports.run = async () => ({ body: 'deep' });")], "src/deep/app.run"),
        Lang::Python => (&[("src/deep/app.py", b"def run(req):\n    return {'body': 'deep'}\n")], "src/deep/app.run"),
        Lang::Ruby => (&[("src/deep/app.rb", b"def run(req)\n  { body: 'deep' }\nend\n")], "src/deep/app.run"),
    };
    let name = format!("nested-{}", lang.dir());
    server.deploy(&name, &zip_of(nested), &[("handler", flat), ("convention", "request")]);
    assert_eq!(server.invoke(&name, "").expect(200).json(), "deep");
    for (handler, words) in [
        ("nope.handler", "nope"),
        ("src/deep/app", "deep/app"),
        ("../../etc/passwd.x", "handler"),
        ("$(id).x", "handler"),
        ("a;b.c", "handler"),
    ] {
        let error = server.try_deploy("bad-handler", &zip_of(nested), &[("handler", handler)]).expect(400).error();
        assert!(error.contains(words), "{handler}: {error}");
    }
    // The file is there, what it should export is not: that shows at the first call.
    server.deploy(&name, &zip_of(nested), &[("handler", "src/deep/app.other")]);
    let answer = server.native(&name, "").expect(200);
    assert_eq!(answer.header("offshoot-function-error"), Some("init"));
    assert_eq!(answer.json()["errorType"], "Runtime.HandlerNotFound", "{}", answer.text());
}

fn syntax_and_import_errors_are_named(lang: Lang) {
    let server = SERVER.get();
    type Files = &'static [(&'static str, &'static [u8])];
    let (syntax, import): (Files, Files) = match lang {
        Lang::Node => (
            &[("index.js", b"exports.handler = (")],
            &[("index.js", b"require('no-such-module'); exports.handler = () => 1;")],
        ),
        Lang::Python => (
            &[("index.py", b"def handler(req:\n  pass")],
            &[("index.py", b"import no_such_module\ndef handler(req): return 1\n")],
        ),
        Lang::Ruby => (
            &[("index.rb", b"def handler(req\n  1\nend\n")],
            &[("index.rb", b"require 'no_such_library'\ndef handler(req) = 1\n")],
        ),
    };
    for (files, kind, word) in
        [(syntax, "Runtime.UserCodeSyntaxError", "yntax"), (import, "Runtime.ImportModuleError", "no")]
    {
        let name = format!("unloadable-{}", lang.dir());
        server.deploy(&name, &zip_of(files), &[]);
        let answer = server.native(&name, "").expect(200);
        assert_eq!(answer.header("offshoot-function-error"), Some("init"), "{}", answer.text());
        assert_eq!(answer.json()["errorType"], kind);
        assert!(answer.json()["errorMessage"].as_str().unwrap().contains(word), "{}", answer.text());
        assert_eq!(server.invoke(&name, "").expect(500).json()["errorType"], kind);
    }
}

per_language! {
    events_arrive_with_their_context
    answers_take_every_form
    answers_that_cannot_be_sent_are_errors
    errors_tell_type_message_and_stack
    what_cannot_be_json_is_said_so
    handlers_are_found_where_they_are_named
    syntax_and_import_errors_are_named
}

#[test]
fn es_modules_import_and_are_imported() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "modules", &[]);
    assert_eq!(
        server.invoke(&name, "").expect(200).json(),
        json!({"esm": "index.mjs", "name": "from a file beside it"})
    );
    let package = zip_of(&[
        ("package.json", br#"{"type":"module","main":"app.js"}"#),
        ("app.js", b"await 0;\nexport const handler = async () => ({ body: 'module by package.json' });"),
    ]);
    server.deploy("esm-package", &package, &[]);
    assert_eq!(server.invoke("esm-package", "").expect(200).json(), "module by package.json");
}

#[test]
fn javascript_fails_in_every_way_it_can() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Node, "fails", &[("timeout", "5s")]);
    for (how, kind, message) in [
        ("rejects", "PaymentError", "rejected"),
        ("string", "string", "just a string"),
        ("later", "PaymentError", "nobody catches this"),
        ("never", "Runtime.NeverSettled", "the handler waits for something that cannot happen"),
    ] {
        let answer = server.native(&name, how).expect(200);
        assert_eq!(answer.header("offshoot-function-error"), Some("handler"), "{how}: {}", answer.text());
        assert_eq!(
            (answer.json()["errorType"].as_str(), answer.json()["errorMessage"].as_str()),
            (Some(kind), Some(message)),
            "{how}"
        );
    }
    server.native(&name, "").expect(200);
}

#[test]
fn callbacks_and_plain_returns_of_aws_handlers() {
    let server = SERVER.get();
    for (name, code, wanted) in [
        (
            "cb",
            "exports.handler = (event, context, callback) => setTimeout(() => callback(null, { got: event }), 5);",
            json!({"got": 7}),
        ),
        ("succeed", "exports.handler = (event, context) => { context.succeed('done'); };", json!("done")),
        ("plain", "exports.handler = (event) => event + 1;", json!(8)),
        ("async", "exports.handler = async (event) => undefined;", json!(null)),
    ] {
        let name = format!("aws-{name}");
        server.deploy(&name, &zip_of(&[("index.js", code.as_bytes())]), &[("convention", "event")]);
        let answer = server.native(&name, "7").expect(200);
        assert_eq!(
            (answer.header("offshoot-function-error"), answer.json()),
            (None, wanted),
            "{name}: {}",
            answer.text()
        );
    }
}

#[test]
fn coroutines_are_awaited() {
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Python, "async", &[]);
    assert_eq!(server.invoke(&name, r#"{"a":1}"#).expect(200).json(), json!({"sent": {"a": 1}, "most": 1}));
    assert_eq!(server.invoke(&name, "[]").expect(200).json()["sent"], json!([]));
    assert_eq!(server.invoke(&name, "no").expect(500).json()["error"], "invalid JSON body");
}

#[test]
fn the_convention_follows_the_file_unless_it_is_said() {
    let server = SERVER.get();
    server.deploy("by-name", &Lang::Python.zip("event_echo"), &[]);
    assert_eq!(server.get("/info/by-name").json()["convention"], "event");
    server.deploy("by-default", &Lang::Node.zip("echo"), &[]);
    assert_eq!(server.get("/info/by-default").json()["convention"], "request");
}
