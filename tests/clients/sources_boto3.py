"""Drives event source mappings with boto3 as people do: python sources_boto3.py SERVER QUEUES STORY…. SERVER is the server under test,
QUEUES one that speaks SQS, Kinesis and DynamoDB streams. Each function here is one story; the first that does not come out ends
the program with its traceback."""

import base64
import io
import json
import os
import sys
import time
import urllib.request
import zipfile

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

URL, QUEUES = sys.argv[1], sys.argv[2]
ROLE = "arn:aws:iam::000000000000:role/fed"
SETTINGS = {"region_name": "us-east-1", "aws_access_key_id": "any", "aws_secret_access_key": "any"}
client = boto3.client("lambda", endpoint_url=URL, config=Config(retries={"max_attempts": 0}), **SETTINGS)
sqs, kinesis, dynamodb = (boto3.client(name, endpoint_url=QUEUES, **SETTINGS) for name in ("sqs", "kinesis", "dynamodb"))
RUNTIME = "python%d.%d" % sys.version_info[:2]

# Says what it got, and does what the first record's body or data asks for.
HANDLER = """
import base64, json, os, time
def ask(record):
    try:
        text = record.get("body") or base64.b64decode(record["kinesis"]["data"])
        asked = json.loads(text)
        return asked if isinstance(asked, dict) else {}
    except Exception:
        return {}
def handler(event, context):
    print("GOT " + json.dumps({"trace": os.environ.get("_X_AMZN_TRACE_ID"), "records": event["Records"]}))
    failures = []
    for record in event["Records"]:
        asked = ask(record)
        if asked.get("sleep"):
            time.sleep(asked["sleep"])
        if asked.get("fail"):
            raise ValueError("as asked")
        if asked.get("report"):
            sequence = record.get("messageId") or record["kinesis"]["sequenceNumber"]
            failures.append({"itemIdentifier": sequence if asked["report"] is True else asked["report"]})
    print("DONE " + json.dumps([r.get("messageId") or r.get("eventID") for r in event["Records"]]))
    return {"batchItemFailures": failures}
"""


def create(name, code=HANDLER, **more):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr("index.py", code)
    client.create_function(
        FunctionName=name, Runtime=RUNTIME, Role=ROLE, Handler="index.handler", Code={"ZipFile": buffer.getvalue()}, **more
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})


def queue(name, **attributes):
    url = sqs.create_queue(QueueName=name, Attributes={k: str(v) for k, v in attributes.items()})["QueueUrl"]
    return url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def lines(name, word):
    request = urllib.request.Request(URL + "/logs/%s?limit=10000" % name, headers={"Accept": "application/x-ndjson"})
    texts = [json.loads(line)["text"] for line in urllib.request.urlopen(request).read().decode().splitlines() if line]
    return [json.loads(text.split(word + " ", 1)[1]) for text in texts if word + " " in text]


def got(name):
    return [record for call in lines(name, "GOT") for record in call["records"]]


def eventually(what, holds, within=40):
    until = time.time() + within
    while True:
        seen = holds()
        if seen:
            return seen
        if time.time() > until:
            raise AssertionError("not in %d s: %s" % (within, what))
        time.sleep(0.1)


def settled(uuid, state):
    return eventually(state, lambda: (m := client.get_event_source_mapping(UUID=uuid))["State"] == state and m)


def feed(function, arn, **more):
    made = client.create_event_source_mapping(FunctionName=function, EventSourceArn=arn, **more)
    assert made["State"] == "Creating", made
    return settled(made["UUID"], "Enabled")["UUID"]


def left(url):
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(counts[name]) for name in names)


def metric(result):
    text = urllib.request.urlopen(URL + "/metrics").read().decode()
    line = next(l for l in text.splitlines() if l.startswith('offshoot_source_records_total{result="%s"}' % result))
    return int(line.rsplit(" ", 1)[1])


