//! The AWS services beside Lambda, called by AWS's own clients: signatures, STS, IAM's roles, Logs, and what is passed on.
//!
//! Without boto3 and the AWS CLI (`scripts/clients.sh`) they say what they skip.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Lang, PATIENCE, Server, aws_clients, eventually};

const TOKEN: &str = "the-servers-token";
const CLIENTS: &str = "AWS's own clients";

/// A key of this server, as its two parts.
#[derive(Clone)]
struct Key(String, String);

fn bearer(server: &Server, method: &str, path: &str, body: &[u8]) -> crate::harness::Answer {
    server.request(method, path, &[("Authorization", &format!("Bearer {TOKEN}"))], body)
}

fn new_key(server: &Server) -> Key {
    let made = bearer(server, "POST", "/v1/keys", br#"{"note":"a test"}"#).expect(201).json();
    Key(made["accessKeyId"].as_str().unwrap().into(), made["secretAccessKey"].as_str().unwrap().into())
}

fn set_up(command: &mut Command, server: &Server, key: &Key) {
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.port))
        .env("AWS_ACCESS_KEY_ID", &key.0)
        .env("AWS_SECRET_ACCESS_KEY", &key.1)
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_MAX_ATTEMPTS", "1");
}

/// Runs a script; its last line is JSON.
#[track_caller]
fn python(server: &Server, key: &Key, script: &str) -> Value {
    let prelude = "
import json, sys, os, time, urllib.request, urllib.error
import boto3
from botocore.exceptions import ClientError
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
URL = os.environ['AWS_ENDPOINT_URL']
def client(name, **more): return boto3.client(name, **more)
def fault(call, **args):
    try: return 'passed: %r' % call(**args)
    except ClientError as e: return [e.response['Error']['Code'], e.response['ResponseMetadata']['HTTPStatusCode']]
def send(request):
    data = request.body if isinstance(request.body, bytes) else (request.body or '').encode()
    r = urllib.request.Request(request.url, data=data or None, headers=dict(request.headers.items()), method=request.method)
    try: return urllib.request.urlopen(r).status
    except urllib.error.HTTPError as e: return e.code
";
    let mut command = Command::new(aws_clients(CLIENTS).unwrap().join("python"));
    set_up(&mut command, server, key);
    let mut child =
        command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{prelude}{script}").as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{out}\n{}\n{}", String::from_utf8_lossy(&done.stderr), server.said());
    serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {out}"))
}

fn cli(server: &Server, key: &Key, args: &[&str]) -> Output {
    let mut command = Command::new(aws_clients(CLIENTS).unwrap().join("aws"));
    set_up(&mut command, server, key);
    command.args(args).output().unwrap()
}

