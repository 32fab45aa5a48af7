"""Drives a server with boto3 as people do: python lambda_boto3.py URL. Each function here is one story; the first that does not
come out ends the program with its traceback."""

import base64
import io
import json
import sys
import time
import urllib.request
import zipfile

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

URL = sys.argv[1]
ROLE = "arn:aws:iam::000000000000:role/r"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
client = boto3.client(
    "lambda",
    endpoint_url=URL,
    region_name="us-east-1",
    aws_access_key_id="any",
    aws_secret_access_key="any",
    config=Config(retries={"max_attempts": 0}),
)

ECHO = """
import os
def handler(event, context):
    if event.get("fail"):
        raise ValueError("as asked")
    print("said by", context.function_version)
    custom = context.client_context.custom if context.client_context else None
    return {"event": event, "version": context.function_version, "arn": context.invoked_function_arn,
            "custom": custom, "env": dict(os.environ), "stream": context.log_stream_name}
"""


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, text in files.items():
            out.writestr(name.replace("__", "/") + ".py", text)
    return buffer.getvalue()


def create(name, code=ECHO, **more):
    made = client.create_function(
        FunctionName=name, Runtime=RUNTIME, Role=ROLE, Handler="index.handler", Code={"ZipFile": archive(index=code)}, **more
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})
    return made


def call(name, payload=None, **more):
    answer = client.invoke(FunctionName=name, Payload=json.dumps(payload or {}), **more)
    return answer, json.loads(answer["Payload"].read())


def refused(code, work):
    try:
        done = work()
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error.response
        return error.response
    raise AssertionError("not refused: %r" % (done,))


def life_of_a_function():
    made = create("life", Environment={"Variables": {"A": "1"}}, Tags={"k": "v"}, MemorySize=256, Timeout=5)
    assert (made["State"], made["StateReasonCode"], made["Version"]) == ("Pending", "Creating", "$LATEST"), made
    found = client.get_function(FunctionName="life")
    config = found["Configuration"]
    assert (config["State"], config["LastUpdateStatus"], config["MemorySize"]) == ("Active", "Successful", 256)
    assert found["Tags"] == {"k": "v"} and found["Code"]["RepositoryType"] == "S3"
    answer, seen = call("life", {"x": [1]}, LogType="Tail", ClientContext=base64.b64encode(b'{"custom":{"a":"b"}}').decode())
    assert (answer["StatusCode"], answer["ExecutedVersion"], seen["event"]) == (200, "$LATEST", {"x": [1]})
    assert (seen["custom"], seen["arn"], seen["env"]["A"]) == ({"a": "b"}, ARN + "life", "1")
    tail = base64.b64decode(answer["LogResult"]).decode()
    request = answer["ResponseMetadata"]["RequestId"]
    assert tail.startswith("START RequestId: %s Version: $LATEST\n" % request) and "said by $LATEST" in tail, tail
    assert client.invoke(FunctionName="life", InvocationType="DryRun")["StatusCode"] == 204
    failed, said = call("life", {"fail": True})
    assert (failed["StatusCode"], failed["FunctionError"], said["errorType"]) == (200, "Unhandled", "ValueError")
    changed = client.update_function_configuration(FunctionName="life", Environment={"Variables": {"A": "2"}})
    assert changed["LastUpdateStatus"] == "InProgress" and changed["RevisionId"] != made["RevisionId"]
    client.get_waiter("function_updated_v2").wait(FunctionName="life")
    assert call("life")[1]["env"]["A"] == "2"
    code = archive(index="def handler(event, context): return 'new'")
    client.update_function_code(FunctionName="life", ZipFile=code)
    client.get_waiter("function_updated_v2").wait(FunctionName="life")
    assert call("life")[1] == "new"
    with urllib.request.urlopen(client.get_function(FunctionName="life")["Code"]["Location"]) as answer:
        assert answer.read() == code
    refused("PreconditionFailedException", lambda: client.update_function_code(FunctionName="life", ZipFile=code, RevisionId="no"))
    client.delete_function(FunctionName="life")
    refused("ResourceNotFoundException", lambda: client.get_function(FunctionName="life"))
    refused("ResourceNotFoundException", lambda: client.invoke(FunctionName="life"))


