//! What functions of the event convention log, in AWS's two formats: their own lines, the platform's, the levels of both, and
//! the groups that they are read from.

use serde_json::{Value, json};

use crate::harness::{Answer, Lang, Server, Shared, base64, eventually, node_and_python, zip_of};
use std::time::Duration;

static SERVER: Shared = Shared::new(&[]);

/// Ruby's worker prints what the function prints; AWS's two formats are Node.js's and Python's.
const NOT_RUBY: &str = "these are tests of Node.js and Python";
const FUNCTIONS: &str = "/2015-03-31/functions";

fn code(lang: Lang) -> Vec<u8> {
    match lang {
        Lang::Node => zip_of(&[(
            "index.js",
            b"console.log('loading');
exports.handler = async (event) => {
  console.debug('quiet');
  console.log('plain %d', 7);
  console.info({ a: 1 });
  console.warn('two', new RangeError('inner'));
  console.error(Object.assign(new TypeError('alone'), { code: 'X' }));
  process.stdout.write('raw\\n{\"level\":\"debug\",\"raw\":1}\\n');
  if (event.fail) throw Object.assign(new Error('as asked'), { code: 'ASKED' });
  return 1;
};",
        )]),
        Lang::Python => zip_of(&[(
            "index.py",
            b"import logging
log = logging.getLogger('mine')
logging.getLogger().warning('loading')
def handler(event, context):
    logging.debug('quiet')
    log.warning('plain %d', 7, extra={'colour': 'red'})
    log.error({'a': 1})
    try:
        [].pop()
    except IndexError:
        log.exception('two')
    print('raw')
    print('{\"level\":\"debug\",\"raw\":1}')
    if event.get('fail'):
        raise KeyError('as asked')
    return 1
",
        )]),
        Lang::Ruby => unreachable!("{NOT_RUBY}"),
    }
}

fn send(server: &Server, method: &str, path: &str, body: &Value) -> Answer {
    server.request(method, path, &[("Content-Type", "application/x-amz-json-1.1")], body.to_string().as_bytes())
}

fn settled(server: &Server, name: &str) {
    eventually("the function is active", Duration::from_secs(20), || {
        let now = server.get(&format!("{FUNCTIONS}/{name}/configuration")).expect(200).json();
        now["State"] == "Active" && now["LastUpdateStatus"] == "Successful"
    });
}

/// Makes the function with this `LoggingConfig`.
fn create(server: &Server, lang: Lang, name: &str, logging: Value) {
    let probe = server.deploy_case(lang, "echo", &[]);
    let runtime = server.get(&format!("/info/{probe}")).expect(200).json()["runtime"].clone();
    let body = json!({
        "FunctionName": name, "Runtime": runtime, "Role": "arn:aws:iam::000000000000:role/r", "Handler": "index.handler",
        "Code": {"ZipFile": base64(&code(lang))}, "LoggingConfig": logging,
    });
    send(server, "POST", FUNCTIONS, &body).expect(201);
    settled(server, name);
}