#[test]
fn only_what_is_signed_right_passes() {
    if aws_clients(CLIENTS).is_none() {
        return;
    }
    let server = Server::start(&["--auth", "sigv4", "--token", TOKEN]);
    let key = new_key(&server);
    let other = new_key(&server);
    let seen = python(
        &server,
        &key,
        r#"
sts = client('sts')
me = sts.get_caller_identity()
twice = [sts.get_caller_identity()['Account'] for _ in range(5)]
wrong = fault(client('sts', aws_secret_access_key='x' * 40, aws_access_key_id=os.environ['AWS_ACCESS_KEY_ID']).get_caller_identity)
stranger = fault(client('sts', aws_secret_access_key='x' * 40, aws_access_key_id='AKIAAAAAAAAAAAAAAAAA').get_caller_identity)
json_wrong = fault(client('logs', aws_secret_access_key='x' * 40, aws_access_key_id=os.environ['AWS_ACCESS_KEY_ID']).describe_log_groups)
role = sts.assume_role(RoleArn='arn:aws:iam::000000000000:role/worker', RoleSessionName='night')
c = role['Credentials']
temp = dict(aws_access_key_id=c['AccessKeyId'], aws_secret_access_key=c['SecretAccessKey'])
temporary = client('sts', aws_session_token=c['SessionToken'], **temp).get_caller_identity()['Account']
no_token = fault(client('sts', **temp).get_caller_identity)
forged = fault(client('sts', aws_session_token=c['SessionToken'].replace('offshoot1.', 'offshoot1.9'), **temp).get_caller_identity)
short = fault(sts.assume_role, RoleArn='arn:aws:iam::000000000000:role/worker', RoleSessionName='night', DurationSeconds=900)
unknown = fault(sts.get_federation_token, Name='xx')

cred = Credentials(os.environ['AWS_ACCESS_KEY_ID'], os.environ['AWS_SECRET_ACCESS_KEY'])
def signed(method, path, body=b'', service='sts', auth=SigV4Auth, headers={}, **more):
    request = AWSRequest(method=method, url=URL + path, data=body, headers=dict(headers))
    auth(cred, service, 'us-east-1', **more).add_auth(request)
    return request
form = {'Content-Type': 'application/x-www-form-urlencoded'}
identity = b'Action=GetCallerIdentity&Version=2011-06-15'
request = signed('POST', '/', identity, headers=form)
replay = [send(request), send(request)]
time.sleep(3.5)
replay.append(send(request))
tampered = signed('POST', '/', identity, headers=form)
tampered.data = b'Action=GetSessionToken&Version=2011-06-15'
unsigned = signed('POST', '/', identity, headers=dict(form, **{'X-Amz-Content-SHA256': 'UNSIGNED-PAYLOAD'}))
lying = signed('POST', '/', identity, headers=dict(form, **{'X-Amz-Content-SHA256': '0' * 64}))
presigned = signed('GET', '/?Action=GetCallerIdentity&Version=2011-06-15', auth=SigV4QueryAuth, expires=60)
changed = signed('GET', '/?Action=GetCallerIdentity&Version=2011-06-15', auth=SigV4QueryAuth, expires=60)
changed.url = changed.url.replace('GetCallerIdentity', 'GetSessionToken')
added = signed('POST', '/', identity, headers=form)
added.headers['X-Amz-Extra'] = '1'
native = signed('GET', '/v1/functions', service='lambda')
keys = signed('POST', '/v1/keys', b'{}', service='lambda')
info = signed('GET', '/info?b=2&a=%20x', service='lambda')
print(json.dumps(dict(account=me['Account'], arn=me['Arn'], twice=twice, wrong=wrong, stranger=stranger, json_wrong=json_wrong,
    role=role['AssumedRoleUser']['Arn'], temporary=temporary, no_token=no_token, forged=forged, short=short[:6], unknown=unknown, replay=replay,
    tampered=send(tampered), unsigned=send(unsigned), lying=send(lying), presigned=[send(presigned), send(presigned)], changed=send(changed),
    added=send(added), native=send(native), keys=send(keys), info=send(info))))
"#,
    );
    let account = "000000000000";
    assert_eq!(seen["account"], account);
    assert_eq!(seen["arn"], "arn:aws:iam::000000000000:root");
    assert_eq!(seen["twice"], json!(vec![account; 5]), "the same call twice in a second is meant twice");
    assert_eq!(seen["wrong"], json!(["InvalidSignatureException", 403]));
    assert_eq!(seen["json_wrong"], json!(["InvalidSignatureException", 403]));
    assert_eq!(seen["stranger"], json!(["UnrecognizedClientException", 403]));
    assert_eq!(seen["role"], "arn:aws:sts::000000000000:assumed-role/worker/night");
    assert_eq!(seen["temporary"], account);
    assert_eq!(seen["no_token"], json!(["UnrecognizedClientException", 403]));
    assert_eq!(seen["forged"], json!(["UnrecognizedClientException", 403]));
    assert_eq!(seen["short"], "passed", "15 minutes are allowed");
    assert_eq!(seen["unknown"], json!(["InvalidAction", 400]));
    assert_eq!(seen["replay"], json!([200, 200, 403]));
    assert_eq!(seen["presigned"], json!([200, 200]));
    for refused in ["tampered", "lying", "changed", "added", "keys"] {
        assert_eq!(seen[refused], 403, "{refused}");
    }
    for passed in ["unsigned", "native", "info"] {
        assert_eq!(seen[passed], 200, "{passed}");
    }
    // The token opens everything, nothing opens nothing, and a key that was removed is one no more.
    assert_eq!(server.get("/v1/functions").status, 401);
    bearer(&server, "GET", "/v1/functions", b"").expect(200);
    assert_eq!(bearer(&server, "GET", "/v1/keys", b"").expect(200).json()["count"], 2);
    bearer(&server, "DELETE", &format!("/v1/keys/{}", other.0), b"").expect(204);
    let gone = python(&server, &other, "print(json.dumps(fault(client('sts').get_caller_identity)))");
    assert_eq!(gone, json!(["UnrecognizedClientException", 403]));
    assert!(!std::fs::read_to_string(server.data.join("keys.json")).unwrap().contains(&key.1));
}