def the_environment_is_awss():
    create("environment", Description="d")
    env = call("environment")[1]["env"]
    for name, value in {
        "AWS_LAMBDA_FUNCTION_NAME": "environment",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/environment",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EXECUTION_ENV": "AWS_Lambda_" + RUNTIME,
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "LAMBDA_TASK_ROOT": "/var/task",
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "TZ": ":UTC",
        "LANG": "en_US.UTF-8",
        "_HANDLER": "index.handler",
        "PYTHONPATH": "/var/runtime",
        "LC_CTYPE": "C.UTF-8",
    }.items():
        assert env.get(name) == value, (name, env.get(name))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "_X_AMZN_TRACE_ID"):
        assert env.get(name), name
    stream = env["AWS_LAMBDA_LOG_STREAM_NAME"]
    day, rest = stream.split("/[$LATEST]")
    assert day.count("/") == 2 and len(rest) == 32, stream


def versions_and_aliases():
    made = create("versions", Publish=True)
    assert (made["Version"], made["State"], made["FunctionArn"]) == ("1", "Pending", ARN + "versions"), made
    assert client.get_function_configuration(FunctionName="versions", Qualifier="1")["State"] == "Active"
    assert client.publish_version(FunctionName="versions")["Version"] == "1", "nothing changed"
    client.update_function_configuration(FunctionName="versions", Environment={"Variables": {"N": "2"}})
    client.get_waiter("function_updated_v2").wait(FunctionName="versions")
    second = client.publish_version(FunctionName="versions", Description="two")
    assert (second["Version"], second["Description"], second["FunctionArn"]) == ("2", "two", ARN + "versions:2")
    listed = [v["Version"] for v in client.list_versions_by_function(FunctionName="versions")["Versions"]]
    assert listed == ["$LATEST", "1", "2"], listed
    paged = client.get_paginator("list_versions_by_function").paginate(FunctionName="versions", PaginationConfig={"PageSize": 1})
    assert [v["Version"] for page in paged for v in page["Versions"]] == listed
    assert "N" not in call("versions", Qualifier="1")[1]["env"] and call("versions:2")[1]["env"]["N"] == "2"
    routing = {"AdditionalVersionWeights": {"2": 0.5}}
    alias = client.create_alias(FunctionName="versions", Name="live", FunctionVersion="1", RoutingConfig=routing)
    assert (alias["AliasArn"], alias["RoutingConfig"]) == (ARN + "versions:live", routing)
    picked = {call("versions:live")[0]["ExecutedVersion"] for _ in range(40)}
    assert picked == {"1", "2"}, picked
    answer, seen = call(ARN + "versions:live")
    assert (seen["arn"], seen["version"]) == (ARN + "versions:live", answer["ExecutedVersion"])
    moved = client.update_alias(FunctionName="versions", Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {}})
    assert moved["RevisionId"] != alias["RevisionId"] and "RoutingConfig" not in moved
    assert [a["Name"] for a in client.list_aliases(FunctionName="versions", FunctionVersion="2")["Aliases"]] == ["live"]
    refused("ResourceConflictException", lambda: client.delete_function(FunctionName="versions", Qualifier="2"))
    client.delete_function(FunctionName="versions", Qualifier="1")
    refused("ResourceNotFoundException", lambda: client.invoke(FunctionName="versions", Qualifier="1"))
    client.delete_alias(FunctionName="versions", Name="live")
    refused("ResourceNotFoundException", lambda: client.get_alias(FunctionName="versions", Name="live"))


