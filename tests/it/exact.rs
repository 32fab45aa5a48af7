//! Small functions of the event convention and what AWS's own runtime clients answer for each: how handlers are found, the
//! shapes of errors, callbacks, results that JSON has no form for.

use serde_json::{Value, json};

use crate::harness::{Lang, Server, Shared, base64, zip_of};

static SERVER: Shared = Shared::new(&[]);

/// One row: the file's name and text, the handler, and what a call with `event` answers.
struct Row {
    file: &'static str,
    code: &'static str,
    handler: &'static str,
    answer: Expected,
}

enum Expected {
    Value(Value),
    /// `errorType` and `errorMessage`; a message that ends with `…` is only a beginning.
    Error(&'static str, &'static str),
}

use Expected::{Error, Value as Is};

fn js(code: &'static str, answer: Expected) -> Row {
    Row { file: "index.js", code, handler: "index.handler", answer }
}

fn py(code: &'static str, answer: Expected) -> Row {
    Row { file: "index.py", code, handler: "index.handler", answer }
}

#[track_caller]
fn check(server: &Server, lang: Lang, number: usize, row: &Row) -> Value {
    let name = format!("row-{}-{number}", lang.dir());
    let function = json!({
        "FunctionName": name, "Runtime": newest(server, lang), "Role": "arn:aws:iam::000000000000:role/r",
        "Handler": row.handler, "Code": {"ZipFile": base64(&zip_of(&[(row.file, row.code.as_bytes())]))},
    });
    server.post("/2015-03-31/functions", function.to_string()).expect(201);
    let answer = server.native(&name, "{\"a\":1}").expect(200);
    let got = answer.json();
    match &row.answer {
        Is(value) => {
            assert_eq!(answer.header("offshoot-function-error"), None, "{}: {got}", row.code);
            assert_eq!(got, *value, "{}", row.code);
        }
        Error(kind, message) => {
            assert!(answer.header("offshoot-function-error").is_some(), "{}: {got}", row.code);
            let id = answer.header("offshoot-request-id").unwrap();
            let said = got["errorMessage"].as_str().unwrap().replace(id, "ID");
            assert_eq!(got["errorType"], *kind, "{}: {got}", row.code);
            match message.strip_suffix('…') {
                Some(beginning) => assert!(said.starts_with(beginning), "{}: {said}", row.code),
                None => assert_eq!(said, *message, "{}", row.code),
            }
        }
    }
    server.delete(&name);
    got
}

/// A runtime of this language, as AWS calls it.
fn newest(server: &Server, lang: Lang) -> String {
    let name = server.deploy_case(lang, "echo", &[]);
    let runtime = server.get(&format!("/info/{name}")).expect(200).json()["runtime"].as_str().unwrap().to_owned();
    server.delete(&name);
    runtime
}

fn major(server: &Server) -> u32 {
    newest(server, Lang::Node).trim_start_matches("nodejs").trim_end_matches(".x").parse().unwrap()
}