#[test]
fn signatures_need_a_token_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    for auth in ["sigv4", "token"] {
        let mut command = Server::command(dir.path(), crate::harness::free_port(), 910_000_000, &["--auth", auth]);
        let done = command.output().unwrap();
        assert_eq!(done.status.code(), Some(3), "{auth}");
        assert!(String::from_utf8_lossy(&done.stderr).contains("needs a token"));
    }
    let server = Server::start(&["--auth", "none", "--token", TOKEN]);
    server.get("/v1/functions").expect(200);
}

#[test]
fn logs_are_read_by_aws_clients() {
    if aws_clients(CLIENTS).is_none() {
        return;
    }
    let server = Server::start(&[]);
    let key = Key("any".into(), "thing".into());
    server.deploy("talks", &Lang::Node.zip("queued"), &[("convention", "event"), ("runtime", "nodejs20.x")]);
    for n in 0..3 {
        server.native("talks", json!({"n": n}).to_string()).expect(200);
    }
    // The last line of each call: what is counted below is all there by then.
    let reports = || server.logs("talks").iter().filter(|line| line.starts_with("REPORT ")).count();
    eventually("the log is written", PATIENCE, || reports() == 3);
    let seen = python(
        &server,
        &key,
        r#"
logs = client('logs')
group = '/aws/lambda/talks'
groups = logs.describe_log_groups(logGroupNamePrefix='/aws/lambda/')['logGroups']
streams = logs.describe_log_streams(logGroupName=group, orderBy='LastEventTime', descending=True)['logStreams']
first = logs.get_log_events(logGroupName=group, logStreamName=streams[0]['logStreamName'], startFromHead=True, limit=2)
rest = logs.get_log_events(logGroupName=group, logStreamName=streams[0]['logStreamName'], startFromHead=True, nextToken=first['nextForwardToken'])
end = logs.get_log_events(logGroupName=group, logStreamName=streams[0]['logStreamName'], startFromHead=True, nextToken=rest['nextForwardToken'])
pages = [e for p in logs.get_paginator('filter_log_events').paginate(logGroupName=group, PaginationConfig={'PageSize': 2}) for e in p['events']]
got = logs.filter_log_events(logGroupIdentifier=groups[0]['arn'], filterPattern='GOT -":1}"')['events']
since = logs.filter_log_events(logGroupName=group, startTime=int(time.time() * 1000) + 60000)['events']
print(json.dumps(dict(groups=[g['logGroupName'] for g in groups], streams=len(streams), first=[e['message'] for e in first['events']],
    total=len(first['events']) + len(rest['events']), end=[len(end['events']), end['nextForwardToken'] == rest['nextForwardToken']],
    pages=len(pages), unique=len({e['eventId'] for e in pages}), got=sorted(e['message'].strip() for e in got), since=len(since),
    missing=fault(logs.describe_log_streams, logGroupName='/aws/lambda/nobody'), unsupported=fault(logs.put_retention_policy, logGroupName=group, retentionInDays=1),
    exists=fault(logs.create_log_group, logGroupName=group), bad=fault(logs.filter_log_events, logGroupName=group, filterPattern='{ $.x = 1 }'))))
"#,
    );
    assert_eq!(seen["groups"], json!(["/aws/lambda/talks"]));
    assert_eq!(seen["streams"].as_u64().filter(|n| *n <= 2).map(|_| ()), Some(()), "one a day");
    assert!(seen["first"][0].as_str().unwrap().starts_with("START RequestId: "), "{seen}");
    assert_eq!(seen["total"], seen["pages"]);
    assert_eq!(seen["pages"], seen["unique"]);
    assert_eq!(seen["end"], json!([0, true]));
    assert_eq!(seen["got"].as_array().map(Vec::len), Some(2), "{seen}");
    assert_eq!(seen["since"], 0);
    assert_eq!(seen["missing"], json!(["ResourceNotFoundException", 400]));
    assert_eq!(seen["unsupported"], json!(["UnknownOperationException", 400]));
    assert_eq!(seen["exists"], json!(["ResourceAlreadyExistsException", 400]));
    assert_eq!(seen["bad"], json!(["InvalidParameterException", 400]));
    follow(&server, &key);
}