/// The lines that the caller gets with the answer.
fn tail(server: &Server, name: &str, body: &str) -> Vec<String> {
    let path = format!("{FUNCTIONS}/{name}/invocations");
    let answer = server.request("POST", &path, &[("X-Amz-Log-Type", "Tail")], body.as_bytes()).expect(200);
    let text = unbase64(answer.header("x-amz-log-result").unwrap());
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

fn unbase64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for digit in text.bytes().filter_map(|b| DIGITS.iter().position(|d| *d == b)) {
        bits = bits << 6 | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

fn parsed(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|l| serde_json::from_str(l).unwrap_or_else(|_| Value::from(l.as_str()))).collect()
}

/// The first line whose members include these.
#[track_caller]
fn line_with(lines: &[Value], wanted: Value) -> &Value {
    let fits = |line: &&Value| wanted.as_object().unwrap().iter().all(|(k, v)| line.get(k) == Some(v));
    lines.iter().find(fits).unwrap_or_else(|| panic!("no line has {wanted}: {lines:#?}"))
}

fn json_lines_have_the_members_of_aws(lang: Lang) {
    let server = SERVER.get();
    let name = format!("json-{}", lang.dir());
    create(&server, lang, &name, json!({"LogFormat": "JSON", "SystemLogLevel": "DEBUG"}));
    let lines = parsed(&tail(&server, &name, "{}"));
    let start = &lines[lines.iter().position(|l| l["type"] == "platform.start").unwrap()];
    let id = start["record"]["requestId"].as_str().unwrap();
    assert_eq!(start["record"]["version"], "$LATEST");
    assert!(start["time"].as_str().unwrap().ends_with('Z'), "{start}");
    match lang {
        Lang::Node => {
            let plain = line_with(&lines, json!({"level": "INFO", "message": "plain 7", "requestId": id}));
            assert_eq!(plain.as_object().unwrap().len(), 4, "{plain}");
            line_with(&lines, json!({"level": "INFO", "message": {"a": 1}}));
            let two = line_with(&lines, json!({"level": "WARN", "errorType": "RangeError", "errorMessage": "inner"}));
            assert!(two["message"].as_str().unwrap().starts_with("two RangeError: inner"), "{two}");
            assert!(two["stackTrace"].as_array().unwrap().len() > 1, "{two}");
            let alone = &line_with(&lines, json!({"level": "ERROR"}))["message"];
            let told = (&alone["errorType"], &alone["errorMessage"], &alone["code"]);
            assert_eq!(told, (&json!("TypeError"), &json!("alone"), &json!("X")));
        }
        Lang::Python => {
            let plain =
                json!({"level": "WARNING", "message": "plain 7", "logger": "mine", "requestId": id, "colour": "red"});
            assert_eq!(line_with(&lines, plain)["timestamp"].as_str().unwrap().len(), "2026-01-31T12:00:00Z".len());
            line_with(&lines, json!({"level": "ERROR", "message": {"a": 1}}));
            let two = line_with(&lines, json!({"message": "two", "errorType": "IndexError"}));
            assert_eq!(two["errorMessage"], "pop from empty list");
            assert!(two["location"].as_str().unwrap().starts_with("/var/task/index.py:handler:"), "{two}");
            assert!(two["stackTrace"][0].as_str().unwrap().contains("index.py"), "{two}");
        }
        Lang::Ruby => unreachable!("{NOT_RUBY}"),
    }
    assert!(lines.contains(&json!("raw")), "what is printed stays as it is: {lines:#?}");
    let kept = lines.iter().filter(|l| l["message"] == "quiet" || l["raw"] == 1).count();
    assert_eq!(kept, 0, "debugging is below INFO: {lines:#?}");
    let ends: Vec<&str> = lines.iter().filter_map(|l| l["type"].as_str()).collect();
    assert_eq!(ends[ends.len() - 2..], ["platform.runtimeDone", "platform.report"]);
    let report = &lines.last().unwrap()["record"];
    assert_eq!((&report["status"], &report["metrics"]["memorySizeMB"]), (&json!("success"), &json!(128)));
    assert!(report["metrics"]["durationMs"].is_number() && report["metrics"]["billedDurationMs"].is_u64(), "{report}");

    let all = parsed(&server.logs(&name));
    let begun = line_with(&all, json!({"type": "platform.initStart"}));
    assert_eq!((&begun["record"]["phase"], &begun["record"]["functionName"]), (&json!("init"), &json!(name)));
    line_with(&all, json!({"type": "platform.initRuntimeDone"}));
    assert!(all.iter().any(|l| l["message"] == "loading"), "{all:#?}");
    assert!(!all.iter().any(|l| l.as_str().is_some_and(|t| t.starts_with("START") || t.starts_with("REPORT"))));
}

fn json_errors_are_lines_of_json(lang: Lang) {
    let server = SERVER.get();
    let name = format!("json-fails-{}", lang.dir());
    create(
        &server,
        lang,
        &name,
        json!({"LogFormat": "JSON", "ApplicationLogLevel": "ERROR", "SystemLogLevel": "WARN"}),
    );
    let lines = parsed(&tail(&server, &name, "{\"fail\":true}"));
    let (shape, kind): (fn(&Value) -> &Value, _) = match lang {
        Lang::Node => (|line| &line["message"], "Error"),
        Lang::Python => (|line| line, "KeyError"),
        Lang::Ruby => unreachable!("{NOT_RUBY}"),
    };
    let error = lines.iter().find(|l| shape(l)["errorType"] == kind).unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(error["level"], "ERROR");
    assert!(shape(error)["errorMessage"].as_str().unwrap().contains("as asked"), "{error}");
    assert!(shape(error)["stackTrace"].to_string().contains("/var/task/index."), "{error}");
    let levels: Vec<&Value> = lines.iter().filter_map(|l| l.get("level")).collect();
    assert!(levels.iter().all(|level| **level == "ERROR"), "{lines:#?}");
    assert!(!lines.contains(&json!("raw")), "a line without a level counts as INFO: {lines:#?}");
    let events: Vec<&str> = lines.iter().filter_map(|l| l["type"].as_str()).collect();
    assert_eq!(events, ["platform.runtimeDone", "platform.report"], "of the platform, what is not as it should be");
    assert_eq!(lines.last().unwrap()["record"]["status"], "error");
}

fn text_lines_have_the_shape_of_aws(lang: Lang) {
    let server = SERVER.get();
    let name = format!("text-{}", lang.dir());
    create(&server, lang, &name, json!({"LogFormat": "Text"}));
    let lines = tail(&server, &name, "{\"fail\":true}");
    let id = lines.iter().find_map(|l| l.strip_prefix("START RequestId: ")).unwrap().split(' ').next().unwrap();
    let fields = |contains: &str| -> Vec<&str> {
        lines
            .iter()
            .find(|l| l.contains(contains))
            .unwrap_or_else(|| panic!("{contains}: {lines:#?}"))
            .split('\t')
            .collect()
    };
    match lang {
        Lang::Node => {
            let plain = fields("plain 7");
            assert_eq!((plain[0].len(), &plain[1..]), (24, &[id, "INFO", "plain 7"][..]));
            assert_eq!(&fields("quiet")[1..], [id, "DEBUG", "quiet"], "text has no levels");
            let error = fields("Invoke Error");
            assert_eq!((error[1], error[2], error[3]), (id, "ERROR", "Invoke Error "));
            let told: Value = serde_json::from_str(error[4]).unwrap();
            let told = (&told["errorType"], &told["errorMessage"], &told["code"], told["stack"][0].as_str());
            assert_eq!(told, (&json!("Error"), &json!("as asked"), &json!("ASKED"), Some("Error: as asked")));
            let at_load = server.logs(&name).into_iter().find(|l| l.ends_with("INFO\tloading")).unwrap();
            assert!(at_load.contains("\tundefined\t") || at_load.contains("\t-\t"), "{at_load}");
        }
        Lang::Python => {
            let plain = fields("plain 7");
            assert_eq!((plain[0], plain[1].len(), plain[2], plain[3]), ("[WARNING]", 24, id, "plain 7"));
            let at =
                lines.iter().position(|l| l == "[ERROR] KeyError: 'as asked'").unwrap_or_else(|| panic!("{lines:#?}"));
            assert_eq!(lines[at + 1], "Traceback (most recent call last):");
            assert!(lines[at + 2].starts_with("\u{a0}\u{a0}File \"/var/task/index.py\", line "), "{}", lines[at + 2]);
        }
        Lang::Ruby => unreachable!("{NOT_RUBY}"),
    }
    assert!(lines.last().unwrap().starts_with("REPORT RequestId: "), "{lines:#?}");
}

/// Calls that run side by side on one instance: each line says whose it is.
fn lines_of_calls_at_once_are_told_apart(lang: Lang) {
    let server = SERVER.get();
    let (file, code): (_, &[u8]) = match lang {
        Lang::Node => (
            "index.js",
            b"exports.handler = async (n, c) => { await new Promise((r) => setTimeout(r, 100)); console.log('mine', c.awsRequestId); return awslambda.InvokeStore.getRequestId() }",
        ),
        Lang::Python => (
            "index.py",
            b"import asyncio, logging\nasync def handler(n, c):\n    await asyncio.sleep(0.1)\n    logging.warning('mine %s', c.aws_request_id)\n    return c.aws_request_id\n",
        ),
    Lang::Ruby => unreachable!("{NOT_RUBY}"),
};
    let name = format!("at-once-{}", lang.dir());
    let fields = [
        ("handler", "index.handler"),
        ("convention", "event"),
        ("maxConcurrency", "8"),
        ("env", r#"{"AWS_LAMBDA_LOG_FORMAT":"JSON"}"#),
    ];
    server.deploy(&name, &zip_of(&[(file, code)]), &fields);
    let answers = crate::harness::parallel(6, |_| server.native(&name, "1").expect(200));
    for answer in &answers {
        assert_eq!(answer.json().as_str(), answer.header("offshoot-request-id"));
    }
    let mine: Vec<Value> = parsed(&server.logs(&name))
        .into_iter()
        .filter(|l| l["message"].as_str().is_some_and(|m| m.starts_with("mine")))
        .collect();
    assert_eq!(mine.len(), 6, "{mine:?}");
    for line in mine {
        assert!(line["message"].as_str().unwrap().ends_with(line["requestId"].as_str().unwrap()), "{line}");
    }
}

node_and_python! {
    lines_of_calls_at_once_are_told_apart
    json_lines_have_the_members_of_aws
    json_errors_are_lines_of_json
    text_lines_have_the_shape_of_aws
}

/// One of CloudWatch Logs' operations.
fn logs(server: &Server, operation: &str, body: &Value) -> Answer {
    let target = format!("Logs_20140328.{operation}");
    let headers = [("X-Amz-Target", target.as_str()), ("Content-Type", "application/x-amz-json-1.1")];
    server.request("POST", "/", &headers, body.to_string().as_bytes())
}

#[test]
fn functions_share_a_group_of_their_own() {
    let server = SERVER.get();
    for name in ["shares-a", "shares-b"] {
        create(&server, Lang::Node, name, json!({"LogFormat": "JSON", "LogGroup": "/team/all"}));
        tail(&server, name, "{}");
    }
    let groups = logs(&server, "DescribeLogGroups", &json!({"logGroupNamePrefix": "/team/"})).expect(200).json();
    assert_eq!(groups["logGroups"].as_array().unwrap().len(), 1, "{groups}");
    assert_eq!(groups["logGroups"][0]["logGroupName"], "/team/all");
    let events = logs(&server, "FilterLogEvents", &json!({"logGroupName": "/team/all", "filterPattern": "plain"}))
        .expect(200)
        .json();
    let streams: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|e| e["logStreamName"].as_str().unwrap()).collect();
    assert!(streams.len() == 2 && streams.iter().any(|s| s.contains("/shares-a[$LATEST]")), "{streams:?}");
    assert!(streams.iter().any(|s| s.contains("/shares-b[$LATEST]")), "{streams:?}");
    let own = logs(&server, "DescribeLogStreams", &json!({"logGroupName": "/aws/lambda/shares-a"}));
    assert!(
        own.status == 400 && own.text().contains("ResourceNotFoundException"),
        "it does not write there: {}",
        own.text()
    );
    let page = |token: Option<&Value>| {
        let mut asked =
            json!({"logGroupName": "/team/all", "orderBy": "LastEventTime", "descending": true, "limit": 1});
        if let Some(token) = token {
            asked["nextToken"] = token.clone();
        }
        logs(&server, "DescribeLogStreams", &asked).expect(200).json()
    };
    let first = page(None);
    assert!(
        first["logStreams"][0]["logStreamName"].as_str().unwrap().contains("/shares-b["),
        "the last that wrote: {first}"
    );
    let second = page(Some(&first["nextToken"]));
    assert!(second["logStreams"][0]["logStreamName"].as_str().unwrap().contains("/shares-a["), "{second}");
    assert_eq!(second.get("nextToken"), None);
}
