//! AWS's own answers as facts: what Lambda is on record to say to these requests (the recordings in LocalStack's archived suite),
//! kept in `tests/golden/recorded.txt` as status, error type and body. A line that changes there is a difference to AWS.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Answer, Server, Shared, base64, eventually, golden, zip_of};

static SERVER: Shared = Shared::new(&[]);

const F: &str = "/2015-03-31/functions";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:";

fn send(server: &Server, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.request(method, path, &[("Content-Type", "application/x-amz-json-1.1")], body.as_bytes())
}

/// The members of a new function. Its program is never started.
fn function(name: &str, more: Value) -> Value {
    let code = base64(&zip_of(&[("bootstrap", b"#!/bin/sh\n")]));
    let mut all = json!({
        "FunctionName": name, "Runtime": "provided.al2023", "Handler": "any", "Code": {"ZipFile": code},
        "Role": "arn:aws:iam::000000000000:role/r",
    });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn settled(server: &Server, name: &str) {
    eventually("the function is ready", Duration::from_secs(20), || {
        let now = server.get(&format!("{F}/{name}/configuration")).expect(200).json();
        now["State"] == "Active" && now["LastUpdateStatus"] == "Successful"
    });
}

/// The function `known` with version 1 and the alias `live`, and two versions of the layer `shelf`.
fn prepared() -> std::sync::Arc<Server> {
    let server = SERVER.get();
    send(&server, "POST", F, &function("known", json!({}))).expect(201);
    settled(&server, "known");
    send(&server, "POST", &format!("{F}/known/versions"), &json!({})).expect(201);
    send(&server, "POST", &format!("{F}/known/aliases"), &json!({"Name": "live", "FunctionVersion": "1"})).expect(201);
    for text in ["1", "2"] {
        let content = json!({"Content": {"ZipFile": base64(&zip_of(&[("a", text.as_bytes())]))}});
        send(&server, "POST", "/2018-10-31/layers/shelf/versions", &content).expect(201);
    }
    server
}

fn refusals() -> Vec<(&'static str, String, Value)> {
    let none = Value::Null;
    let layers = |list: &[&str]| {
        let arns: Vec<String> = list.iter().map(|l| format!("{ARN}layer:{l}")).collect();
        json!({ "Layers": arns })
    };
    let permission =
        |principal: &str| json!({"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": principal});
    let to = |arn: String| json!({"DestinationConfig": {"OnSuccess": {"Destination": arn}}});
    let archive = base64(b"not an archive");
    vec![
        // Names and qualifiers.
        ("GET", format!("{F}/nobody"), none.clone()),
        ("GET", format!("{F}/known?Qualifier=7"), none.clone()),
        ("GET", format!("{F}/known:1?Qualifier=2"), none.clone()),
        ("GET", format!("{F}/known?Qualifier=no%3F"), none.clone()),
        ("GET", format!("{F}/arn:aws:lambda:ap-southeast-1:000000000000:function:known"), none.clone()),
        ("GET", format!("{F}/111111111111:function:known"), none.clone()),
        ("DELETE", format!("{F}/nobody?Qualifier=$LATEST"), none.clone()),
        ("DELETE", format!("{F}/nobody?Qualifier=1"), none.clone()),
        ("DELETE", format!("{F}/nobody?Qualifier=live"), none.clone()),
        ("DELETE", format!("{F}/nobody?Qualifier=$latest"), none.clone()),
        // Functions.
        ("POST", F.to_owned(), function("new", json!({"Role": "r1"}))),
        ("POST", F.to_owned(), function("new", json!({"Runtime": "PYTHON3.9"}))),
        ("POST", F.to_owned(), function("new", json!({"Runtime": "provided"}))),
        ("POST", F.to_owned(), function("new", json!({"Architectures": ["X86_64"]}))),
        ("POST", F.to_owned(), function("new", json!({"VpcConfig": {"SubnetIds": ["no"]}}))),
        ("POST", F.to_owned(), function("new", json!({"VpcConfig": {"SecurityGroupIds": ["no"]}}))),
        ("POST", F.to_owned(), function("new", json!({"Architectures": ["x86_64", "arm64"]}))),
        ("POST", F.to_owned(), function("new", json!({"Code": {"ZipFile": archive}}))),
        ("POST", F.to_owned(), function("known", json!({}))),
        ("PUT", format!("{F}/known/configuration"), json!({"RevisionId": "wrong"})),
        // Layers of functions, and layers.
        ("PUT", format!("{F}/known/configuration"), layers(&["shelf:9"])),
        ("PUT", format!("{F}/known/configuration"), layers(&["shelf"])),
        ("PUT", format!("{F}/known/configuration"), layers(&["shelf:1", "shelf:2"])),
        ("GET", "/2018-10-31/layers/shelf/versions/0".to_owned(), none.clone()),
        ("GET", "/2018-10-31/layers/shelf/versions/9".to_owned(), none.clone()),
        ("GET", "/2018-10-31/layers?CompatibleArchitecture=none".to_owned(), none.clone()),
        ("GET", format!("/2018-10-31/layers?find=LayerVersion&Arn={ARN}layer:shelf"), none.clone()),
        (
            "POST",
            "/2018-10-31/layers/shelf/versions".to_owned(),
            json!({"Content": {"ZipFile": archive}, "CompatibleRuntimes": ["no"], "CompatibleArchitectures": ["no"]}),
        ),
        // Aliases.
        ("POST", format!("{F}/nobody/aliases"), json!({"Name": "a", "FunctionVersion": "1"})),
        ("POST", format!("{F}/known/aliases"), json!({"Name": "live", "FunctionVersion": "1"})),
        ("POST", format!("{F}/known/aliases"), json!({"Name": "a", "FunctionVersion": "9"})),
        (
            "POST",
            format!("{F}/known/aliases"),
            json!({"Name": "a", "FunctionVersion": "$LATEST", "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}}),
        ),
        // Policies.
        ("GET", format!("{F}/known/policy"), none.clone()),
        ("POST", format!("{F}/known:$LATEST/policy"), permission("s3.amazonaws.com")),
        ("POST", format!("{F}/known/policy"), permission("invalid.nonaws.com")),
        ("POST", format!("{F}/known:no-alias/policy"), permission("s3.amazonaws.com")),
        ("DELETE", format!("{F}/known/policy/s"), none.clone()),
        ("DELETE", format!("{F}/nobody/policy/s"), none.clone()),
        ("DELETE", format!("{F}/known:no-alias/policy/s"), none.clone()),
        // Asynchronous invocation.
        (
            "POST",
            "/2015-03-31/event-source-mappings".to_owned(),
            json!({"FunctionName": "known", "Topics": ["t"], "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": ["k:1"]}}}),
        ),
        ("PUT", "/2019-09-25/functions/nobody/event-invoke-config".to_owned(), json!({})),
        ("PUT", "/2019-09-25/functions/nobody/event-invoke-config".to_owned(), json!({"MaximumRetryAttempts": 1})),
        ("PUT", "/2019-09-25/functions/known/event-invoke-config".to_owned(), to(format!("{ARN}function:nobody"))),
        ("PUT", "/2019-09-25/functions/known/event-invoke-config".to_owned(), to(format!("{ARN}function:known"))),
        ("PUT", "/2019-09-25/functions/known/event-invoke-config".to_owned(), to(ARN.replace("lambda", "_-/!lambda"))),
        ("DELETE", "/2019-09-25/functions/known/event-invoke-config".to_owned(), none.clone()),
        // Concurrency.
        ("PUT", "/2017-10-31/functions/known/concurrency".to_owned(), json!({"ReservedConcurrentExecutions": 901})),
        (
            "PUT",
            "/2019-09-30/functions/nobody/provisioned-concurrency?Qualifier=a".to_owned(),
            json!({"ProvisionedConcurrentExecutions": 1}),
        ),
        (
            "PUT",
            "/2019-09-30/functions/known/provisioned-concurrency?Qualifier=1".to_owned(),
            json!({"ProvisionedConcurrentExecutions": 1001}),
        ),
        (
            "PUT",
            "/2019-09-30/functions/known/provisioned-concurrency?Qualifier=1".to_owned(),
            json!({"ProvisionedConcurrentExecutions": 901}),
        ),
        ("DELETE", "/2019-09-30/functions/known/provisioned-concurrency?Qualifier=$LATEST".to_owned(), none.clone()),
        // URLs.
        ("PUT", "/2021-10-31/functions/nobody/url".to_owned(), json!({"AuthType": "NONE"})),
        ("PUT", "/2021-10-31/functions/known/url".to_owned(), json!({"AuthType": "NONE"})),
        ("GET", "/2021-10-31/functions/known/url?Qualifier=1".to_owned(), none.clone()),
        // Tags.
        ("GET", format!("/2017-03-31/tags/{ARN}function:nobody"), none.clone()),
        ("GET", format!("/2017-03-31/tags/{ARN}function:known:live"), none.clone()),
        ("GET", format!("/2017-03-31/tags/{ARN}capacity-provider:none"), none.clone()),
        ("GET", format!("/2017-03-31/tags/{ARN}foobar:none"), none.clone()),
        // Code signing.
        ("GET", "/2020-06-30/functions/known/code-signing-config".to_owned(), none.clone()),
        (
            "GET",
            format!("/2020-04-22/code-signing-configs/{ARN}code-signing-config:csc-00000000000000000"),
            none.clone(),
        ),
        (
            "PUT",
            "/2020-06-30/functions/known/code-signing-config".to_owned(),
            json!({"CodeSigningConfigArn": format!("{ARN}code-signing-config:csc-00000000000000000")}),
        ),
    ]
}

#[test]
fn refusals_are_aws_own() {
    let server = prepared();
    let mut text = String::new();
    for (method, path, body) in refusals() {
        let answer = send(&server, method, &path, &body);
        let kind = answer.header("x-amzn-errortype").unwrap_or("-").to_owned();
        let mut asked = body.clone();
        if let Some(code) = asked.get_mut("Code") {
            *code = json!("…"); // which is an archive
        }
        let asked = if body.is_null() { String::new() } else { format!(" {asked}") };
        writeln!(text, "{method} {path}{asked}\n  {} {kind} {}", answer.status, answer.text()).unwrap();
    }
    golden("recorded.txt", &text);
}

/// `RevisionId` moves with every change and every state, as it is recorded, and no number is given to two versions.
#[test]
fn revisions_and_numbers_move_as_on_aws() {
    let server = SERVER.get();
    let revision = |path: &str| {
        let now = server.get(&format!("{F}/{path}")).expect(200).json();
        now["Configuration"]["RevisionId"].as_str().unwrap().to_owned()
    };
    let made = send(&server, "POST", F, &function("moves", json!({}))).expect(201).json();
    settled(&server, "moves");
    let mut seen = vec![made["RevisionId"].as_str().unwrap().to_owned(), revision("moves")];
    let known = json!({"RevisionId": seen[0]});
    assert_eq!(send(&server, "PUT", &format!("{F}/moves/configuration"), &known).status, 412, "it is active since");
    send(&server, "POST", &format!("/2017-03-31/tags/{ARN}function:moves"), &json!({"Tags": {"a": "b"}})).expect(204);
    seen.push(revision("moves"));
    let published = send(&server, "POST", &format!("{F}/moves/versions"), &json!({})).expect(201).json();
    assert_eq!(published["Version"], "1");
    seen.push(revision("moves"));
    assert_eq!(revision("moves?Qualifier=1"), published["RevisionId"].as_str().unwrap());
    seen.push(revision("moves?Qualifier=1"));
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "{seen:?}");
    let listed = server.get(F).expect(200).json();
    let listed = listed["Functions"].as_array().unwrap().iter().find(|f| f["FunctionName"] == "moves").unwrap().clone();
    for absent in ["State", "LastUpdateStatus", "RuntimeVersionConfig"] {
        assert!(listed.get(absent).is_none(), "{absent} is not in a list: {listed}");
    }
    send(&server, "DELETE", &format!("{F}/moves"), &Value::Null).expect(204);
    send(&server, "POST", F, &function("moves", json!({"Publish": true}))).expect(201);
    settled(&server, "moves");
    assert_eq!(server.get(&format!("{F}/moves?Qualifier=2")).expect(200).json()["Configuration"]["Version"], "2");
    assert_eq!(server.get(&format!("{F}/moves?Qualifier=1")).status, 404);
}