def queue_is_worked():
    create("q1")
    url, arn = queue("q1")
    uuid = feed("q1", arn)
    attributes = {"colour": {"DataType": "String", "StringValue": "red"}}
    sent = sqs.send_message(QueueUrl=url, MessageBody='{"n": 1.50}', MessageAttributes=attributes)
    record = eventually("a call", lambda: got("q1"))[0]
    assert set(record) == {
        "messageId", "receiptHandle", "body", "attributes", "messageAttributes", "md5OfBody", "md5OfMessageAttributes",
        "eventSource", "eventSourceARN", "awsRegion",
    }, record
    assert (record["messageId"], record["body"]) == (sent["MessageId"], '{"n": 1.50}')
    assert (record["eventSource"], record["eventSourceARN"], record["awsRegion"]) == ("aws:sqs", arn, "us-east-1")
    assert record["md5OfBody"] == sent["MD5OfMessageBody"]
    assert record["messageAttributes"]["colour"] == {
        "stringValue": "red", "dataType": "String", "stringListValues": [], "binaryListValues": [],
    }
    assert {"ApproximateReceiveCount", "SentTimestamp", "ApproximateFirstReceiveTimestamp"} <= set(record["attributes"])
    eventually("it is deleted", lambda: left(url) == 0)
    # Nothing is wrong, and AWS says no more of queues.
    eventually("no result", lambda: "LastProcessingResult" not in client.get_event_source_mapping(UUID=uuid))
    assert metric("processed") >= 1 and metric("polled") >= 1
    # Disabled: nothing is taken. Enabled again: what waited is.
    assert client.update_event_source_mapping(UUID=uuid, Enabled=False)["State"] == "Disabling"
    settled(uuid, "Disabled")
    sqs.send_message(QueueUrl=url, MessageBody="later")
    time.sleep(1.5)
    assert left(url) == 1 and len(got("q1")) == 1
    assert client.update_event_source_mapping(UUID=uuid, Enabled=True)["State"] == "Enabling"
    eventually("the other", lambda: [r["body"] for r in got("q1")] == ['{"n": 1.50}', "later"])
    assert client.delete_event_source_mapping(UUID=uuid)["State"] == "Deleting"
    sqs.send_message(QueueUrl=url, MessageBody="never")
    time.sleep(1.5)
    assert left(url) == 1 and len(got("q1")) == 2


def queue_failures_come_again():
    create("q2")
    _, dead = queue("q2-dead")
    letters = sqs.get_queue_url(QueueName="q2-dead")["QueueUrl"]
    policy = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 2})
    url, arn = queue("q2", VisibilityTimeout=2, RedrivePolicy=policy)
    uuid = feed("q2", arn, FunctionResponseTypes=["ReportBatchItemFailures"], MaximumBatchingWindowInSeconds=1)
    # One of a batch is reported: it alone comes again, and goes to the dead-letter queue in the end.
    bodies = ["a", '{"report": true}', "b"]
    entries = [{"Id": str(i), "MessageBody": body} for i, body in enumerate(bodies)]
    sqs.send_message_batch(QueueUrl=url, Entries=entries)
    eventually("the dead letter", lambda: left(letters) == 1 and left(url) == 0)
    seen = [r["body"] for r in got("q2")]
    assert (seen.count("a"), seen.count("b"), seen.count('{"report": true}')) == (1, 1, 2), seen
    # An answer that names something unknown fails all, and so does an error.
    for body in ('{"report": "nobody"}', '{"fail": true}'):
        sqs.send_message(QueueUrl=url, MessageBody=body)
        eventually("two tries", lambda: [r["body"] for r in got("q2")].count(body) == 2)
        eventually("the dead letter", lambda: left(url) == 0)
    result = client.get_event_source_mapping(UUID=uuid)["LastProcessingResult"]
    assert result == "PROBLEM: Function call failed", result
    assert left(letters) == 3


def queue_batches_and_filters():
    create("q3")
    url, arn = queue("q3")
    pattern = json.dumps({"body": {"kind": [{"prefix": "go"}], "n": [{"numeric": [">", 3]}]}})
    feed(
        "q3", arn, BatchSize=25, MaximumBatchingWindowInSeconds=2, ScalingConfig={"MaximumConcurrency": 2},
        FilterCriteria={"Filters": [{"Pattern": pattern}]},
    )
    bodies = [json.dumps({"kind": "good" if n % 2 else "bad", "n": n}) for n in range(60)] + ["no json"]
    for at in range(0, len(bodies), 10):
        entries = [{"Id": str(i), "MessageBody": body} for i, body in enumerate(bodies[at : at + 10])]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    wanted = {n for n in range(60) if n % 2 and n > 3}
    eventually("all wanted", lambda: {json.loads(r["body"])["n"] for r in got("q3")} == wanted)
    eventually("the others are deleted", lambda: left(url) == 0)
    sizes = [len(call["records"]) for call in lines("q3", "GOT")]
    assert sum(sizes) == len(wanted) and max(sizes) > 10 and max(sizes) <= 25, sizes