def answers_as_a_stream():
    create("stream")
    answer = client.invoke_with_response_stream(FunctionName="stream", Payload=b'{"a":1}', LogType="Tail")
    events = list(answer["EventStream"])
    body = b"".join(e["PayloadChunk"]["Payload"] for e in events if "PayloadChunk" in e)
    assert json.loads(body)["event"] == {"a": 1} and answer["ExecutedVersion"] == "$LATEST"
    assert "LogResult" in events[-1]["InvokeComplete"]
    events = list(client.invoke_with_response_stream(FunctionName="stream", Payload=b'{"fail":true}')["EventStream"])
    assert events[-1]["InvokeComplete"]["ErrorCode"] == "ValueError", events
    big = "x" * 200_000
    events = list(client.invoke_with_response_stream(FunctionName="stream", Payload=json.dumps({"b": big}))["EventStream"])
    body = b"".join(e["PayloadChunk"]["Payload"] for e in events if "PayloadChunk" in e)
    assert len(events) > 3 and json.loads(body)["event"]["b"] == big


def layers():
    first = client.publish_layer_version(
        LayerName="libs", Description="d", Content={"ZipFile": archive(python__mylib="X = 1")}, CompatibleRuntimes=[RUNTIME]
    )
    second = client.publish_layer_version(LayerName="libs", Content={"ZipFile": archive(python__mylib="X = 2")})
    assert (first["Version"], second["Version"]) == (1, 2)
    with urllib.request.urlopen(first["Content"]["Location"]) as answer:
        assert zipfile.ZipFile(io.BytesIO(answer.read())).read("python/mylib.py") == b"X = 1"
    assert client.get_layer_version_by_arn(Arn=first["LayerVersionArn"])["Description"] == "d"
    assert [v["Version"] for v in client.list_layer_versions(LayerName="libs")["LayerVersions"]] == [2, 1]
    assert client.list_layers(CompatibleRuntime=RUNTIME)["Layers"][0]["LatestMatchingVersion"]["Version"] == 1
    uses = "import mylib\ndef handler(event, context): return mylib.X"
    create("layered", uses, Layers=[first["LayerVersionArn"]])
    assert call("layered")[1] == 1, "the layer's module is found"
    client.update_function_configuration(FunctionName="layered", Layers=[second["LayerVersionArn"]])
    client.get_waiter("function_updated_v2").wait(FunctionName="layered", WaiterConfig={"Delay": 1})
    assert call("layered")[1] == 2
    client.update_function_configuration(FunctionName="layered", Layers=[first["LayerVersionArn"]])
    client.get_waiter("function_updated_v2").wait(FunctionName="layered", WaiterConfig={"Delay": 1})
    config = client.get_function_configuration(FunctionName="layered")
    assert [l["Arn"] for l in config["Layers"]] == [first["LayerVersionArn"]]
    both = [first["LayerVersionArn"], second["LayerVersionArn"]]
    refused("InvalidParameterValueException", lambda: client.update_function_configuration(FunctionName="layered", Layers=both))
    missing = first["LayerArn"] + ":9"
    said = refused("InvalidParameterValueException", lambda: client.update_function_configuration(FunctionName="layered", Layers=[missing]))
    assert said["Error"]["Message"] == "Layer version %s does not exist." % missing
    who = dict(LayerName="libs", VersionNumber=1, StatementId="s", Action="lambda:GetLayerVersion", Principal="*")
    client.add_layer_version_permission(**who)
    refused("ResourceConflictException", lambda: client.add_layer_version_permission(**who))
    policy = client.get_layer_version_policy(LayerName="libs", VersionNumber=1)
    assert json.loads(policy["Policy"])["Statement"][0]["Resource"] == first["LayerVersionArn"]
    client.remove_layer_version_permission(LayerName="libs", VersionNumber=1, StatementId="s")
    client.delete_layer_version(LayerName="libs", VersionNumber=1)
    refused("ResourceNotFoundException", lambda: client.get_layer_version(LayerName="libs", VersionNumber=1))
    assert call("layered")[0]["StatusCode"] == 200, "a deleted layer goes on where it is in use"