#[test]
fn node_handlers_are_found_as_on_aws() {
    let server = &*SERVER.get();
    let ok = "exports.handler = async () => 'ok'";
    let rows = [
        Row {
            file: "index.mjs",
            code: "export const handler = async () => 'esm'",
            handler: "index.handler",
            answer: Is(json!("esm")),
        },
        Row { file: "index.cjs", code: ok, handler: "index.handler", answer: Is(json!("ok")) },
        Row {
            file: "index.mjs",
            code: "export default { handler: async () => 'inner' }",
            handler: "index.handler",
            answer: Is(json!("inner")),
        },
        Row {
            file: "src/deep/app.js",
            code: "exports.a = { b: async () => 'nested' }",
            handler: "src/deep/app.a.b",
            answer: Is(json!("nested")),
        },
        Row {
            file: "index.mjs",
            code: "export const handler = await (async () => () => 'late')()",
            handler: "index.handler",
            answer: Is(json!("late")),
        },
        Row {
            file: "index.js",
            code: ok,
            handler: "index.other",
            answer: Error("Runtime.HandlerNotFound", "index.other is undefined or not exported"),
        },
        js("exports.handler = 5", Error("Runtime.HandlerNotFound", "index.handler is not a function")),
        js("exports.handler = null", Error("Runtime.HandlerNotFound", "index.handler is undefined or not exported")),
        Row {
            file: "index.js",
            code: ok,
            handler: "absent.handler",
            answer: Error("Runtime.ImportModuleError", "Error: Cannot find module 'absent'\n…"),
        },
        js(
            "require('absent')",
            Error(
                "Runtime.ImportModuleError",
                "Error: Cannot find module 'absent'\nRequire stack:\n- /var/task/index.js…",
            ),
        ),
        Row {
            file: "index.mjs",
            code: "import 'absent'",
            handler: "index.handler",
            answer: Error("Error", "Cannot find package 'absent' imported from /var/task/index.mjs"),
        },
        js("exports.handler = (", Error("Runtime.UserCodeSyntaxError", "SyntaxError: Unexpected …")),
        js("throw new RangeError('at load')", Error("RangeError", "at load")),
        js(
            "Promise.reject(new Error('at load')); exports.handler = async () => 1",
            Error("Runtime.UnhandledPromiseRejection", "Error: at load"),
        ),
    ];
    rows.iter().enumerate().for_each(|(n, row)| drop(check(server, Lang::Node, n, row)));
    let typed = Row {
        file: "index.ts",
        code: "export const handler = async (event: { a: number }): Promise<number> => event.a",
        handler: "index.handler",
        answer: Is(json!(1)),
    };
    // Node.js takes types away by itself from 22.18 on.
    let typed = match major(server) {
        24.. => typed,
        22 => return,
        _ => Row {
            answer: Error("Runtime.ImportModuleError", "Error: index.ts is TypeScript, which Node.js …"),
            ..typed
        },
    };
    check(server, Lang::Node, 99, &typed);
}