def fifo_groups_stay_in_order():
    create("q4")
    url, arn = queue("q4.fifo", FifoQueue="true", ContentBasedDeduplication="true")
    for n in range(8):
        sqs.send_message(QueueUrl=url, MessageBody="%d-%d" % (n % 2, n), MessageGroupId="g%d" % (n % 2))
    feed("q4", arn, BatchSize=5)
    # This server of queues lets go of a group with the next receive only, which may be twenty seconds later.
    eventually("all", lambda: len(lines("q4", "DONE")) and left(url) == 0, within=70)
    seen = [r["body"] for r in got("q4")]
    for group in "01":
        of_group = [int(body[2:]) for body in seen if body[0] == group]
        assert of_group == sorted(of_group) and len(of_group) == 4, seen
    assert got("q4")[0]["attributes"]["MessageGroupId"] == "g0"


def throttled_functions_are_waited_for():
    create("narrow", Timeout=30)
    client.put_function_concurrency(FunctionName="narrow", ReservedConcurrentExecutions=1)
    url, arn = queue("narrow")
    feed("narrow", arn, BatchSize=1)
    for n in range(6):
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"sleep": 0.3, "n": n}))
    eventually("all", lambda: left(url) == 0)
    seen = [json.loads(r["body"])["n"] for r in got("narrow")]
    assert sorted(seen) == list(range(6)), seen


def wrong_mappings_are_refused():
    create("wrong")
    _, arn = queue("wrong")

    def refused(code, words, **more):
        try:
            client.create_event_source_mapping(FunctionName="wrong", **{"EventSourceArn": arn, **more})
        except ClientError as error:
            said = error.response["Error"]
            assert said["Code"] == code and words in said["Message"], said
            return
        raise AssertionError("not refused: %r" % (more,))

    invalid = "InvalidParameterValueException"
    refused(invalid, "Invalid filter pattern", FilterCriteria={"Filters": [{"Pattern": '{"body": [{"wild": "x"}]}'}]})
    refused(invalid, "Unrecognized", EventSourceArn="arn:aws:s3:::bucket")
    stream = "arn:aws:kinesis:us-east-1:123456789012:stream/x"
    refused("UnsupportedOperationException", "Tumbling", EventSourceArn=stream, StartingPosition="LATEST", TumblingWindowInSeconds=5)
    # A source that is not there is refused, as AWS does.
    refused(invalid, "The specified queue does not exist", EventSourceArn=arn.replace(":wrong", ":nowhere"))
    refused(invalid, "Stream not found: " + stream, EventSourceArn=stream, StartingPosition="LATEST")
    # A queue that goes away is a problem that can be read, and is worked once it is there again.
    url, missing = queue("missing")
    uuid = feed("wrong", missing)
    sqs.delete_queue(QueueUrl=url)
    eventually(
        "the problem", lambda: "PROBLEM: Connection error" in client.get_event_source_mapping(UUID=uuid).get("LastProcessingResult", "")
    )
    url, _ = queue("missing")
    sqs.send_message(QueueUrl=url, MessageBody="there")
    eventually("it is worked", lambda: [r["body"] for r in got("wrong")] == ["there"])


def stream(name, shards=1):
    kinesis.create_stream(StreamName=name, ShardCount=shards)
    kinesis.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    return kinesis.describe_stream(StreamName=name)["StreamDescription"]["StreamARN"]


def put(name, value, key="k"):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return kinesis.put_record(StreamName=name, Data=data, PartitionKey=key)["SequenceNumber"]


def data_of(name):
    return [base64.b64decode(r["kinesis"]["data"]).decode() for r in got(name)]