/// The AWS CLI reads; and a client that asks again and again from the last moment on, as `aws logs tail --follow` does (version 2
/// of the CLI, which pip does not have), sees each line once.
fn follow(server: &Server, key: &Key) {
    let done = cli(
        server,
        key,
        &["logs", "filter-log-events", "--log-group-name", "/aws/lambda/talks", "--filter-pattern", "GOT"],
    );
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(found["events"].as_array().map(Vec::len), Some(3), "{found}");
    let seen = thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..4 {
                thread::sleep(Duration::from_millis(400));
                server.native("talks", json!({"n": format!("followed {n}")}).to_string()).expect(200);
            }
        });
        let script = r#"
logs = client('logs')
start, ids, lines = int(time.time() * 1000) - 1000, set(), []
until = time.time() + 20
while time.time() < until and len(lines) < 4:
    token = {}
    while True:
        page = logs.filter_log_events(logGroupName='/aws/lambda/talks', startTime=start, interleaved=True, limit=3, **token)
        for e in page['events']:
            if e['eventId'] not in ids:
                ids.add(e['eventId'])
                start = max(start, e['timestamp'])
                if 'followed' in e['message']: lines.append(e['message'])
        if 'nextToken' not in page: break
        token = {'nextToken': page['nextToken']}
    time.sleep(0.1)
print(json.dumps(lines))
"#;
        python(server, key, script)
    });
    let lines: Vec<&str> = seen.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (n, line) in lines.iter().enumerate() {
        assert!(line.contains(&format!("followed {n}")), "{lines:?}");
    }
}

#[test]
fn roles_are_kept_and_every_name_is_one() {
    if aws_clients(CLIENTS).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let key = Key("any".into(), "thing".into());
    let server = Server::start_on(&data, &[]);
    let seen = python(
        &server,
        &key,
        r#"
iam = client('iam')
trust = json.dumps({'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Principal': {'Service': 'lambda.amazonaws.com'}, 'Action': 'sts:AssumeRole'}]})
any_role = iam.get_role(RoleName='whatever')['Role']
made = iam.create_role(RoleName='worker', AssumeRolePolicyDocument=trust, Description='a <role> & more', Tags=[{'Key': 'a', 'Value': 'b'}])['Role']
iam.put_role_policy(RoleName='worker', PolicyName='own', PolicyDocument='{"Statement":[]}')
iam.attach_role_policy(RoleName='worker', PolicyArn='arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole')
print(json.dumps(dict(any_arn=any_role['Arn'], any_trust=any_role['AssumeRolePolicyDocument'], arn=made['Arn'],
    again=fault(iam.create_role, RoleName='worker', AssumeRolePolicyDocument=trust), bad=fault(iam.create_role, RoleName='x', AssumeRolePolicyDocument='no'),
    user=fault(iam.create_user, UserName='u'), none=fault(iam.get_role_policy, RoleName='worker', PolicyName='missing'))))
