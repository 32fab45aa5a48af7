"""Durable executions as boto3 sees them, of functions on AWS's own SDK for the language that the second argument names.

usage: durable_boto3.py ENDPOINT python|node RUNTIME LAYER.zip FUNCTION.zip PART
"""
import json
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT, LANGUAGE, RUNTIME, LAYER, FUNCTION, PART = sys.argv[1:7]
client = boto3.client(
    "lambda", endpoint_url=ENDPOINT, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any",
    config=Config(read_timeout=120, retries={"max_attempts": 0}),
)
NAME = f"flows-{LANGUAGE}"
ROLE = "arn:aws:iam::000000000000:role/any"


def read(path):
    with open(path, "rb") as file:
        return file.read()


def refused(code, call, said=""):
    try:
        call()
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        assert said in error.response["Error"]["Message"], error
        return error.response
    raise AssertionError(f"{code} was expected")


def create(name=NAME, **more):
    layer = client.publish_layer_version(LayerName=f"sdk-{LANGUAGE}", Content={"ZipFile": read(LAYER)})
    made = client.create_function(
        FunctionName=name, Runtime=RUNTIME, Handler="flows.handler", Role=ROLE, Code={"ZipFile": read(FUNCTION)},
        Layers=[layer["LayerVersionArn"]], Timeout=60, MemorySize=256, **more,
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    return made


def invoke(event, kind="RequestResponse", qualifier="$LATEST", name=None, function=None):
    more = {"DurableExecutionName": name} if name else {}
    answer = client.invoke(
        FunctionName=function or NAME, Qualifier=qualifier, InvocationType=kind, Payload=json.dumps(event), **more
    )
    body = answer["Payload"].read()
    return answer, (json.loads(body) if body else None)


def begin(event, **more):
    answer, _ = invoke(event, kind="Event", **more)
    assert answer["StatusCode"] == 202
    return answer["DurableExecutionArn"]


def get(arn):
    return client.get_durable_execution(DurableExecutionArn=arn)


def until(what, holds, within=60):
    end = time.time() + within
    while time.time() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {within} s")


def ended(arn, status="SUCCEEDED"):
    found = until(f"the end of {arn}", lambda: (e := get(arn))["Status"] != "RUNNING" and e)
    assert found["Status"] == status, found
    return found


def history(arn, **more):
    events, marker = [], None
    while True:
        page = client.get_durable_execution_history(
            DurableExecutionArn=arn, **({"Marker": marker} if marker else {}), **more
        )
        events += page["Events"]
        marker = page.get("NextMarker")
        if not marker:
            return events


def kinds(arn):
    return [event["EventType"] for event in history(arn)]


def callback_of(arn):
    def look():
        found = [e for e in history(arn) if e["EventType"] == "CallbackStarted"]
        return found and found[0]["CallbackStartedDetails"]["CallbackId"]
    return until("a callback", look)


def settings():
    """What makes a function durable, and what it asks of its callers."""
    made = create(DurableConfig={"ExecutionTimeout": 600, "RetentionPeriodInDays": 3})
    assert made["DurableConfig"] == {"ExecutionTimeout": 600, "RetentionPeriodInDays": 3}, made
    changed = client.update_function_configuration(FunctionName=NAME, DurableConfig={"RetentionPeriodInDays": 5})
    assert changed["DurableConfig"] == {"ExecutionTimeout": 600, "RetentionPeriodInDays": 5}
    client.get_waiter("function_updated_v2").wait(FunctionName=NAME)
    assert client.get_function_configuration(FunctionName=NAME)["DurableConfig"]["RetentionPeriodInDays"] == 5
    refused(
        "InvalidParameterValueException",
        lambda: client.invoke(FunctionName=NAME, Payload=b"{}"),
        "You cannot invoke a durable function using an unqualified ARN.",
    )
    refused(
        "InvalidParameterValueException",
        lambda: client.create_function(
            FunctionName="days", Runtime=RUNTIME, Handler="flows.handler", Role=ROLE, Code={"ZipFile": read(FUNCTION)},
            DurableConfig={"RetentionPeriodInDays": 5},
        ),
        "ExecutionTimeout",
    )
    create("plain")
    refused(
        "InvalidParameterValueException",
        lambda: client.update_function_configuration(FunctionName="plain", DurableConfig={"ExecutionTimeout": 5}),
        "when it is created",
    )
    refused("InvalidParameterValueException", lambda: invoke({}, function="plain", name="x"), "DurableConfig")
    create("year", DurableConfig={"ExecutionTimeout": 31622400})
    refused(
        "InvalidParameterValueException", lambda: invoke({"flow": "steps"}, function="year"), "greater than 15 minutes"
    )
    assert ended(begin({"flow": "steps"}, function="year"))["DurableConfig"]["RetentionPeriodInDays"] == 14
    client.delete_function(FunctionName="plain")
    client.delete_function(FunctionName="year")


def steps():
    answer, body = invoke({"flow": "steps", "say": "hé"}, name="one")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST") and "FunctionError" not in answer
    assert body["second"] == body["first"] + "+" and body["said"] == "hé"
    arn = answer["DurableExecutionArn"]
    assert f":function:{NAME}:$LATEST/durable-execution/one/" in arn
    found = get(arn)
    assert found["Status"] == "SUCCEEDED" and json.loads(found["Result"]) == body and found["DurableExecutionName"] == "one"
    assert json.loads(found["InputPayload"])["say"] == "hé" and found["Version"] == "$LATEST"
    assert found["FunctionArn"].endswith(f":function:{NAME}:$LATEST") and found["EndTimestamp"] >= found["StartTimestamp"]
    lean = client.get_durable_execution(DurableExecutionArn=arn, IncludeExecutionData=False)
    assert lean["ExecutionDataIncluded"] is False and "Result" not in lean and "InputPayload" not in lean
    # The same name: the same execution, unless the payload is another one.
    again, same = invoke({"flow": "steps", "say": "hé"}, name="one")
    assert again["DurableExecutionArn"] == arn and same == body
    refused("DurableExecutionAlreadyStartedException", lambda: invoke({"flow": "steps", "say": "no"}, name="one"), "one")
    refused("InvalidParameterValueException", lambda: begin({"flow": "steps"}, name="a" * 65))
    # A version is kept for all of an execution's invocations.
    version = client.publish_version(FunctionName=NAME)["Version"]
    client.create_alias(FunctionName=NAME, Name="live", FunctionVersion=version)
    answer, body = invoke({"flow": "waits"}, qualifier="live")
    assert f":function:{NAME}:{version}/durable-execution/" in answer["DurableExecutionArn"], answer
    assert answer["ExecutedVersion"] == version and body["before"] != body["after"]
    words = kinds(answer["DurableExecutionArn"])
    assert words.count("InvocationCompleted") >= 2 and "WaitSucceeded" in words, words
    answer, body = invoke({"flow": "several"})
    assert body == {"parallel": [0, 10, 20], "mapped": [2, 3, 4], "child": "inside"}, body
    answer, body = invoke({"flow": "fails"})
    assert answer["FunctionError"] == "Unhandled" and body["errorMessage"] == "this execution fails", body
    found = get(answer["DurableExecutionArn"])
    assert found["Status"] == "FAILED" and found["Error"]["ErrorMessage"] == "this execution fails"


def retries():
    event = {"flow": "retries", "good": 3} if LANGUAGE == "python" else {"flow": "retries", "ms": 1500}
    answer, body = invoke(event)
    assert "FunctionError" not in answer, body
    failed = [e for e in history(answer["DurableExecutionArn"]) if e["EventType"] == "StepFailed"]
    attempts = [e["StepFailedDetails"]["RetryDetails"]["CurrentAttempt"] for e in failed]
    assert attempts in ([1], [1, 2]), failed
    assert failed[0]["StepFailedDetails"]["RetryDetails"]["NextAttemptDelaySeconds"] == 1
    event = {"flow": "retries", "good": 9} if LANGUAGE == "python" else {"flow": "retries", "ms": 900000}
    answer, body = invoke(event)
    assert answer["FunctionError"] == "Unhandled" and "not good" in body["errorMessage"], body


def callbacks():
    arn = begin({"flow": "callback", "timeout": 60})
    callback = callback_of(arn)
    client.send_durable_execution_callback_heartbeat(CallbackId=callback)
    client.send_durable_execution_callback_success(CallbackId=callback, Result=b"from outside")
    assert json.loads(ended(arn)["Result"]) == {"answer": "from outside"}
    refused("CallbackTimeoutException", lambda: client.send_durable_execution_callback_success(CallbackId=callback))
    refused("CallbackTimeoutException", lambda: client.send_durable_execution_callback_heartbeat(CallbackId=callback))
    refused("ResourceNotFoundException", lambda: client.send_durable_execution_callback_heartbeat(CallbackId="0" * 40))
    refused("ResourceNotFoundException", lambda: client.send_durable_execution_callback_success(CallbackId="nonsense"))
    arn = begin({"flow": "callback"})
    client.send_durable_execution_callback_failure(
        CallbackId=callback_of(arn), Error={"ErrorMessage": "they said no", "ErrorType": "No"}
    )
    assert "they said no" in json.loads(ended(arn)["Result"])["said"]
    assert "CallbackFailed" in kinds(arn)
    for event in ({"timeout": 1}, {"heartbeat": 1}):
        arn = begin({"flow": "callback", **event})
        assert "error" in json.loads(ended(arn)["Result"])
        assert "CallbackTimedOut" in kinds(arn)
    # A heartbeat puts off the end.
    arn = begin({"flow": "callback", "heartbeat": 3})
    callback = callback_of(arn)
    for _ in range(4):
        time.sleep(1)
        client.send_durable_execution_callback_heartbeat(CallbackId=callback)
    assert get(arn)["Status"] == "RUNNING"
    client.send_durable_execution_callback_success(CallbackId=callback, Result=b"late")
    assert json.loads(ended(arn)["Result"]) == {"answer": "late"}


ECHO = {
    "python": "def handler(event, context):\n    if event == 'bad': raise KeyError('bad')\n    return {'echo': event}\n",
    "node": "exports.handler = async (e) => { if (e === 'bad') throw new Error('bad'); return { echo: e }; };\n",
}


def chained():
    import io
    import zipfile

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("index.py" if LANGUAGE == "python" else "index.js", ECHO[LANGUAGE])
    client.create_function(
        FunctionName="echo", Runtime=RUNTIME, Handler="index.handler", Role=ROLE, Code={"ZipFile": held.getvalue()}
    )
    ask = lambda function, payload: invoke({"flow": "chained", "function": function, "payload": payload})
    answer, body = ask("echo", {"a": 1})
    assert body == {"answer": {"echo": {"a": 1}}}, body
    words = kinds(answer["DurableExecutionArn"])
    assert "ChainedInvokeStarted" in words and "ChainedInvokeSucceeded" in words, words
    _, body = ask("echo", "bad")
    assert "bad" in body["said"], body
    _, body = ask("nobody", {})
    assert "nobody" in body["said"], body
    # A durable function gets an execution of its own.
    answer, body = ask(f"{NAME}:$LATEST", {"flow": "waits"})
    assert set(body["answer"]) == {"before", "after"}, body
    child = [e for e in executions() if e["DurableExecutionArn"] != answer["DurableExecutionArn"]][0]
    assert child["Status"] == "SUCCEEDED"
    _, body = ask(f"{NAME}:$LATEST", {"flow": "fails"})
    assert "this execution fails" in body["said"], body
    _, body = ask(NAME, {"flow": "steps"})
    assert "unqualified" in body["said"], body
    # Stopping the one that is called ends the call.
    arn = begin({"flow": "chained", "function": f"{NAME}:$LATEST", "payload": {"flow": "waits", "seconds": 3600}})
    child = until("the child", lambda: [e for e in executions(Statuses=["RUNNING"]) if e["DurableExecutionArn"] != arn])[0]
    client.stop_durable_execution(DurableExecutionArn=child["DurableExecutionArn"], Error={"ErrorMessage": "enough"})
    assert "enough" in json.loads(ended(arn)["Result"])["said"]
    assert "ChainedInvokeStopped" in kinds(arn)
    client.delete_function(FunctionName="echo")


def executions(**more):
    found, marker = [], None
    while True:
        page = client.list_durable_executions_by_function(
            FunctionName=NAME, **({"Marker": marker} if marker else {}), **more
        )
        found += page["DurableExecutions"]
        marker = page.get("NextMarker")
        if not marker:
            return found


def pauses():
    # While it waits: the wait ends, and nobody is told until it goes on.
    arn = begin({"flow": "waits", "seconds": 2}, name="paused")
    until("the wait", lambda: "WaitStarted" in kinds(arn))
    until("the invocation's end", lambda: "InvocationCompleted" in kinds(arn))
    assert client.pause_durable_execution(DurableExecutionArn=arn, Reason="later", ClientToken="t")["ResponseMetadata"]["HTTPStatusCode"] == 202
    client.pause_durable_execution(DurableExecutionArn=arn, Reason="later", ClientToken="t")
    refused("ResourceConflictException", lambda: client.pause_durable_execution(DurableExecutionArn=arn))
    found = get(arn)
    assert found["Status"] == "PAUSED" and found["PauseDetails"]["Reason"] == "later" and found["PauseDetails"]["ExecutionTimeoutPaused"], found
    assert (found["ExpectedExecutionTimeoutTimestamp"] - found["StartTimestamp"]).days == 366, found
    listed = client.list_durable_executions_by_function(FunctionName=NAME, Statuses=["PAUSED", "PAUSING"])["DurableExecutions"]
    assert [e["DurableExecutionArn"] for e in listed] == [arn], listed
    until("the wait's end", lambda: "WaitSucceeded" in kinds(arn))
    time.sleep(0.5)
    assert kinds(arn).count("InvocationCompleted") == 1, kinds(arn)
    refused("ResourceConflictException", lambda: client.delete_durable_execution(DurableExecutionArn=arn))
    client.resume_durable_execution(DurableExecutionArn=arn, Reason="now")
    ended(arn, "SUCCEEDED")
    told = kinds(arn)
    assert told.index("ExecutionPaused") < told.index("WaitSucceeded") < told.index("ExecutionResumed"), told
    refused("ResourceConflictException", lambda: client.resume_durable_execution(DurableExecutionArn=arn))
    # While its code runs: it ends with the next checkpoint, by the SDK's own doing, and goes on from there.
    arn = begin({"flow": "slow", "rounds": 12}, name="cut")
    until("a step", lambda: "StepSucceeded" in kinds(arn))
    client.pause_durable_execution(DurableExecutionArn=arn, ExecutionTimeoutPaused=False)
    until("the pause", lambda: get(arn)["Status"] not in ("RUNNING", "PAUSING"))
    assert get(arn)["Status"] == "PAUSED", (get(arn), kinds(arn))
    until("the invocation's end", lambda: "InvocationCompleted" in kinds(arn))
    kept = kinds(arn).count("StepSucceeded")
    time.sleep(1)
    assert kinds(arn).count("StepSucceeded") == kept, kinds(arn)
    assert get(arn)["Status"] == "PAUSED", (get(arn), history(arn)[-3:])
    client.resume_durable_execution(DurableExecutionArn=arn)
    assert len(json.loads(ended(arn, "SUCCEEDED")["Result"])) == 12
    names = [event["Name"] for event in history(arn) if event["EventType"] == "StepSucceeded"]
    assert len(set(names)) == len(names) > kept, names
    # What is over can be deleted, and its name is free.
    when = client.delete_durable_execution(DurableExecutionArn=arn)["DeletionRequestTimestamp"]
    assert when.year > 2000
    refused("ResourceNotFoundException", lambda: get(arn))
    assert begin({"flow": "waits", "seconds": 1}, name="cut") != arn


def stops():
    arn = begin({"flow": "waits", "seconds": 3600}, name="long")
    until("the wait", lambda: "WaitStarted" in kinds(arn))
    stopped = client.stop_durable_execution(DurableExecutionArn=arn, Error={"ErrorType": "T", "ErrorMessage": "enough"})
    found = ended(arn, "STOPPED")
    assert found["Error"] == {"ErrorType": "T", "ErrorMessage": "enough"}
    assert found["EndTimestamp"] == stopped["StopTimestamp"]
    # Again is the same.
    assert client.stop_durable_execution(DurableExecutionArn=arn)["StopTimestamp"] == stopped["StopTimestamp"]
    assert kinds(arn)[-1] in ("ExecutionStopped", "InvocationCompleted")
    refused("ResourceNotFoundException", lambda: get(arn[:-1] + ("0" if arn[-1] != "0" else "1")))
    create("short", DurableConfig={"ExecutionTimeout": 2})
    answer, body = invoke({"flow": "waits", "seconds": 60}, function="short")
    assert answer["FunctionError"] == "Unhandled" and "timed out after 2 seconds" in body["errorMessage"], body
    ended(answer["DurableExecutionArn"], "TIMED_OUT")
    client.delete_function(FunctionName="short")
    # Without its function an execution fails.
    create("gone", DurableConfig={"ExecutionTimeout": 600})
    arn = begin({"flow": "waits", "seconds": 1}, function="gone")
    until("the wait", lambda: "WaitStarted" in kinds(arn))
    client.delete_function(FunctionName="gone")
    assert ended(arn, "FAILED")["Error"]["ErrorType"] == "ResourceNotFoundException"


def pages():
    arn = begin({"flow": "many", "steps": 130, "bytes": 50000}, name="many")
    ended(arn)
    events = history(arn, MaxItems=50)
    assert [e["EventId"] for e in events] == list(range(1, len(events) + 1)) and len(events) > 260, len(events)
    backwards = history(arn, MaxItems=70, ReverseOrder=True)
    assert [e["EventId"] for e in backwards] == list(range(len(events), 0, -1))
    lean = history(arn, MaxItems=1000, IncludeExecutionData=False)
    done = [e for e in lean if e["EventType"] == "StepSucceeded"]
    assert len(done) == 130 and all("Payload" not in e["StepSucceededDetails"]["Result"] for e in done)
    # The state of this one does not fit into one event: the SDK asks for the rest of it.
    assert json.loads(get(arn)["Result"]) == 130 * 50000
    for n in range(5):
        begin({"flow": "steps"}, name=f"listed-{n}")
    everything = executions()
    starts = [e["StartTimestamp"] for e in everything]
    assert len(everything) >= 6 and starts == sorted(starts, reverse=True)
    assert [e["DurableExecutionArn"] for e in executions(MaxItems=2)] == [e["DurableExecutionArn"] for e in everything]
    assert [e["DurableExecutionName"] for e in executions(DurableExecutionName="listed-3")] == ["listed-3"]
    assert executions(StartedBefore="2020-01-01T00:00:00Z") == []
    assert len(executions(StartedAfter="2020-01-01T00:00:00Z", ReverseOrder=True)) == len(everything)
    assert executions(Statuses=["PAUSED"]) == [] and executions(Qualifier="$LATEST") != []
    until("their ends", lambda: not executions(Statuses=["RUNNING"]))


def tokens():
    """Nobody but the running invocation may checkpoint."""
    arn = begin({"flow": "callback"})
    callback_of(arn)
    for token in ("0" * 80, "AAAA", arn.split("/")[-1].replace("-", "") + "0" * 48):
        refused(
            "InvalidParameterValueException",
            lambda: client.checkpoint_durable_execution(DurableExecutionArn=arn, CheckpointToken=token, Updates=[]),
            "Invalid checkpoint token",
        )
        refused(
            "InvalidParameterValueException",
            lambda: client.get_durable_execution_state(DurableExecutionArn=arn, CheckpointToken=token),
            "Invalid checkpoint token",
        )
    client.stop_durable_execution(DurableExecutionArn=arn)


def main():
    if PART == "settings":
        return settings()
    create(DurableConfig={"ExecutionTimeout": 600})
    return {
        "steps": steps, "retries": retries, "callbacks": callbacks, "chained": chained, "pauses": pauses, "stops": stops, "pages": pages,
        "tokens": tokens, "none": lambda: None,
    }[PART]()


main()
