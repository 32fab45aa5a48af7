//! AWS Lambda's API as its clients see it: boto3 and the AWS CLI where they are installed (`scripts/clients.sh`), Terraform where
//! the variable TERRAFORM_PLUGINS names a directory with its AWS provider, and bytes on a socket for what those hide: the
//! members of errors, headers, statuses, links, function URLs.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Lang, Server, Shared, aws_clients, base64, eventually, per_language, root, skip, zip_of, zip_of_dir,
};

static SERVER: Shared = Shared::new(&[]);

const ROLE: &str = "arn:aws:iam::000000000000:role/r";
const FUNCTIONS: &str = "/2015-03-31/functions";

/// The AWS name of a runtime of this language that is on this machine.
fn runtime(server: &Server, lang: Lang) -> String {
    let name = server.deploy_case(lang, "echo", &[]);
    let found = server.get(&format!("/info/{name}")).expect(200).json()["runtime"].as_str().unwrap().to_owned();
    server.request("DELETE", &format!("/del/{name}"), &[], b"").expect(204);
    found
}

fn code(lang: Lang) -> Vec<u8> {
    match lang {
        Lang::Node => zip_of(&[(
            "index.js",
            b"exports.handler = async (e, c) => e.fail ? (() => { throw new RangeError('as asked') })() : \
              (e.reply ?? {event: e, version: c.functionVersion, arn: c.invokedFunctionArn, context: c.clientContext ?? null, trace: process.env._X_AMZN_TRACE_ID});",
        )]),
        Lang::Python => zip_of(&[(
            "index.py",
            b"import os\ndef handler(e, c):\n    if e.get('fail'): raise IndexError('as asked')\n    if 'reply' in e: return e['reply']\n    \
              return {'event': e, 'version': c.function_version, 'arn': c.invoked_function_arn, \
              'context': {'custom': c.client_context.custom} if c.client_context else None, 'trace': os.environ['_X_AMZN_TRACE_ID']}\n",
        )]),
        Lang::Ruby => zip_of(&[(
            "index.rb",
            b"def handler(event:, context:)\n  raise IndexError, 'as asked' if event['fail']\n  return event['reply'] if event.key?('reply')\n  \
              { event: event, version: context.function_version, arn: context.invoked_function_arn, context: context.client_context, \
              trace: ENV['_X_AMZN_TRACE_ID'] }\nend\n",
        )]),
    }
}

fn send(server: &Server, method: &str, path: &str, body: &Value) -> Answer {
    server.request(method, path, &[("Content-Type", "application/x-amz-json-1.1")], body.to_string().as_bytes())
}