#[test]
fn node_answers_are_those_of_aws() {
    let server = &*SERVER.get();
    let callbacks = major(server) < 24;
    let unwritable = if callbacks { "Error" } else { "Runtime.JSONStringifyError" };
    let none = if callbacks { ("string", "handled") } else { ("undefined", "undefined") };
    let rows = [
        js("exports.handler = async () => {}", Is(Value::Null)),
        js(
            "exports.handler = async (e, c) => [e.a, typeof c.getRemainingTimeInMillis(), c.memoryLimitInMB]",
            Is(json!([1, "number", "128"])),
        ),
        js("exports.handler = async () => 10n", Error(unwritable, "Unable to stringify response body")),
        js(
            "exports.handler = async () => { const a = {}; a.a = a; return a }",
            Error(unwritable, "Unable to stringify response body"),
        ),
        js("exports.handler = async () => { throw 'text' }", Error("string", "text")),
        js("exports.handler = async () => { throw { a: 1 } }", Error("object", "[object Object]")),
        js("exports.handler = async () => { throw undefined }", Error(none.0, none.1)),
        js(
            "class Mine extends Error { name = 'Mine' }; exports.handler = () => { throw new Mine('own') }",
            Error("Mine", "own"),
        ),
        js(
            "exports.handler = async () => { process.exit(3) }",
            Error("Runtime.ExitError", "RequestId: ID Error: Runtime exited with error: exit status 3"),
        ),
        js(
            "exports.handler = async () => { process.exit(0) }",
            Error("Runtime.ExitError", "RequestId: ID Error: Runtime exited without providing a reason"),
        ),
        js(
            "exports.handler = () => new Promise(() => { Promise.reject(new Error('lost')); setTimeout(() => {}, 1e4) })",
            Error("Runtime.UnhandledPromiseRejection", "Error: lost"),
        ),
        js(
            "exports.handler = () => new Promise(() => setTimeout(() => { throw new TypeError('late') }, 5))",
            Error("TypeError", "late"),
        ),
    ];
    rows.iter().enumerate().for_each(|(n, row)| drop(check(server, Lang::Node, 100 + n, row)));
    let thrown = check(
        server,
        Lang::Node,
        198,
        &js(
            "exports.handler = async () => { null.x }",
            Error("TypeError", "Cannot read properties of null (reading 'x')"),
        ),
    );
    let trace: Vec<&str> = thrown["trace"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    assert_eq!(trace[0], "TypeError: Cannot read properties of null (reading 'x')");
    assert!(trace[1].starts_with("    at ") && trace[1].contains("/var/task/index.js:1:"), "{trace:?}");
    assert!(!trace.iter().any(|l| l.contains("/var/runtime/")), "the worker's own: {trace:?}");
    assert_eq!(thrown.as_object().unwrap().len(), 3, "{thrown}");
    let refused = check(
        server,
        Lang::Node,
        199,
        &js("exports.handler = (", Error("Runtime.UserCodeSyntaxError", "SyntaxError: …")),
    );
    assert_eq!(refused["trace"][0], "/var/task/index.js:1", "{refused}");
    if !callbacks {
        check(
            server,
            Lang::Node,
            197,
            &js(
                "exports.handler = (e, c, done) => done()",
                Error("Runtime.CallbackHandlerDeprecated", "ERROR: AWS Lambda has removed support…"),
            ),
        );
        return;
    }
    let rows = [
        js("exports.handler = (e, c, done) => done(null, 'called')", Is(json!("called"))),
        js(
            "exports.handler = (e, c, done) => { setTimeout(() => { globalThis.late = 1 }, 20); done(null, globalThis.late) }",
            Is(Value::Null),
        ),
        js("exports.handler = (e, c, done) => done('no error at all')", Error("string", "no error at all")),
        js("exports.handler = (e, c, done) => done(new RangeError('called'))", Error("RangeError", "called")),
        js("exports.handler = (e, c) => c.succeed('s')", Is(json!("s"))),
        js("exports.handler = (e, c) => c.fail(new Error('f'))", Error("Error", "f")),
        js("exports.handler = (e, c) => c.done(null, 'd')", Is(json!("d"))),
        js("exports.handler = (e, c) => c.done()", Is(Value::Null)),
        js("exports.handler = () => {}", Is(Value::Null)),
        // The loop never runs empty, and nobody has to wait for it.
        js(
            "exports.handler = (e, c, done) => { c.callbackWaitsForEmptyEventLoop = false; setInterval(() => {}, 1e3); done(null, 'at once') }",
            Is(json!("at once")),
        ),
    ];
    rows.iter().enumerate().for_each(|(n, row)| drop(check(server, Lang::Node, 200 + n, row)));
}

#[test]
fn python_handlers_are_found_as_on_aws() {
    let server = &*SERVER.get();
    let ok = "def handler(e, c): return 'ok'";
    let rows = [
        Row { file: "src/deep/app.py", code: ok, handler: "src/deep/app.handler", answer: Is(json!("ok")) },
        Row { file: "src/app.py", code: ok, handler: "src.app.handler", answer: Is(json!("ok")) },
        Row {
            file: "index.py",
            code: ok,
            handler: "index.other",
            answer: Error("Runtime.HandlerNotFound", "Handler 'other' missing on module 'index'"),
        },
        Row {
            file: "index.py",
            code: ok,
            handler: "absent.handler",
            answer: Error("Runtime.ImportModuleError", "Unable to import module 'absent': No module named 'absent'"),
        },
        Row {
            file: "index.py",
            code: ok,
            handler: "sys.handler",
            answer: Error("Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
        },
        py(
            "import absent",
            Error("Runtime.ImportModuleError", "Unable to import module 'index': No module named 'absent'"),
        ),
        py("def handler(e, c:\n    pass", Error("Runtime.UserCodeSyntaxError", "Syntax error in module 'index': …")),
        py("raise LookupError('at load')", Error("LookupError", "at load")),
    ];
    rows.iter().enumerate().for_each(|(n, row)| drop(check(server, Lang::Python, n, row)));
    let refused = check(
        server,
        Lang::Python,
        99,
        &py("def handler(e, c):\n  x =", Error("Runtime.UserCodeSyntaxError", "Syntax error in module 'index': …")),
    );
    assert_eq!(refused["stackTrace"][0], "  File \"/var/task/index.py\" Line 2\n      x =", "{refused}");
    assert_eq!(refused["requestId"], "");
}

#[test]
fn python_answers_are_those_of_aws() {
    let server = &*SERVER.get();
    let rows = [
        py("def handler(e, c): pass", Is(Value::Null)),
        py("def handler(e, c): return b'{\"raw\": true}'", Is(json!({"raw": true}))),
        py(
            "from decimal import Decimal\ndef handler(e, c): return [Decimal('1.50'), Decimal('2')]",
            Is(json!([1.5, 2])),
        ),
        py("def handler(e, c): return (1, 2)", Is(json!([1, 2]))),
        py(
            "def handler(e, c): return {1, 2}",
            Error("Runtime.MarshalError", "Unable to marshal response: Object of type set is not JSON serializable"),
        ),
        py(
            "def handler(e, c): return object()",
            Error("Runtime.MarshalError", "Unable to marshal response: Object of type object is not JSON serializable"),
        ),
        py(
            "import sys\ndef handler(e, c): sys.exit(3)",
            Error("Runtime.ExitError", "RequestId: ID Error: Runtime exited with error: exit status 3"),
        ),
        py(
            "import os\ndef handler(e, c): os._exit(0)",
            Error("Runtime.ExitError", "RequestId: ID Error: Runtime exited without providing a reason"),
        ),
        py("class Mine(Exception): pass\ndef handler(e, c): raise Mine('own')", Error("Mine", "own")),
        py("def handler(e, c): raise KeyError('k')", Error("KeyError", "'k'")),
    ];
    rows.iter().enumerate().for_each(|(n, row)| drop(check(server, Lang::Python, 100 + n, row)));
    let thrown = check(
        server,
        Lang::Python,
        198,
        &py("def handler(e, c):\n    return 1 / 0", Error("ZeroDivisionError", "division by zero")),
    );
    let frames = thrown["stackTrace"].as_array().unwrap();
    assert_eq!(frames.len(), 1, "the worker's own frames: {thrown}");
    assert!(
        frames[0]
            .as_str()
            .unwrap()
            .starts_with("  File \"/var/task/index.py\", line 2, in handler\n    return 1 / 0\n"),
        "{thrown}"
    );
    assert_eq!(
        thrown.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["errorMessage", "errorType", "requestId", "stackTrace"]
    );
    let shown = py(
        "def handler(e, c): return [repr(c), repr(c.identity), c.client_context, c.get_remaining_time_in_millis() > 0]",
        Is(json!(null)),
    );
    let name = "shown-python";
    server.deploy(
        name,
        &zip_of(&[(shown.file, shown.code.as_bytes())]),
        &[("handler", "index.handler"), ("convention", "event")],
    );
    let answer = server.native(name, "{}").expect(200);
    let (id, got) = (answer.header("offshoot-request-id").unwrap(), answer.json());
    let repr = got[0].as_str().unwrap();
    assert!(
        repr.starts_with(&format!(
            "LambdaContext([aws_request_id={id},log_group_name=/aws/lambda/{name},log_stream_name="
        )),
        "{repr}"
    );
    let end = "client_context=None,identity=CognitoIdentity([cognito_identity_id=None,cognito_identity_pool_id=None]),tenant_id=None])";
    assert!(repr.ends_with(end), "{repr}");
    assert_eq!((&got[2], &got[3]), (&Value::Null, &json!(true)));
}

/// The names that AWS's environments have (recorded there in January 2026).
const ENVIRONMENT: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_XRAY_CONTEXT_MISSING",
    "AWS_XRAY_DAEMON_ADDRESS",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "LANG",
    "LD_LIBRARY_PATH",
    "PATH",
    "TZ",
    "_AWS_XRAY_DAEMON_ADDRESS",
    "_AWS_XRAY_DAEMON_PORT",
    "_HANDLER",
];

#[test]
fn environments_are_awss() {
    let server = &*SERVER.get();
    let cases = [
        (Lang::Node, "index.js", "exports.handler = async () => ({ ...process.env })", &["NODE_PATH"][..]),
        (Lang::Python, "index.py", "import os\ndef handler(e, c): return dict(os.environ)\n", &["PYTHONPATH"]),
        (Lang::Ruby, "index.rb", "def handler(event:, context:) = ENV.to_h\n", &["GEM_HOME", "GEM_PATH", "RUBYLIB"]),
    ];
    for (lang, file, code, own) in cases.into_iter().filter(|(lang, ..)| lang.is_here("environments")) {
        let name = format!("environment-{}", lang.dir());
        let fields = [("handler", "index.handler"), ("convention", "event")];
        let runtime = server.deploy(&name, &zip_of(&[(file, code.as_bytes())]), &fields)["runtime"].clone();
        let runtime = runtime.as_str().unwrap();
        let env = server.native(&name, "{}").expect(200).json();
        // Python sets its own locale since 3.12, and Node.js trusts nobody but its own since 20 (AWS).
        let number: u32 = runtime
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .filter(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap();
        let of_version = match lang {
            Lang::Python if number >= 312 => Some("LC_CTYPE"),
            Lang::Node if number <= 18 => Some("NODE_EXTRA_CA_CERTS"),
            _ => None,
        };
        let mut expected: Vec<&str> =
            ENVIRONMENT.iter().chain(own).copied().chain(["PWD", "SHLVL"]).chain(of_version).collect();
        expected.sort_unstable();
        let mut names: Vec<&str> = env.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{lang:?}");
        // Credentials of the shape of AWS's temporary ones, of nobody.
        let text = |key: &str| env[key].as_str().unwrap().to_owned();
        let (id, secret, token) = (text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY"), text("AWS_SESSION_TOKEN"));
        let base32 = |c: u8| c.is_ascii_uppercase() || (b'2'..=b'7').contains(&c);
        assert!(id.len() == 20 && id.starts_with("ASIA") && id.bytes().all(base32), "{id}");
        let base64 = |c: u8| c.is_ascii_alphanumeric() || b"/+=".contains(&c);
        assert!(secret.len() == 40 && secret.bytes().all(base64), "{secret}");
        assert!(token.len() > 100 && token.bytes().all(base64), "{token}");
        // What is asked for twice stands twice, on AWS too.
        let twice = if lang == Lang::Ruby { "/var/lang/bin:" } else { "" };
        for (key, value) in [
            ("AWS_EXECUTION_ENV", format!("AWS_Lambda_{runtime}")),
            ("AWS_LAMBDA_RUNTIME_API", "169.254.100.1:9001".to_owned()),
            ("AWS_XRAY_DAEMON_ADDRESS", "169.254.100.1:2000".to_owned()),
            ("PATH", format!("{twice}/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin")),
            ("TZ", ":UTC".to_owned()),
            ("PWD", "/var/task".to_owned()),
            ("_HANDLER", "index.handler".to_owned()),
            ("AWS_LAMBDA_FUNCTION_NAME", name.clone()),
        ] {
            assert_eq!(env[key], json!(value), "{lang:?} {key}");
        }
    }
}

/// Without a user namespace a box's user has a number that no account has: then `HOME` says where its home is.
#[test]
fn without_a_user_namespace_programs_find_a_home_too() {
    let server = Server::start(&["--allow-degraded", "userns"]);
    let code = b"const os = require('os')\nexports.handler = async () => [os.homedir(), process.env.HOME, process.getuid() === 993]";
    server.deploy("homely", &zip_of(&[("index.js", code)]), &[("handler", "index.handler"), ("convention", "event")]);
    assert_eq!(server.native("homely", "{}").expect(200).json(), json!(["/tmp", "/tmp", false]));
}

/// AWS's address of the Runtime API is somebody else's on the machine's own network.
#[test]
fn on_the_machines_network_no_address_is_named_where_nobody_listens() {
    let server = &*SERVER.get();
    let code = b"import os\ndef handler(e, c): return os.environ.get('AWS_LAMBDA_RUNTIME_API')\n";
    for (network, address) in [("none", json!("169.254.100.1:9001")), ("host", json!(null))] {
        let name = format!("address-{network}");
        let fields = [("handler", "index.handler"), ("convention", "event"), ("network", network)];
        server.deploy(&name, &zip_of(&[("index.py", code)]), &fields);
        assert_eq!(server.native(&name, "{}").expect(200).json(), address, "{network}");
    }
}