"#,
    );
    assert_eq!(seen["any_arn"], "arn:aws:iam::000000000000:role/whatever");
    assert_eq!(seen["any_trust"]["Statement"][0]["Principal"]["Service"], "lambda.amazonaws.com");
    assert_eq!(seen["arn"], "arn:aws:iam::000000000000:role/worker");
    assert_eq!(seen["again"], json!(["EntityAlreadyExists", 409]));
    assert_eq!(seen["bad"], json!(["MalformedPolicyDocument", 400]));
    assert_eq!(seen["user"], json!(["InvalidAction", 400]));
    assert_eq!(seen["none"], json!(["NoSuchEntity", 404]));
    server.stop();
    let server = Server::start_on(&data, &[]);
    let seen = python(
        &server,
        &key,
        r#"
iam = client('iam')
role = iam.get_role(RoleName='worker')['Role']
own = iam.get_role_policy(RoleName='worker', PolicyName='own')['PolicyDocument']
state = dict(description=role['Description'], tags=role['Tags'], own=own, names=iam.list_role_policies(RoleName='worker')['PolicyNames'],
    attached=iam.list_attached_role_policies(RoleName='worker')['AttachedPolicies'], profiles=iam.list_instance_profiles_for_role(RoleName='worker')['InstanceProfiles'],
    all=[r['RoleName'] for r in iam.list_roles()['Roles']])
iam.detach_role_policy(RoleName='worker', PolicyArn=state['attached'][0]['PolicyArn'])
iam.delete_role_policy(RoleName='worker', PolicyName='own')
iam.delete_role(RoleName='worker')
state['after'] = [r['RoleName'] for r in iam.list_roles()['Roles']]
print(json.dumps(state))
"#,
    );
    assert_eq!(seen["description"], "a <role> & more");
    assert_eq!(seen["tags"], json!([{"Key": "a", "Value": "b"}]));
    assert_eq!((&seen["own"], &seen["names"]), (&json!({"Statement": []}), &json!(["own"])));
    assert_eq!(seen["attached"][0]["PolicyName"], "AWSLambdaBasicExecutionRole");
    assert_eq!((&seen["profiles"], &seen["all"], &seen["after"]), (&json!([]), &json!(["worker"]), &json!([])));
}

#[test]
fn the_rest_is_passed_on_or_refused() {
    let scope = "AWS4-HMAC-SHA256 Credential=AKIA/20261120/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let headers = [("Authorization", scope), ("X-Other", "1")];
    let server = Server::start(&[]);
    let refused = server.request("GET", "/bucket/key", &headers, b"");
    assert_eq!(refused.status, 501);
    assert_eq!(refused.json()["__type"], "UnsupportedOperationException");
    assert!(refused.json()["message"].as_str().unwrap().contains("aws_fallback_endpoint"));
    let target = [("X-Amz-Target", "DynamoDB_20120810.ListTables")];
    assert_eq!(server.request("POST", "/", &target, b"{}").status, 501);
    // Another endpoint that says what it was asked.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked = thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = socket.accept().unwrap();
        let mut bytes = vec![0; 65536];
        let mut all = Vec::new();
        while !all.ends_with(b"the body") {
            let n = stream.read(&mut bytes).unwrap();
            all.extend_from_slice(&bytes[..n]);
        }
        let answer = "HTTP/1.1 203 Other\r\nX-Own: yes\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmine";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&all).into_owned()
    });
    let url = format!("http://127.0.0.1:{port}");
    let server = Server::start(&["--aws-fallback-endpoint", &url, "--token", TOKEN]);
    let with_token = [("Authorization", scope), ("X-Other", "1"), ("X-API-Key", TOKEN)];
    let answer = server.request("PUT", "/bucket/a%20b?x=%2F", &with_token, b"the body");
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-own")), (203, "mine", Some("yes")));
    let asked = asked.join().unwrap();
    let head = asked.to_lowercase();
    assert!(asked.starts_with("PUT /bucket/a%20b?x=%2F HTTP/1.1\r\n"), "{asked}");
    assert!(head.contains("x-other: 1") && head.contains("credential=akia"), "{asked}");
    assert!(!asked.contains(TOKEN), "the token stays here: {asked}");
    // And when nobody is there.
    let answer = server.request("GET", "/bucket/key", &with_token, b"");
    assert_eq!((answer.status, &answer.json()["__type"]), (502, &json!("ServiceUnavailableException")));
}