def permissions():
    create("permissions", Publish=True)
    said = client.add_permission(
        FunctionName="permissions", StatementId="s3", Action="lambda:InvokeFunction", Principal="s3.amazonaws.com", SourceArn="arn:aws:s3:::b"
    )
    statement = json.loads(said["Statement"])
    assert statement == {
        "Sid": "s3",
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "lambda:InvokeFunction",
        "Resource": ARN + "permissions",
        "Condition": {"ArnLike": {"AWS:SourceArn": "arn:aws:s3:::b"}},
    }
    policy = client.get_policy(FunctionName="permissions")
    assert json.loads(policy["Policy"]) == {"Version": "2012-10-17", "Id": "default", "Statement": [statement]}
    assert policy["RevisionId"] == client.get_function_configuration(FunctionName="permissions")["RevisionId"]
    refused("ResourceNotFoundException", lambda: client.get_policy(FunctionName="permissions", Qualifier="1"))
    arn = ARN + "permissions"
    whole = {"Version": "2012-10-17", "Statement": [dict(statement, Sid="other")]}
    if hasattr(client, "put_resource_policy"):
        client.put_resource_policy(ResourceArn=arn, Policy=json.dumps(whole))
        found = json.loads(client.get_resource_policy(ResourceArn=arn)["Policy"])
        assert [s["Sid"] for s in found["Statement"]] == ["other"]
        client.delete_resource_policy(ResourceArn=arn)
    else:
        client.remove_permission(FunctionName="permissions", StatementId="s3")
    refused("ResourceNotFoundException", lambda: client.get_policy(FunctionName="permissions"))


