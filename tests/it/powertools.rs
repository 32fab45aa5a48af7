//! Powertools for Python and for TypeScript, unmodified, in functions of our own workers: what they log and measure, route, parse
//! and remember. The functions are `tests/clients/powertools.py` and `tests/clients/node/powertools.mjs`.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Answer, Server, eventually, installed, root};
use crate::official_clients::{File, files_of, reply, zip};

/// A line of a function's log that is JSON and has this member with this value.
#[track_caller]
fn line(server: &Server, name: &str, member: &str, value: &Value) -> Value {
    let mut found = None;
    eventually(&format!("{name} printed {member} {value}"), std::time::Duration::from_secs(5), || {
        let lines = server.logs(name);
        let mut parsed = lines.iter().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        found = parsed.find(|l| l[member] == *value);
        found.is_some()
    });
    found.unwrap()
}

/// What a shop does, in either language.
fn a_shop(server: &Server, name: &str) {
    assert!(reply(server, name, &json!({}))["left"].as_i64().unwrap() > 0);
    // An order is parsed, logged with the call's context, measured, and taken once.
    let order = json!({"order": {"id": "o-1", "item": "hat", "count": 3}});
    let answer = server.native(name, order.to_string()).expect(200);
    let first = answer.json();
    assert_eq!(first["number"], 1, "{first} {:?}", server.logs(name));
    assert_eq!(reply(server, name, &order), first, "the second is the first one's answer");
    assert_eq!(reply(server, name, &json!({"order": {"id": "o-2", "item": "hat", "count": 1}}))["number"], 2);
    let said = line(server, name, "message", &json!("ordered"));
    let id = answer.header("offshoot-request-id").unwrap();
    assert_eq!(
        (&said["level"], &said["service"], &said["item"]),
        (&json!("INFO"), &json!("shop"), &json!("hat")),
        "{said}"
    );
    assert_eq!((&said["function_request_id"], &said["function_name"]), (&json!(id), &json!(name)), "{said}");
    assert_eq!(said["function_arn"], format!("arn:aws:lambda:us-east-1:000000000000:function:{name}"), "{said}");
    let measured = line(server, name, "Ordered", &measured_as(name, 3));
    assert_eq!(measured["_aws"]["CloudWatchMetrics"][0]["Namespace"], "Shop", "{measured}");
    // The environment's first call, and only that, was a cold start; that for TypeScript counts none where there is a snapshot.
    let starts = server.logs(name).iter().filter(|l| l.contains(r#""ColdStart""#) && l.contains("_aws")).count();
    assert_eq!((starts, &said["cold_start"]), (usize::from(name != "shop-snap-js"), &json!(false)), "{name}");
    assert_eq!(reply(server, name, &json!({"order": {"item": "hat", "count": "many"}}))["refused"], true);
    assert!(line(server, name, "message", &json!("refused"))["level"].as_str().unwrap().starts_with("WARN"));
    // A batch tells which of its records failed.
    let message = |id: &str, body: &str| {
        json!({"messageId": id, "body": body, "receiptHandle": "r", "eventSource": "aws:sqs",
        "attributes": {}, "messageAttributes": {}, "md5OfBody": "x", "eventSourceARN": "arn:aws:sqs:us-east-1:0:q", "awsRegion": "us-east-1"})
    };
    let batch = json!({"Records": [message("a", "good"), message("b", "bad"), message("c", "good")]});
    assert_eq!(reply(server, name, &batch), json!({"batchItemFailures": [{"itemIdentifier": "b"}]}));
    // A request by way of API Gateway.
    let http = json!({"method": "GET", "path": "/items/hat", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"});
    let request = json!({
        "version": "2.0", "routeKey": "$default", "rawPath": "/items/hat", "rawQueryString": "size=4", "isBase64Encoded": false,
        "headers": {"host": "a.execute-api.us-east-1.amazonaws.com"}, "queryStringParameters": {"size": "4"},
        "requestContext": {"accountId": "0", "apiId": "a", "domainName": "a.execute-api.us-east-1.amazonaws.com", "domainPrefix": "a",
            "http": http, "requestId": "r", "routeKey": "$default", "stage": "$default", "time": "24/Nov/2025:23:09:04 +0000", "timeEpoch": 1},
    });
    let answer = reply(server, name, &request);
    let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&answer["statusCode"], &body),
        (&json!(200), &json!({"item": "hat", "query": {"size": "4"}})),
        "{answer}"
    );
    // An error is the function's, and logged.
    let failed = server.native(name, r#"{"fail":true}"#);
    assert!(
        failed.header("offshoot-function-error").is_some() && failed.text().contains("asked to"),
        "{}",
        failed.text()
    );
    assert_eq!(line(server, name, "message", &json!("it failed"))["level"], "ERROR");
}

/// Python's library writes a list, that for TypeScript a number.
fn measured_as(name: &str, value: u32) -> Value {
    if name.ends_with("py") { json!([f64::from(value)]) } else { json!(value) }
}

/// A shop on the web, called through its function URL.
fn on_the_web(server: &Server, name: &str) {
    let send = |path: &str, body: &Value| -> Answer {
        server.request("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    };
    let made = send(&format!("/2021-10-31/functions/{name}/url"), &json!({"AuthType": "NONE"})).expect(201).json();
    let permission = json!({"StatementId": "u", "Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE"});
    send(&format!("/2015-03-31/functions/{name}/policy"), &permission).expect(201);
    let at =
        format!("/lambda-url/{}", made["FunctionUrl"].as_str().unwrap()["http://".len()..].split('.').next().unwrap());
    let found = server.get(&format!("{at}/items/hat?size=4")).expect(200);
    assert_eq!(found.json(), json!({"item": "hat", "query": {"size": "4"}}), "{:?}", found.headers);
    let made = send(&format!("{at}/items"), &json!({"item": "hat"})).expect(201);
    assert_eq!((made.text().as_str(), made.header("x-shop")), ("made hat", Some("open")));
    for path in ["/none", "/nowhere"] {
        assert_eq!(server.get(&format!("{at}{path}")).expect(404).json()["statusCode"], 404);
    }
}

fn deploy(server: &Server, name: &str, archive: &[u8], handler: &str, more: &[(&str, &str)]) {
    let fields = [("handler", handler), ("convention", "event"), ("memory", "512"), ("timeout", "20s")];
    server.deploy(name, archive, &[&fields[..], more].concat());
}

#[test]
fn powertools_for_python() {
    let Some(home) = installed("Powertools for Python", "powertools", "aws_lambda_powertools") else { return };
    let mut files: Vec<File> = Vec::new();
    files_of(&home, "", &mut files);
    // Descriptions of AWS's services: the function calls none.
    files.retain(|(name, _, _)| !name.starts_with("botocore/data/") || name.matches('/').count() < 3);
    let app = std::fs::read(root().join("tests/clients/powertools.py")).unwrap();
    let archive = zip(&files, &[("app.py", &app, 0o644)]);
    // One of its libraries is built for the Python that installed it.
    let say = "import sys; print('python%d.%d' % sys.version_info[:2])";
    let done = Command::new(root().join("target/clients/bin/python")).args(["-c", say]).output().unwrap();
    let runtime = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    let server = Server::start(&[]);
    let env = ("env", r#"{"POWERTOOLS_TRACE_DISABLED":"1","POWERTOOLS_LOG_LEVEL":"INFO"}"#);
    for (name, more) in [("shop-py", &[][..]), ("shop-snap-py", &[("snapshot", "on")])] {
        deploy(&server, name, &archive, "app.handler", &[&[("runtime", runtime.as_str()), env], more].concat());
        a_shop(&server, name);
        on_the_web(&server, name);
    }
}

#[test]
fn powertools_for_typescript() {
    let Some(home) = installed("Powertools for TypeScript", "node", "node_modules/@aws-lambda-powertools/logger")
    else {
        return;
    };
    let mut files: Vec<File> = Vec::new();
    files_of(&home.join("node_modules"), "node_modules/", &mut files);
    let unused =
        |name: &str| name.starts_with("node_modules/@aws-sdk/") || name.ends_with(".map") || name.ends_with(".d.ts");
    files.retain(|(name, _, _)| !unused(name));
    let app = std::fs::read(root().join("tests/clients/node/powertools.mjs")).unwrap();
    let archive = zip(&files, &[("index.mjs", &app, 0o644)]);
    let server = Server::start(&[]);
    let env = ("env", r#"{"POWERTOOLS_TRACE_ENABLED":"false","POWERTOOLS_LOG_LEVEL":"INFO"}"#);
    for (name, more) in [("shop-js", &[][..]), ("shop-snap-js", &[("snapshot", "on")])] {
        deploy(&server, name, &archive, "index.handler", &[&[env], more].concat());
        a_shop(&server, name);
        on_the_web(&server, name);
    }
}