def stream_is_worked():
    create("k1")
    arn = stream("k1", shards=2)
    first = put("k1", {"n": 0}, "a")
    uuid = feed("k1", arn, StartingPosition="TRIM_HORIZON", BatchSize=10, ParallelizationFactor=3)
    record = eventually("a call", lambda: got("k1"))[0]
    assert set(record) == {
        "kinesis", "eventSource", "eventVersion", "eventID", "eventName", "invokeIdentityArn", "awsRegion", "eventSourceARN",
    }, record
    inner = record["kinesis"]
    assert set(inner) == {"kinesisSchemaVersion", "partitionKey", "sequenceNumber", "data", "approximateArrivalTimestamp"}, inner
    assert (inner["sequenceNumber"], inner["partitionKey"], inner["kinesisSchemaVersion"]) == (first, "a", "1.0")
    assert record["eventID"].startswith("shardId-") and record["eventID"].endswith(":" + first)
    assert (record["invokeIdentityArn"], record["eventSourceARN"]) == (ROLE, arn)
    assert abs(inner["approximateArrivalTimestamp"] - time.time()) < 600
    for n in range(1, 60):
        put("k1", {"n": n}, "key-%d" % (n % 7))
    eventually("all", lambda: len(set(data_of("k1"))) == 60)
    for key in range(7):
        seen = [json.loads(base64.b64decode(r["kinesis"]["data"]))["n"] for r in got("k1") if r["kinesis"]["partitionKey"] == "key-%d" % key]
        assert seen == sorted(seen), seen
    eventually("the result", lambda: client.get_event_source_mapping(UUID=uuid)["LastProcessingResult"] == "OK")
    # What comes after a split is read, too.
    shard = kinesis.list_shards(StreamName="k1")["Shards"][0]
    low, high = (int(shard["HashKeyRange"][k]) for k in ("StartingHashKey", "EndingHashKey"))
    kinesis.split_shard(StreamName="k1", ShardToSplit=shard["ShardId"], NewStartingHashKey=str((low + high) // 2))
    for n in range(100, 120):
        put("k1", {"n": n}, "new-%d" % n)
    eventually("after the split", lambda: len(set(data_of("k1"))) == 80, within=60)


def stream_failures_are_isolated():
    create("k2")
    arn = stream("k2")
    letters, dead = queue("k2-dead")
    for n in range(8):
        put("k2", {"n": n, "fail": n == 5})
    # A window gathers them into one batch; the one that fails is found by splitting, tried again, and given up.
    feed(
        "k2", arn, StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=1, BisectBatchOnFunctionError=True,
        MaximumBatchingWindowInSeconds=1, DestinationConfig={"OnFailure": {"Destination": dead}},
    )
    eventually("the record of the failure", lambda: left(letters) == 1)
    record = json.loads(sqs.receive_message(QueueUrl=letters)["Messages"][0]["Body"])
    info = record["KinesisBatchInfo"]
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted" and record["version"] == "1.0", record
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert info["batchSize"] == 1 and info["startSequenceNumber"] == info["endSequenceNumber"], info
    assert info["streamArn"] == arn and info["shardId"].startswith("shardId-")
    eventually("the others", lambda: len([i for ids in lines("k2", "DONE") for i in ids]) == 7)
    # Too old: told as that.
    create("k6")
    arn = stream("k6")
    put("k6", {"fail": True})
    feed("k6", arn, StartingPosition="TRIM_HORIZON", MaximumRecordAgeInSeconds=3, DestinationConfig={"OnFailure": {"Destination": dead}})
    eventually("the record of its age", lambda: left(letters) == 2)
    conditions = lambda: [json.loads(m["Body"])["requestContext"]["condition"] for m in sqs.receive_message(QueueUrl=letters).get("Messages", [])]
    assert eventually("its condition", conditions) == ["RecordAgeExceeded"]
    # Reported by sequence number: what lies before it is not done again.
    create("k3")
    arn = stream("k3")
    for n in range(6):
        put("k3", {"n": n, "report": n == 3})
    feed(
        "k3", arn, StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=1, MaximumBatchingWindowInSeconds=1, BatchSize=6,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    # The first call got somewhere: what is left has its own first attempt and its retry.
    eventually("three attempts", lambda: len(lines("k3", "GOT")) == 3)
    time.sleep(1)
    calls = [[json.loads(base64.b64decode(r["kinesis"]["data"]))["n"] for r in call["records"]] for call in lines("k3", "GOT")]
    assert calls == [[0, 1, 2, 3, 4, 5], [3, 4, 5], [3, 4, 5]], calls


def stream_begins_where_it_is_told():
    create("k4")
    arn = stream("k4")
    put("k4", {"n": "old"})
    time.sleep(1.2)
    pattern = json.dumps({"data": {"n": [{"anything-but": "unwanted"}]}})
    feed("k4", arn, StartingPosition="LATEST", FilterCriteria={"Filters": [{"Pattern": pattern}]})
    # It is enabled when its poller has begun; the first look follows at once.
    time.sleep(1.5)
    put("k4", {"n": "unwanted"})
    put("k4", {"n": "new"})
    eventually("the new one", lambda: data_of("k4"))
    assert data_of("k4") == ['{"n": "new"}'], data_of("k4")
    create("k5")
    moment = time.time()
    time.sleep(1.1)
    put("k4", {"n": "after"})
    feed("k5", arn, StartingPosition="AT_TIMESTAMP", StartingPositionTimestamp=moment)
    eventually("the one after", lambda: data_of("k5"))
    assert data_of("k5") == ['{"n": "after"}'], data_of("k5")


def table_is_worked():
    create("d1")
    made = dynamodb.create_table(
        TableName="d1", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}], BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    arn = made["TableDescription"]["LatestStreamArn"]
    dynamodb.put_item(TableName="d1", Item={"id": {"S": "a"}, "n": {"N": "1"}})
    pattern = json.dumps({"eventName": ["INSERT", "MODIFY"]})
    uuid = feed("d1", arn, StartingPosition="TRIM_HORIZON", FilterCriteria={"Filters": [{"Pattern": pattern}]})
    record = eventually("a call", lambda: got("d1"))[0]
    assert {"eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "eventSourceARN"} <= set(record), record
    assert (record["eventName"], record["eventSource"], record["eventSourceARN"]) == ("INSERT", "aws:dynamodb", arn)
    assert record["dynamodb"]["NewImage"] == {"id": {"S": "a"}, "n": {"N": "1"}}, record
    assert record["dynamodb"]["Keys"] == {"id": {"S": "a"}} and record["dynamodb"]["SequenceNumber"], record
    dynamodb.update_item(
        TableName="d1", Key={"id": {"S": "a"}}, UpdateExpression="SET n = :n", ExpressionAttributeValues={":n": {"N": "2"}}
    )
    dynamodb.delete_item(TableName="d1", Key={"id": {"S": "a"}})
    dynamodb.put_item(TableName="d1", Item={"id": {"S": "b"}})
    eventually("the others", lambda: len(got("d1")) >= 3)
    assert [r["eventName"] for r in got("d1")] == ["INSERT", "MODIFY", "INSERT"]
    eventually("the result", lambda: client.get_event_source_mapping(UUID=uuid)["LastProcessingResult"] == "OK")


# Calls itself with AWS's client, if it has one, as botocore does it: the trace goes with the request.
CALLER = """
import json, os, urllib.request
from urllib.parse import quote
def handler(event, context):
    print("GOT " + json.dumps({"trace": os.environ.get("_X_AMZN_TRACE_ID"), "records": [event]}))
    name = event.get("next") or os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    if event["n"] >= event.get("most", 40):
        return {"calls": event["n"]}
    event = dict(event, n=event["n"] + 1)
    if "next" in event:
        event["next"] = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    headers = {"X-Amzn-Trace-Id": quote(os.environ["_X_AMZN_TRACE_ID"], safe="-=;:+&[]{}\\"'")}
    if event.get("later"):
        headers["X-Amz-Invocation-Type"] = "Event"
    request = urllib.request.Request(
        "%s/2015-03-31/functions/%s/invocations" % (event["url"], name), data=json.dumps(event).encode(), headers=headers)
    try:
        return json.loads(urllib.request.urlopen(request).read() or b"{}")
    except urllib.error.HTTPError as error:
        return {"status": error.code, "type": error.headers["x-amzn-errortype"], "said": json.loads(error.read()), "n": event["n"]}
"""


def with_network(name):
    body = json.dumps({"network": "host"}).encode()
    request = urllib.request.Request(URL + "/v1/functions/" + name, data=body, method="PATCH", headers={"Content-Type": "application/json"})
    urllib.request.urlopen(request).read()


def loops_of_functions_end():
    for name in ("loop", "other"):
        create(name, CALLER, Timeout=60, MemorySize=128)
        with_network(name)

    def call(name, **event):
        answer = client.invoke(FunctionName=name, Payload=json.dumps({"n": 1, "url": URL, **event}))
        return json.loads(answer["Payload"].read())

    # Sixteen runs, and the seventeenth is refused.
    seen = call("loop")
    assert (seen["status"], seen["type"], seen["n"]) == (400, "RecursiveInvocationException", 17), seen
    assert "called itself 16 times" in seen["said"]["Message"] and seen["said"]["Type"] == "User", seen
    assert len(got("loop")) == 16
    assert "Lineage=1:" in lines("loop", "GOT")[0]["trace"]
    # Through another one.
    seen = call("loop", next="other")
    assert (seen["status"], seen["n"]) == (400, 33), seen
    # Where it is meant.
    client.put_function_recursion_config(FunctionName="loop", RecursiveLoop="Allow")
    assert call("loop", most=25) == {"calls": 25}
    client.put_function_recursion_config(FunctionName="loop", RecursiveLoop="Terminate")
    # Asynchronously: the event that would go on is kept, and its destination told.
    letters, dead = queue("loop-dead")
    client.put_function_event_invoke_config(
        FunctionName="loop", MaximumRetryAttempts=0, DestinationConfig={"OnFailure": {"Destination": dead}}
    )
    before = len(got("loop"))
    call("loop", later=True, most=60)
    eventually("the destination", lambda: left(letters) == 1)
    record = json.loads(sqs.receive_message(QueueUrl=letters)["Messages"][0]["Body"])
    assert record["requestPayload"]["n"] == 17 and "called itself" in json.dumps(record), record
    assert len(got("loop")) - before == 16


def loops_with_awss_client_end():
    """boto3 in a function sends its trace on by itself: here it is told that it is in one."""
    create("again")
    os.environ["AWS_LAMBDA_FUNCTION_NAME"] = "again"
    try:
        for run in range(1, 17):
            client.invoke(FunctionName="again", Payload=b'{"Records": []}')
            os.environ["_X_AMZN_TRACE_ID"] = eventually("run %d" % run, lambda: len(lines("again", "GOT")) == run and lines("again", "GOT"))[-1]["trace"]
        try:
            client.invoke(FunctionName="again", Payload=b'{"Records": []}')
            raise AssertionError("the seventeenth run was made")
        except client.exceptions.RecursiveInvocationException as error:
            assert "RecursiveLoop=Allow" in error.response["Message"], error.response
    finally:
        del os.environ["AWS_LAMBDA_FUNCTION_NAME"], os.environ["_X_AMZN_TRACE_ID"]


def loops_through_queues_end():
    create("spin")
    letters, dead = queue("spin-dead")
    policy = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 5})
    url, arn = queue("spin", RedrivePolicy=policy)
    feed("spin", arn)
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    # What the function would do with AWS's client: it sends on the trace that it was called with.
    for run in range(1, 17):
        header = {"AWSTraceHeader": {"DataType": "String", "StringValue": trace}}
        sqs.send_message(QueueUrl=url, MessageBody="run %d" % run, MessageSystemAttributes=header)
        trace = eventually("run %d" % run, lambda: len(lines("spin", "GOT")) == run and lines("spin", "GOT"))[-1]["trace"]
        assert trace.startswith("Root=1-5759e988-bd862e3fe1be46a994272793;") and "Lineage=1:" in trace, trace
    header = {"AWSTraceHeader": {"DataType": "String", "StringValue": trace}}
    sqs.send_message(QueueUrl=url, MessageBody="run 17", MessageSystemAttributes=header)
    eventually("the dead letter", lambda: left(letters) == 1 and left(url) == 0)
    assert len(lines("spin", "GOT")) == 16
    assert sqs.receive_message(QueueUrl=letters)["Messages"][0]["Body"] == "run 17"


# Tells a queue outside of what it has done, so that it is known whatever becomes of the server.
TELLER = """
import base64, json, os, time, urllib.request
def handler(event, context):
    names = [r["body"] if "body" in r else base64.b64decode(r["kinesis"]["data"]).decode() for r in event["Records"]]
    time.sleep(0.3)
    body = json.dumps({"QueueUrl": os.environ["TOLD"], "MessageBody": json.dumps(names)}).encode()
    scope = "any/20260101/us-east-1/sqs/aws4_request"
    headers = {"X-Amz-Target": "AmazonSQS.SendMessage", "Content-Type": "application/x-amz-json-1.0",
               "Authorization": "AWS4-HMAC-SHA256 Credential=%s, SignedHeaders=host, Signature=00" % scope}
    urllib.request.urlopen(urllib.request.Request(os.environ["QUEUES"], data=body, headers=headers)).read()
"""
ALL = ["%s-%d" % (kind, n) for kind in ("message", "record") for n in range(40)]


def crash_begins():
    told, _ = queue("told")
    url, arn = queue("crash", VisibilityTimeout=4)
    source = stream("crash")
    create("teller", TELLER, Timeout=30, Environment={"Variables": {"TOLD": told, "QUEUES": QUEUES}})
    with_network("teller")
    for at in range(0, 40, 10):
        entries = [{"Id": str(i), "MessageBody": "message-%d" % (at + i)} for i in range(10)]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    for n in range(40):
        put("crash", b"record-%d" % n)
    feed("teller", arn, BatchSize=2, ScalingConfig={"MaximumConcurrency": 2})
    feed("teller", source, StartingPosition="TRIM_HORIZON", BatchSize=4)
    eventually("some are done", lambda: left(told) >= 5)


def crash_ends():
    told, url = (sqs.get_queue_url(QueueName=name)["QueueUrl"] for name in ("told", "crash"))
    seen = []

    def more():
        while messages := sqs.receive_message(QueueUrl=told, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                seen.extend(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=told, ReceiptHandle=message["ReceiptHandle"])
        return set(seen) == set(ALL) and left(url) == 0

    eventually("all are done", more, within=60)
    # What was done and saved before is not done again: at most the batches that were under way.
    twice = [name for name in set(seen) if seen.count(name) > 1]
    assert len([name for name in twice if name.startswith("record")]) <= 4, twice
    assert len([name for name in twice if name.startswith("message")]) <= 8, twice


def waits_for_its_source():
    """The queues' server is not there yet, or not any more."""
    create("early")
    uuid = feed("early", "arn:aws:sqs:us-east-1:123456789012:early")
    said = lambda: client.get_event_source_mapping(UUID=uuid).get("LastProcessingResult", "")
    eventually("it is said", lambda: said().startswith("PROBLEM: Connection error") and "cannot be reached" in said())


def finds_its_source():
    url, _ = queue("early")
    sqs.send_message(QueueUrl=url, MessageBody="at last")
    eventually("it is worked", lambda: [r["body"] for r in got("early")] == ["at last"], within=60)
    uuid = client.list_event_source_mappings(FunctionName="early")["EventSourceMappings"][0]["UUID"]
    eventually("no result", lambda: "LastProcessingResult" not in client.get_event_source_mapping(UUID=uuid))


def says_that_nothing_is_polled():
    create("unfed")
    for arn, setting in (
        ("arn:aws:sqs:us-east-1:123456789012:q", "sqs_endpoint"),
        ("arn:aws:kinesis:us-east-1:123456789012:stream/s", "kinesis_endpoint"),
        ("arn:aws:dynamodb:us-east-1:123456789012:table/t/stream/2026", "dynamodb_streams_endpoint"),
    ):
        more = {} if ":sqs:" in arn else {"StartingPosition": "LATEST"}
        uuid = feed("unfed", arn, **more)
        said = client.get_event_source_mapping(UUID=uuid)["LastProcessingResult"]
        assert said == "Nothing is polled: this server has no " + setting, said


def a_stop_ends_batches():
    create("gentle", Timeout=30)
    url, arn = queue("gentle", VisibilityTimeout=300)
    feed("gentle", arn)
    sqs.send_message(QueueUrl=url, MessageBody='{"sleep": 3}')
    eventually("it runs", lambda: got("gentle"))


def a_stop_has_ended_batches():
    url = sqs.get_queue_url(QueueName="gentle")["QueueUrl"]
    # The server is gone; what it ran, it has deleted, although the queue would have hidden it for minutes.
    assert left(url) == 0, left(url)


def other(name):
    return boto3.client(name, endpoint_url=QUEUES, **SETTINGS)


def received(url):
    message = eventually("a message", lambda: sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages"))[0]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return message


def topics_are_told():
    """The topic leads to a queue, where what arrived can be looked at."""
    create("telling", "def handler(event, context):\n    if event.get('fail') or 'Records' in event: raise ValueError('as asked')\n    return 1\n")
    topic = other("sns").create_topic(Name="told")["TopicArn"]
    heard_url, heard = queue("heard-of-topic")
    other("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=heard)
    client.put_function_event_invoke_config(
        FunctionName="telling", MaximumRetryAttempts=0, DestinationConfig={"OnFailure": {"Destination": topic}}
    )
    client.invoke(FunctionName="telling", InvocationType="Event", Payload=b'{"fail": 1}')
    note = json.loads(received(heard_url)["Body"])
    record = json.loads(note["Message"])
    assert note["TopicArn"] == topic and record["requestContext"]["condition"] == "RetriesExhausted", note
    # A dead letter is the event itself, with attributes.
    create("dying", "def handler(event, context): raise ValueError('as asked')\n", DeadLetterConfig={"TargetArn": topic})
    client.put_function_event_invoke_config(FunctionName="dying", MaximumRetryAttempts=0)
    client.invoke(FunctionName="dying", InvocationType="Event", Payload=b'{"last": "words"}')
    note = json.loads(received(heard_url)["Body"])
    assert json.loads(note["Message"]) == {"last": "words"} and note["MessageAttributes"]["ErrorCode"]["Value"] == "200", note
    # What a mapping gives up.
    source = stream("hopeless")
    feed("telling", source, StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=0, DestinationConfig={"OnFailure": {"Destination": topic}})
    put("hopeless", {})
    account = json.loads(json.loads(received(heard_url)["Body"])["Message"])
    assert account["KinesisBatchInfo"]["streamArn"] == source, account


def networks_are_checked_kept_and_shown():
    ec2 = other("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="a group")["GroupId"]
    create("inside", VpcConfig={"SubnetIds": [subnet], "SecurityGroupIds": [group]})
    shown = {"SubnetIds": [subnet], "SecurityGroupIds": [group], "VpcId": vpc, "Ipv6AllowedForDualStack": False}
    assert client.get_function_configuration(FunctionName="inside")["VpcConfig"] == shown
    assert client.list_functions()["Functions"][0]["VpcConfig"] == shown
    version = client.publish_version(FunctionName="inside")
    client.update_function_configuration(FunctionName="inside", VpcConfig={"SubnetIds": [], "SecurityGroupIds": []})
    none = {"SubnetIds": [], "SecurityGroupIds": [], "VpcId": "", "Ipv6AllowedForDualStack": False}
    assert client.get_function_configuration(FunctionName="inside")["VpcConfig"] == none
    # A version is what it was, and runs.
    assert client.get_function_configuration(FunctionName="inside", Qualifier=version["Version"])["VpcConfig"] == shown
    answer = client.invoke(FunctionName="inside", Qualifier=version["Version"], Payload=b'{"Records": []}')
    assert json.load(answer["Payload"]) == {"batchItemFailures": []}
    create("outside", VpcConfig={"SubnetIds": [], "SecurityGroupIds": []})
    assert "VpcConfig" not in client.get_function_configuration(FunctionName="outside")
    for ids, said in (
        (["subnet-0"], "Error occurred while DescribeSubnets. EC2 Error Code: InvalidSubnetID.NotFound. EC2 Error Message: The subnet ID 'subnet-0' does not exist"),
        (["net-0"], "Value '[net-0]' at 'vpcConfig.subnetIds' failed to satisfy constraint"),
    ):
        try:
            client.update_function_configuration(FunctionName="outside", VpcConfig={"SubnetIds": ids, "SecurityGroupIds": [group]})
            raise AssertionError("it was taken")
        except ClientError as error:
            assert said in str(error), error
    assert "VpcConfig" not in client.get_function_configuration(FunctionName="outside")


def networks_need_who_knows_them():
    try:
        create("nowhere", VpcConfig={"SubnetIds": ["subnet-0"], "SecurityGroupIds": ["sg-0"]})
        raise AssertionError("it was taken")
    except ClientError as error:
        assert "ec2_endpoint" in str(error), error


for story in sys.argv[3:]:
    print("story:", story, flush=True)
    globals()[story]()