def concurrency():
    create("concurrency", Publish=True)
    reserved = client.put_function_concurrency(FunctionName="concurrency", ReservedConcurrentExecutions=0)
    assert reserved["ReservedConcurrentExecutions"] == 0
    said = refused("TooManyRequestsException", lambda: client.invoke(FunctionName="concurrency"))
    assert said["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded", said
    refused("TooManyRequestsException", lambda: client.invoke(FunctionName="concurrency", Qualifier="1"))
    assert client.get_function(FunctionName="concurrency")["Concurrency"] == {"ReservedConcurrentExecutions": 0}
    client.delete_function_concurrency(FunctionName="concurrency")
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(FunctionName="concurrency")
    assert call("concurrency")[0]["StatusCode"] == 200
    which = dict(FunctionName="concurrency", Qualifier="1")
    refused("ProvisionedConcurrencyConfigNotFoundException", lambda: client.get_provisioned_concurrency_config(**which))
    asked = client.put_provisioned_concurrency_config(ProvisionedConcurrentExecutions=2, **which)
    assert (asked["Status"], asked["AvailableProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 0)
    until = time.time() + 20
    while client.get_provisioned_concurrency_config(**which)["Status"] != "READY":
        assert time.time() < until
        time.sleep(0.1)
    seen = call("concurrency", Qualifier="1")[1]
    assert seen["env"]["AWS_LAMBDA_INITIALIZATION_TYPE"] == "provisioned-concurrency"
    assert len(client.list_provisioned_concurrency_configs(FunctionName="concurrency")["ProvisionedConcurrencyConfigs"]) == 1
    client.delete_provisioned_concurrency_config(**which)


def settings():
    create("settings")
    made = client.put_function_event_invoke_config(FunctionName="settings", MaximumRetryAttempts=0)
    assert made["FunctionArn"] == ARN + "settings:$LATEST" and made["MaximumRetryAttempts"] == 0
    changed = client.update_function_event_invoke_config(FunctionName="settings", MaximumEventAgeInSeconds=60)
    assert (changed["MaximumRetryAttempts"], changed["MaximumEventAgeInSeconds"]) == (0, 60)
    assert len(client.list_function_event_invoke_configs(FunctionName="settings")["FunctionEventInvokeConfigs"]) == 1
    client.delete_function_event_invoke_config(FunctionName="settings")
    refused("ResourceNotFoundException", lambda: client.get_function_event_invoke_config(FunctionName="settings"))
    assert client.get_function_recursion_config(FunctionName="settings")["RecursiveLoop"] == "Terminate"
    assert client.put_function_recursion_config(FunctionName="settings", RecursiveLoop="Allow")["RecursiveLoop"] == "Allow"
    assert client.get_runtime_management_config(FunctionName="settings")["UpdateRuntimeOn"] == "Auto"
    client.put_runtime_management_config(FunctionName="settings", UpdateRuntimeOn="FunctionUpdate")
    assert client.get_runtime_management_config(FunctionName="settings")["UpdateRuntimeOn"] == "FunctionUpdate"
    assert "CodeSigningConfigArn" not in client.get_function_code_signing_config(FunctionName="settings")
    publishers = {"SigningProfileVersionArns": ["arn:aws:signer:us-east-1:000000000000:/signing-profiles/p"]}
    policies = {"UntrustedArtifactOnDeployment": "Enforce"}
    made = client.create_code_signing_config(AllowedPublishers=publishers, CodeSigningPolicies=policies)["CodeSigningConfig"]
    signing = made["CodeSigningConfigArn"]
    client.put_function_code_signing_config(FunctionName="settings", CodeSigningConfigArn=signing)
    assert client.get_function_code_signing_config(FunctionName="settings")["CodeSigningConfigArn"] == signing
    assert client.list_functions_by_code_signing_config(CodeSigningConfigArn=signing)["FunctionArns"] == [ARN + "settings"]
    refused("CodeVerificationFailedException", lambda: client.update_function_code(FunctionName="settings", ZipFile=archive(index=ECHO)))
    refused("ResourceConflictException", lambda: client.delete_code_signing_config(CodeSigningConfigArn=signing))
    client.delete_function_code_signing_config(FunctionName="settings")
    client.delete_code_signing_config(CodeSigningConfigArn=signing)
    refused("ResourceNotFoundException", lambda: client.get_code_signing_config(CodeSigningConfigArn=signing))
    client.tag_resource(Resource=ARN + "settings", Tags={"a": "1", "b": "2"})
    client.untag_resource(Resource=ARN + "settings", TagKeys=["a", "c"])
    assert client.list_tags(Resource=ARN + "settings")["Tags"] == {"b": "2"}
    usage = client.get_account_settings()
    assert usage["AccountUsage"]["FunctionCount"] >= 1 and usage["AccountLimit"]["ConcurrentExecutions"] == 1000
    for unsupported in (
        lambda: client.list_capacity_providers(),
    ):
        refused("UnsupportedOperationException", unsupported)
    assert client.list_durable_executions_by_function(FunctionName="settings")["DurableExecutions"] == []


# Prints the event that it gets, for `lines` to find.
PRINTS = "import json\ndef handler(event, context): print('got', json.dumps(event), context.client_context and context.client_context.custom)"


def lines(name):
    with urllib.request.urlopen("%s/v1/functions/%s/logs" % (URL, name)) as answer:
        return [line["text"] for line in json.load(answer)["logs"]]


def wait_for(name, text):
    until = time.time() + 30
    while time.time() < until:
        found = [line for line in lines(name) if text in line]
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("%s never said %s: %s" % (name, text, lines(name)))


def events_for_later():
    create("told", PRINTS)
    create("later")
    client.put_function_event_invoke_config(
        FunctionName="later",
        MaximumRetryAttempts=0,
        DestinationConfig={"OnSuccess": {"Destination": ARN + "told"}, "OnFailure": {"Destination": ARN + "told"}},
    )
    context = base64.b64encode(b'{"custom":{"who":"ana"}}').decode()
    asked = dict(FunctionName="later", InvocationType="Event", ClientContext=context)
    taken = client.invoke(Payload=b'{"n":7}', **asked)
    assert (taken["StatusCode"], taken["Payload"].read()) == (202, b""), taken
    record = json.loads(wait_for("told", '"Success"')[0].split("got ", 1)[1].rsplit(" ", 1)[0])
    assert record["requestPayload"] == {"n": 7} and record["responsePayload"]["custom"] == {"who": "ana"}, record
    assert record["requestContext"]["requestId"] == taken["ResponseMetadata"]["RequestId"], record
    client.invoke(Payload=b'{"fail":1}', **asked)
    record = json.loads(wait_for("told", '"RetriesExhausted"')[0].split("got ", 1)[1].rsplit(" ", 1)[0])
    assert record["requestContext"]["approximateInvokeCount"] == 1, record
    assert record["responsePayload"]["errorMessage"] == "as asked", record
    number = client.publish_version(FunctionName="later")["Version"]
    client.put_function_event_invoke_config(
        FunctionName="later", Qualifier=number, DestinationConfig={"OnSuccess": {"Destination": ARN + "told"}}
    )
    client.invoke(FunctionName="later", Qualifier=number, InvocationType="Event", Payload=b'{"n":8}')
    assert '"version": "%s"' % number in wait_for("told", '"n": 8')[0], "the version that was asked for ran"


def event_sources():
    create("fed")
    queue = "arn:aws:sqs:us-east-1:000000000000:q"
    made = client.create_event_source_mapping(FunctionName="fed", EventSourceArn=queue)
    assert (made["State"], made["BatchSize"], made["FunctionArn"]) == ("Creating", 10, ARN + "fed")
    said = refused("ResourceConflictException", lambda: client.create_event_source_mapping(FunctionName="fed", EventSourceArn=queue))
    assert made["UUID"] in said["Error"]["Message"]
    until = time.time() + 10
    while client.get_event_source_mapping(UUID=made["UUID"])["State"] != "Enabled":
        assert time.time() < until
        time.sleep(0.1)
    changed = client.update_event_source_mapping(UUID=made["UUID"], BatchSize=5)
    assert (changed["State"], changed["BatchSize"]) == ("Updating", 5)
    assert client.update_event_source_mapping(UUID=made["UUID"], Enabled=False)["State"] == "Disabling"
    assert [m["UUID"] for m in client.list_event_source_mappings(FunctionName="fed")["EventSourceMappings"]] == [made["UUID"]]
    assert client.delete_event_source_mapping(UUID=made["UUID"])["State"] == "Deleting"
    refused("ResourceNotFoundException", lambda: client.get_event_source_mapping(UUID=made["UUID"]))


def urls():
    create("web")
    made = client.create_function_url_config(FunctionName="web", AuthType="NONE", Cors={"AllowOrigins": ["https://a.example"]})
    assert made["FunctionUrl"].endswith("/") and ".lambda-url.us-east-1." in made["FunctionUrl"], made
    refused("ResourceConflictException", lambda: client.create_function_url_config(FunctionName="web", AuthType="NONE"))
    changed = client.update_function_url_config(FunctionName="web", AuthType="AWS_IAM")
    assert (changed["AuthType"], changed["FunctionUrl"]) == ("AWS_IAM", made["FunctionUrl"])
    assert len(client.list_function_url_configs(FunctionName="web")["FunctionUrlConfigs"]) == 1
    client.delete_function_url_config(FunctionName="web")
    refused("ResourceNotFoundException", lambda: client.get_function_url_config(FunctionName="web"))


def pages():
    for i in range(5):
        create("page-%d" % i)
    paged = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2})
    names = [f["FunctionName"] for page in paged for f in page["Functions"]]
    assert [n for n in names if n.startswith("page-")] == ["page-%d" % i for i in range(5)], names
    everything = client.get_paginator("list_functions").paginate(FunctionVersion="ALL", PaginationConfig={"PageSize": 3})
    arns = [f["FunctionArn"] for page in everything for f in page["Functions"]]
    assert len(arns) == len(set(arns)) and ARN + "versions:2" in arns and ARN + "page-0:$LATEST" in arns, arns


RUNTIME = sys.argv[2]
STORIES = [
    life_of_a_function,
    the_environment_is_awss,
    versions_and_aliases,
    answers_as_a_stream,
    layers,
    permissions,
    concurrency,
    settings,
    events_for_later,
    event_sources,
    urls,
    pages,
]
for story in STORIES:
    story()
    print("ok", story.__name__, flush=True)