/// Makes a function and waits until it is active.
fn create(server: &Server, lang: Lang, name: &str, more: Value) -> Value {
    let mut body = json!({
        "FunctionName": name, "Runtime": runtime(server, lang), "Role": ROLE, "Handler": "index.handler",
        "Code": {"ZipFile": base64(&code(lang))},
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = send(server, "POST", FUNCTIONS, &body).expect(201).json();
    settled(server, name);
    made
}

fn settled(server: &Server, name: &str) {
    eventually("the function is active", Duration::from_secs(20), || {
        let now = server.get(&format!("{FUNCTIONS}/{name}/configuration")).expect(200).json();
        now["State"] == "Active" && now["LastUpdateStatus"] == "Successful"
    });
}

fn invoke(server: &Server, name: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    server.request("POST", &format!("{FUNCTIONS}/{name}/invocations"), headers, body.as_bytes())
}

fn invocations_carry_what_callers_say(lang: Lang) {
    let server = SERVER.get();
    let name = format!("call-{}", lang.dir());
    let made = create(&server, lang, &name, json!({}));
    assert_eq!((&made["State"], &made["StateReasonCode"]), (&json!("Pending"), &json!("Creating")));
    assert!(made["LastModified"].as_str().unwrap().ends_with("+0000"), "{made}");
    assert_eq!(made["CodeSha256"].as_str().unwrap().len(), 44);
    let headers = [
        ("X-Amz-Client-Context", "eyJjdXN0b20iOnsiYSI6ImIifX0="),
        ("X-Amzn-Trace-Id", "Root=1-00000000-000000000000000000000001;Parent=0000000000000002;Sampled=1"),
        ("X-Amz-Log-Type", "Tail"),
    ];
    let answer = invoke(&server, &name, &headers, r#"{"a":1}"#).expect(200);
    assert_eq!(answer.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-amz-function-error"), None);
    assert!(answer.header("x-amz-log-result").is_some() && answer.header("x-amzn-requestid").is_some());
    let seen = answer.json();
    assert_eq!((&seen["event"], &seen["context"]), (&json!({"a": 1}), &json!({"custom": {"a": "b"}})));
    // As it came, with the count of the function's runs in this chain.
    let trace = seen["trace"].as_str().unwrap();
    let lineage = trace.strip_prefix(headers[1].1).and_then(|rest| rest.strip_prefix(";Lineage=1:"));
    assert!(lineage.is_some_and(|l| l.ends_with(":0")), "{trace}");
    assert_eq!(seen["arn"], format!("arn:aws:lambda:us-east-1:000000000000:function:{name}"));
    // The next call has its own trace, and nothing stands for an empty event.
    let seen = invoke(&server, &name, &[], "").expect(200).json();
    assert_eq!((&seen["event"], &seen["context"]), (&json!({}), &Value::Null));
    assert!(seen["trace"].as_str().unwrap().starts_with("Root=1-"), "{seen}");
    let failed = invoke(&server, &name, &[], r#"{"fail":true}"#).expect(200);
    assert_eq!(failed.header("x-amz-function-error"), Some("Unhandled"));
    assert_eq!(failed.json()["errorMessage"], "as asked");
    let dry = invoke(&server, &name, &[("X-Amz-Invocation-Type", "DryRun")], "{}").expect(204);
    assert!(dry.body.is_empty());
    // All spellings of a name, also percent-encoded as SDKs send them.
    for spelled in [
        format!("arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3A{name}%3A%24LATEST"),
        format!("000000000000:function:{name}"),
        format!("{name}:$LATEST"),
    ] {
        invoke(&server, &spelled, &[], "{}").expect(200);
    }
}

fn versions_run_what_they_were(lang: Lang) {
    let server = SERVER.get();
    let name = format!("ver-{}", lang.dir());
    create(&server, lang, &name, json!({"Publish": true}));
    let other = zip_of(&[match lang {
        Lang::Node => ("index.js", b"exports.handler = async () => 'two'".as_slice()),
        Lang::Python => ("index.py", b"def handler(e, c): return 'two'".as_slice()),
        Lang::Ruby => ("index.rb", b"def handler(event:, context:) = 'two'".as_slice()),
    }]);
    let body = json!({"ZipFile": base64(&other), "Publish": true});
    let second = send(&server, "PUT", &format!("{FUNCTIONS}/{name}/code"), &body).expect(200).json();
    assert_eq!((&second["Version"], &second["CodeSize"]), (&json!("2"), &json!(other.len())));
    settled(&server, &name);
    let call = |q: &str| {
        let path = format!("{FUNCTIONS}/{name}/invocations?Qualifier={q}");
        let answer = server.request("POST", &path, &[], b"{}").expect(200);
        (answer.header("x-amz-executed-version").unwrap().to_owned(), answer.json())
    };
    assert_eq!(call("1").1["version"], "1");
    assert_eq!(call("2"), ("2".to_owned(), json!("two")));
    assert_eq!(call("%24LATEST"), ("$LATEST".to_owned(), json!("two")));
    // What another dialect deploys is the same function; its versions stay.
    server.deploy(&name, &code(lang), &[("convention", "event"), ("handler", "index.handler")]);
    assert_eq!(call("2").1, json!("two"));
    assert_eq!(call("%24LATEST").1["version"], "$LATEST");
    server.request("DELETE", &format!("/del/{name}"), &[], b"").expect(204);
    let gone = server.request("POST", &format!("{FUNCTIONS}/{name}/invocations?Qualifier=2"), &[], b"{}").expect(404);
    assert_eq!(gone.header("x-amzn-errortype"), Some("ResourceNotFoundException"));
}

per_language! { invocations_carry_what_callers_say versions_run_what_they_were }

/// Status, type and body of refusals, member by member: recorded from AWS, or ours where AWS has no such case.
#[test]
fn errors_have_awss_shapes() {
    let server = SERVER.get();
    create(&server, Lang::Node, "errors", json!({}));
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:";
    let user = |key: &str, message: &str| json!({"Type": "User", key: message});
    let one = "1 validation error detected:";
    let same = "The derived qualifier from the function name does not match the specified qualifier.";
    let code = json!({"ZipFile": base64(b"no zip")});
    let new = |name: &str| json!({"FunctionName": name, "Runtime": "nodejs20.x", "Role": ROLE, "Handler": "a.b", "Code": code});
    let f = FUNCTIONS;
    let cases: Vec<(&str, String, Value, u16, &str, Value)> = vec![
        (
            "GET",
            format!("{f}/nope"),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", &format!("Function not found: {arn}nope")),
        ),
        (
            "GET",
            format!("{f}/errors?Qualifier=7"),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", &format!("Function not found: {arn}errors:7")),
        ),
        (
            "POST",
            format!("{f}/nope/invocations"),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", &format!("Function not found: {arn}nope:$LATEST")),
        ),
        (
            "GET",
            format!("{f}/errors:1?Qualifier=2"),
            json!({}),
            400,
            "InvalidParameterValueException",
            user("message", same),
        ),
        (
            "GET",
            format!("{f}/arn:aws:lambda:eu-west-1:000000000000:function:errors"),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"),
        ),
        (
            "GET",
            format!("{f}/arn:aws:lambda:us-east-1:111111111111:function:errors"),
            json!({}),
            403,
            "AccessDeniedException",
            json!({"Message": null}),
        ),
        (
            "GET",
            format!("{f}/errors?Qualifier=invalid!"),
            json!({}),
            400,
            "ValidationException",
            json!({"message": format!("{one} Value 'invalid!' at 'qualifier' failed to satisfy constraint: Member must satisfy regular expression pattern: \\$(LATEST(\\.PUBLISHED)?)|[a-zA-Z0-9-_$]+")}),
        ),
        (
            "POST",
            f.to_owned(),
            json!({"FunctionName": "x", "Role": "r1", "Code": {}}),
            400,
            "ValidationException",
            json!({"message": format!("{one} Value 'r1' at 'role' failed to satisfy constraint: Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\\d{{12}}:role/?[a-zA-Z_0-9+=,.@\\-_/]+")}),
        ),
        (
            "POST",
            f.to_owned(),
            new(&"a".repeat(65)),
            400,
            "InvalidParameterValueException",
            user(
                "message",
                &format!(
                    "{one} Value '{}' at 'functionName' failed to satisfy constraint: Member must have length less than or equal to 64",
                    "a".repeat(65)
                ),
            ),
        ),
        (
            "DELETE",
            format!("{f}/errors?Qualifier=%24LATEST"),
            json!({}),
            400,
            "InvalidParameterValueException",
            user("message", "$LATEST version cannot be deleted without deleting the function."),
        ),
        (
            "GET",
            format!("{f}/errors/policy"),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", "The resource you requested does not exist."),
        ),
        (
            "GET",
            format!("{f}/errors/aliases/none"),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", &format!("Cannot find alias arn: {arn}errors:none")),
        ),
        (
            "POST",
            format!("{f}/errors/aliases"),
            json!({"Name": "2024", "FunctionVersion": "$LATEST"}),
            400,
            "ValidationException",
            json!({"message": format!("{one} Value '2024' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)")}),
        ),
        (
            "GET",
            "/2019-09-25/functions/errors/event-invoke-config".into(),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", &format!("The function {arn}errors:$LATEST doesn't have an EventInvokeConfig")),
        ),
        (
            "GET",
            "/2021-10-31/functions/errors/url".into(),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", "The resource you requested does not exist."),
        ),
        (
            "POST",
            "/2021-10-31/functions/errors/url?Qualifier=1".into(),
            json!({"AuthType": "NONE"}),
            400,
            "ValidationException",
            json!({"message": format!("{one} Value '1' at 'qualifier' failed to satisfy constraint: Member must satisfy regular expression pattern: ((?!^\\d+$)^[0-9a-zA-Z-_]+$)")}),
        ),
        (
            "PUT",
            "/2019-09-30/functions/errors/provisioned-concurrency?Qualifier=%24LATEST".into(),
            json!({"ProvisionedConcurrentExecutions": 1}),
            400,
            "InvalidParameterValueException",
            user("message", "Provisioned Concurrency Configs cannot be applied to unpublished function versions."),
        ),
        (
            "PUT",
            "/2017-10-31/functions/errors/concurrency".into(),
            json!({"ReservedConcurrentExecutions": 1000}),
            400,
            "InvalidParameterValueException",
            // One of the answers that have no `Type`.
            json!({"message": "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100]."}),
        ),
        (
            "GET",
            "/2018-10-31/layers/none/versions/1".into(),
            json!({}),
            404,
            "ResourceNotFoundException",
            user("Message", "The resource you requested does not exist."),
        ),
        (
            "GET",
            "/2018-10-31/layers/none/versions/0".into(),
            json!({}),
            400,
            "InvalidParameterValueException",
            user("message", "Layer Version Cannot be less than 1"),
        ),
        (
            "POST",
            "/2015-03-31/event-source-mappings".into(),
            json!({"FunctionName": "errors"}),
            400,
            "InvalidParameterValueException",
            user("message", "Unrecognized event source."),
        ),
        (
            "GET",
            "/2025-12-01/durable-executions/a%2Fb".into(),
            json!({}),
            400,
            "InvalidParameterValueException",
            user("message", "Invalid Durable Execution ARN"),
        ),
        (
            "POST",
            "/2025-12-01/durable-executions/a%2Fb/pause".into(),
            json!({}),
            400,
            "InvalidParameterValueException",
            user("message", "Invalid Durable Execution ARN"),
        ),
        (
            "GET",
            "/2015-03-31/nothing".into(),
            json!({}),
            404,
            "UnknownOperationException",
            user("message", "There is no operation at this path."),
        ),
    ];
    for (method, path, body, status, kind, wanted) in cases {
        let answer = send(&server, method, &path, &body);
        assert_eq!(answer.json(), wanted, "{method} {path}: {}", answer.text());
        assert_eq!((answer.status, answer.header("x-amzn-errortype")), (status, Some(kind)), "{method} {path}");
        assert!(answer.header("x-amzn-requestid").is_some(), "{method} {path}");
    }
    let bad = invoke(&server, "errors", &[], "{").expect(400);
    assert_eq!(bad.header("x-amzn-errortype"), Some("InvalidRequestContentException"));
    let said = bad.json()["message"].as_str().unwrap().to_owned();
    assert!(said.starts_with("Could not parse request body into json: Could not parse payload into json: "), "{said}");
    let large = format!("\"{}\"", "x".repeat(6 << 20));
    let refused = invoke(&server, "errors", &[], &large).expect(413);
    assert_eq!(
        refused.json(),
        user(
            "message",
            "6291458 byte payload is too large for the RequestResponse invocation type (limit 6291456 bytes)"
        )
    );
    let bad_zip = send(&server, "POST", FUNCTIONS, &new("bad-zip"));
    let said = bad_zip.expect(400).json()["message"].as_str().unwrap().to_owned();
    assert!(
        said.starts_with("Could not unzip uploaded file. Please check your file, then try to upload again.")
            || said.contains("nodejs20.x"),
        "{said}"
    );
    server.get("/2015-03-31/functions/bad-zip").expect(404);
    let uploads = || std::fs::read_dir(server.data.join("uploads")).unwrap().count();
    eventually("no upload is left", Duration::from_secs(5), || uploads() == 0);
}

#[test]
fn uploads_that_are_not_right_leave_nothing() {
    let server = SERVER.get();
    let small = Server::start(&["--limits-zipped-bytes", "10000"]);
    let big = json!({"FunctionName": "big", "Runtime": "nodejs20.x", "Role": ROLE, "Handler": "a.b", "Code": {"ZipFile": base64(&vec![7; 20_000])}});
    let refused = send(&small, "POST", FUNCTIONS, &big).expect(413);
    assert_eq!(refused.json()["message"], "Zipped size must be smaller than 10000 bytes");
    for (body, status) in [
        (r#"{"FunctionName":"x","Code":{"ZipFile":"!!!!"}}"#, 400),
        (r#"{"FunctionName":"x","Code":{"ZipFile":"aGVsbG8"#, 400),
        (r#"{"FunctionName":"x","Code":{"ZipFile":"aGVs"},"Code":{"ZipFile":"aGVs"}}"#, 400),
        (r#"{"FunctionName":1}"#, 400),
        ("[", 400),
        ("", 400),
    ] {
        server.request("POST", FUNCTIONS, &[], body.as_bytes()).expect(status);
    }
    let mut conn = server.connect();
    conn.send(b"POST /2015-03-31/functions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{\"Code\":{\"ZipFile\":\"aGVsbG8").unwrap();
    drop(conn);
    eventually("nothing of an upload is left", Duration::from_secs(5), || {
        std::fs::read_dir(server.data.join("uploads")).unwrap().count() == 0
    });
    server.is_well();
}

#[test]
fn archives_come_back_byte_for_byte_to_whoever_holds_the_link() {
    let server = SERVER.get();
    create(&server, Lang::Node, "linked", json!({}));
    let link =
        server.get(&format!("{FUNCTIONS}/linked")).expect(200).json()["Code"]["Location"].as_str().unwrap().to_owned();
    let path = link.strip_prefix("http://127.0.0.1").unwrap();
    assert_eq!(server.get(path).expect(200).body, code(Lang::Node));
    for bad in [
        path.replace("expires=", "expires=9"),
        format!("{path}0"),
        path.split('?').next().unwrap().to_owned(),
        path.replace("/archives/", "/archives/..%2f"),
    ] {
        assert_eq!(server.get(&bad).expect(403).header("x-amzn-errortype"), Some("AccessDeniedException"), "{bad}");
    }
}

#[test]
fn what_was_made_is_there_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_on(&data, &[]);
    create(&server, Lang::Node, "kept", json!({"Publish": true, "Tags": {"a": "b"}, "MemorySize": 256}));
    send(&server, "POST", &format!("{FUNCTIONS}/kept/aliases"), &json!({"Name": "live", "FunctionVersion": "1"}))
        .expect(201);
    let seen = |server: &Server| {
        let mut all: Vec<Value> = ["", "/versions", "/aliases"]
            .iter()
            .map(|p| server.get(&format!("{FUNCTIONS}/kept{p}")).expect(200).json())
            .collect();
        all[0]["Code"] = Value::Null;
        all
    };
    let before = seen(&server);
    server.kill();
    let server = Server::start_on(&data, &[]);
    assert_eq!(seen(&server), before);
    let answer = invoke(&server, "kept:live", &[], "{}").expect(200);
    assert_eq!(answer.header("x-amz-executed-version"), Some("1"));
}

#[test]
fn function_urls_are_open_to_whom_the_policy_says() {
    let server = SERVER.get();
    create(&server, Lang::Python, "url", json!({}));
    let url = |method: &str, body: Value| send(&server, method, "/2021-10-31/functions/url/url", &body);
    let made = url(
        "POST",
        json!({"AuthType": "NONE", "Cors": {"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"]}}),
    );
    let address = made.expect(201).json()["FunctionUrl"].as_str().unwrap().to_owned();
    let host = address.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let id = host.split('.').next().unwrap().to_owned();
    let call = |path: &str, headers: &[(&str, &str)], body: &str| {
        let prefixed = format!("/lambda-url/{id}{path}");
        server.request("POST", &prefixed, headers, body.as_bytes())
    };
    let forbidden = call("/", &[], "").expect(403);
    assert!(forbidden.json()["Message"].as_str().unwrap().starts_with("Forbidden."), "{}", forbidden.text());
    let permission = json!({"StatementId": "u", "Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE"});
    send(&server, "POST", &format!("{FUNCTIONS}/url/policy"), &permission).expect(201);
    let headers = [("Content-Type", "application/json"), ("X-Two", "1"), ("x-two", "2"), ("Cookie", "a=1; b=2")];
    let event = call("/pa2%2Fth/1?q=a%20b&q=2", &headers, r#"{"foo":"bar"}"#).expect(200).json()["event"].clone();
    assert_eq!((&event["rawPath"], &event["rawQueryString"]), (&json!("/pa2%2Fth/1"), &json!("q=a%20b&q=2")));
    assert_eq!(event["queryStringParameters"], json!({"q": "a b,2"}));
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!(r#"{"foo":"bar"}"#), &json!(false)));
    assert_eq!((&event["headers"]["x-two"], &event["cookies"]), (&json!("1,2"), &json!(["a=1", "b=2"])));
    assert_eq!(event["requestContext"]["http"]["method"], "POST");
    assert_eq!((&event["version"], &event["requestContext"]["accountId"]), (&json!("2.0"), &json!("anonymous")));
    let binary = call("/", &[("Content-Type", "application/octet-stream")], "\0").expect(200).json()["event"].clone();
    assert_eq!((&binary["body"], &binary["isBase64Encoded"]), (&json!("AA=="), &json!(true)));
    // Results.
    let shaped = call("/", &[], r#"{}"#).expect(200);
    assert_eq!(shaped.header("content-type"), Some("application/json"));
    // A page of another site, as the URL's rules allow it; and its question before.
    let page = call("/", &[("Origin", "https://a.example")], "").expect(200);
    assert_eq!(page.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(
        call("/", &[("Origin", "https://b.example")], "").expect(200).header("access-control-allow-origin"),
        None
    );
    let asked = server.request(
        "OPTIONS",
        &format!("/lambda-url/{id}/"),
        &[("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")],
        b"",
    );
    assert_eq!(asked.expect(200).header("access-control-allow-methods"), Some("GET"));
    // By its host.
    let mut conn = server.connect();
    conn.send(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(conn.answer(false).unwrap().expect(200).json()["event"]["rawPath"], "/x");
    // Signed callers only.
    url("PUT", json!({"AuthType": "AWS_IAM"})).expect(200);
    call("/", &[], "").expect(403);
    let signed =
        "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0";
    let event = call("/", &[("Authorization", signed)], "").expect(200).json()["event"].clone();
    assert_eq!(event["requestContext"]["authorizer"]["iam"]["accountId"], "000000000000");
    let deny = json!({"Policy": r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"lambda:*"}]}"#});
    send(
        &server,
        "PUT",
        "/2026-07-09/resource-policy/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Aurl",
        &deny,
    )
    .expect(200);
    call("/", &[("Authorization", signed)], "").expect(403);
    let unknown = server.get("/lambda-url/none/").expect(403);
    assert_eq!(
        (unknown.json(), unknown.header("x-amzn-errortype")),
        (json!({"Message": null}), Some("AccessDeniedException"))
    );
}

#[test]
fn results_of_urls_become_answers() {
    let server = SERVER.get();
    let zip = zip_of(&[("index.js", b"exports.handler = async (e) => JSON.parse(e.body)")]);
    create(&server, Lang::Node, "shapes", json!({"Code": {"ZipFile": base64(&zip)}}));
    let made =
        send(&server, "POST", "/2021-10-31/functions/shapes/url", &json!({"AuthType": "NONE"})).expect(201).json();
    let id = made["FunctionUrl"].as_str().unwrap()["http://".len()..].split('.').next().unwrap().to_owned();
    let permission = json!({"StatementId": "u", "Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE"});
    send(&server, "POST", &format!("{FUNCTIONS}/shapes/policy"), &permission).expect(201);
    let call = |body: &str| server.request("POST", &format!("/lambda-url/{id}/"), &[], body.as_bytes());
    let full = call(
        r#"{"statusCode":201,"headers":{"X-A":"b"},"cookies":["a=1","b=2"],"body":"aGk=","isBase64Encoded":true}"#,
    )
    .expect(201);
    assert_eq!((full.text().as_str(), full.header("x-a")), ("hi", Some("b")));
    assert_eq!(full.headers_named("set-cookie"), ["a=1", "b=2"]);
    for (result, text) in [(r#"{"a":1}"#, r#"{"a":1}"#), (r#""plain""#, "plain"), ("[1,2]", "[1,2]"), ("true", "true")]
    {
        let answer = call(result).expect(200);
        assert_eq!(
            (answer.text().as_str(), answer.header("content-type")),
            (text, Some("application/json")),
            "{result}"
        );
    }
    for bad in ["not json", r#"{"statusCode":"x"}"#, r#"{"statusCode":200,"headers":{"a\nb":"c"}}"#] {
        assert_eq!(call(bad).expect(502).text(), "Internal Server Error", "{bad}");
    }
}

#[test]
fn a_server_with_a_token_takes_it_as_the_access_key() {
    let server = Server::start(&["--token", "s3cr3t"]);
    let signed = |key: &str| {
        format!(
            "AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0"
        )
    };
    let refused =
        server.request("GET", "/2015-03-31/functions", &[("Authorization", &signed("other"))], b"").expect(401);
    assert_eq!(refused.header("x-amzn-errortype"), Some("UnrecognizedClientException"));
    server.request("GET", "/2015-03-31/functions", &[("Authorization", &signed("s3cr3t"))], b"").expect(200);
    server.request("GET", "/2015-03-31/functions", &[("Authorization", "Bearer s3cr3t")], b"").expect(200);
}

#[test]
fn code_in_s3_is_fetched_from_the_server_that_the_operator_named() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let zip = code(Lang::Node);
    let served = zip.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let n = stream.read(&mut head).unwrap();
            let found = String::from_utf8_lossy(&head[..n]).starts_with("GET /bucket/dir/code.zip HTTP/1.1");
            let error =
                b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>".to_vec();
            let (status, body) = if found { ("200 OK", served.clone()) } else { ("404 Not Found", error) };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).unwrap();
        }
    });
    let server = Server::start(&["--s3-endpoint", &endpoint]);
    let at = |key: &str| json!({"Code": {"S3Bucket": "bucket", "S3Key": key}});
    create(&server, Lang::Node, "s3", at("dir/code.zip"));
    invoke(&server, "s3", &[], "{}").expect(200);
    let update = json!({"S3Bucket": "bucket", "S3Key": "none"});
    let refused = send(&server, "PUT", &format!("{FUNCTIONS}/s3/code"), &update).expect(400);
    let wanted =
        "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.";
    assert_eq!(refused.json()["message"], wanted);
    let without = send(&SERVER.get(), "PUT", &format!("{FUNCTIONS}/none/code"), &update).expect(400);
    assert!(without.json()["message"].as_str().unwrap().contains("--s3-endpoint"), "{}", without.text());
}

#[test]
fn boto3_works_unmodified() {
    let Some(bin) = aws_clients("boto3") else { return };
    let server = Server::start(&[]);
    let runtime = runtime(&server, Lang::Python);
    let done = Command::new(bin.join("python"))
        .arg(root().join("tests/clients/lambda_boto3.py"))
        .args([&format!("http://127.0.0.1:{}", server.port), &runtime])
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .current_dir("/")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}\n{}", server.said());
    assert_eq!(said.lines().filter(|l| l.starts_with("ok ")).count(), 12, "{said}");
}

#[test]
fn the_aws_cli_works_unmodified() {
    let Some(bin) = aws_clients("the AWS CLI") else { return };
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let zip = dir.path().join("code.zip");
    std::fs::write(&zip, zip_of_dir(&root().join("tests/functions/node/event_echo"))).unwrap();
    let out = dir.path().join("out.json");
    let aws = |args: &[&str]| -> Value {
        let done = Command::new(bin.join("aws"))
            .arg("lambda")
            .args(args)
            .env("AWS_ENDPOINT_URL_LAMBDA", format!("http://127.0.0.1:{}", server.port))
            .envs([("AWS_ACCESS_KEY_ID", "any"), ("AWS_SECRET_ACCESS_KEY", "any"), ("AWS_DEFAULT_REGION", "us-east-1")])
            .env("AWS_CONFIG_FILE", "/nonexistent")
            .output()
            .unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap_or(Value::Null)
    };
    let runtime = runtime(&server, Lang::Node);
    let file = format!("fileb://{}", zip.display());
    let common = ["--function-name", "cli"];
    let mut create = vec![
        "create-function",
        "--runtime",
        &runtime,
        "--role",
        ROLE,
        "--handler",
        "index.handler",
        "--zip-file",
        &file,
    ];
    create.extend(common);
    assert_eq!(aws(&create)["State"], "Pending");
    aws(&["wait", "function-active-v2", "--function-name", "cli"]);
    let outfile = out.to_str().unwrap();
    let event = dir.path().join("event.json");
    std::fs::write(&event, r#"{"a":1}"#).unwrap();
    let payload = format!("fileb://{}", event.display());
    let call = aws(&["invoke", "--function-name", "cli", "--payload", &payload, outfile]);
    assert_eq!((&call["StatusCode"], &call["ExecutedVersion"]), (&json!(200), &json!("$LATEST")));
    let seen: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(seen["context"]["functionName"], "cli");
    assert_eq!(aws(&["publish-version", "--function-name", "cli"])["Version"], "1");
    assert_eq!(
        aws(&["create-alias", "--function-name", "cli", "--name", "live", "--function-version", "1"])["Name"],
        "live"
    );
    assert_eq!(aws(&["list-functions"])["Functions"].as_array().unwrap().len(), 1);
    aws(&["delete-function", "--function-name", "cli"]);
    server.get("/info/cli").expect(404);
}

#[test]
fn terraform_works_unmodified() {
    let plugins = std::env::var("TERRAFORM_PLUGINS").unwrap_or_default();
    if plugins.is_empty() || Command::new("terraform").arg("version").output().is_err() {
        return skip(
            "Terraform",
            "terraform is not installed, or TERRAFORM_PLUGINS names no directory with its AWS provider",
        );
    }
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::copy(root().join("tests/clients/lambda.tf"), at("main.tf")).unwrap();
    std::fs::write(at("code.zip"), code(Lang::Node)).unwrap();
    std::fs::write(at("layer.zip"), zip_of(&[("nodejs/node_modules/m/index.js", b"1")])).unwrap();
    let runtime = runtime(&server, Lang::Node);
    let terraform = |args: &[&str]| {
        let done = Command::new("terraform")
            .args(args)
            .arg("-no-color")
            .current_dir(dir.path())
            .env("TF_VAR_url", format!("http://127.0.0.1:{}", server.port))
            .env("TF_VAR_runtime", &runtime)
            .envs([("CHECKPOINT_DISABLE", "1"), ("TF_IN_AUTOMATION", "1"), ("TF_CLI_CONFIG_FILE", "/dev/null")])
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{args:?}: {said}\n{}", server.said());
        said
    };
    terraform(&["init", &format!("-plugin-dir={plugins}")]);
    assert!(terraform(&["apply", "-auto-approve"]).contains("Resources: 10 added, 0 changed, 0 destroyed."));
    // What was made is what was asked for: nothing is left to do.
    terraform(&["plan", "-detailed-exitcode"]);
    assert!(terraform(&["apply", "-auto-approve", "-var", "memory=256"]).contains("0 added, 2 changed, 0 destroyed."));
    terraform(&["plan", "-detailed-exitcode", "-var", "memory=256"]);
    assert!(terraform(&["destroy", "-auto-approve"]).contains("10 destroyed."));
    assert_eq!(server.get(FUNCTIONS).expect(200).json(), json!({"Functions": []}));
}
