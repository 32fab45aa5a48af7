"""Durable functions in Python, on AWS's own SDK. The event says which; steps return something that no second run would."""
import time
import uuid

from aws_durable_execution_sdk_python import durable_execution
from aws_durable_execution_sdk_python.config import CallbackConfig, Duration, StepConfig
from aws_durable_execution_sdk_python.retries import RetryDecision


def unique(_context):
    return uuid.uuid4().hex


def steps(event, context):
    first = context.step(unique, name="first")
    second = context.step(lambda _: first + "+", name="second")
    return {"first": first, "second": second, "said": event.get("say")}


def waits(event, context):
    before = context.step(unique, name="before")
    context.wait(Duration.from_seconds(event.get("seconds", 1)), name="pause")
    after = context.step(unique, name="after")
    return {"before": before, "after": after}


def retries(event, context):
    tried = []

    def sometimes(step):
        tried.append(step.attempt)
        if step.attempt < event["good"]:
            raise ValueError(f"attempt {step.attempt} is not good")
        return step.attempt

    def again(_error, attempt):
        return RetryDecision.retry(Duration.from_seconds(1)) if attempt < 3 else RetryDecision.no_retry()

    return context.step(sometimes, name="sometimes", config=StepConfig(retry_strategy=again))


def callback(event, context):
    config = CallbackConfig(
        timeout=Duration.from_seconds(event.get("timeout", 0)),
        heartbeat_timeout=Duration.from_seconds(event.get("heartbeat", 0)),
    )
    held = context.create_callback(name="answer", config=config)
    try:
        return {"answer": held.result()}
    except Exception as error:
        return {"error": type(error).__name__, "said": str(error)}


def several(event, context):
    branches = [lambda child, n=n: child.step(lambda _: n * 10, name=f"branch-{n}") for n in range(3)]
    parallel = context.parallel(branches, name="branches")
    mapped = context.map([1, 2, 3], lambda child, item, index, items: child.step(lambda _: item + 1), name="mapped")

    def inside(child):
        child.wait(Duration.from_seconds(1))
        return child.step(lambda _: "inside", name="in-child")

    child = context.run_in_child_context(inside, name="child")
    return {"parallel": parallel.get_results(), "mapped": mapped.get_results(), "child": child}


def chained(event, context):
    try:
        return {"answer": context.invoke(event["function"], event["payload"], name="other")}
    except Exception as error:
        return {"error": type(error).__name__, "said": str(error)}


def fails(event, context):
    context.step(unique, name="first")
    raise RuntimeError("this execution fails")


def many(event, context):
    total = 0
    for n in range(event["steps"]):
        total += len(context.step(lambda _: "x" * event.get("bytes", 1), name=f"step-{n}"))
    context.wait(Duration.from_seconds(1))
    return total


def slow(event, context):
    """Steps and waits one after the other, for a server that is killed in between."""
    marks = []
    for n in range(event["rounds"]):
        marks.append(context.step(unique, name=f"mark-{n}"))
        if n % 3 == 2:
            context.wait(Duration.from_seconds(1))
        else:
            context.step(lambda _: time.sleep(0.1), name=f"nap-{n}")
    return marks


FLOWS = {f.__name__: f for f in (steps, waits, retries, callback, several, chained, fails, many, slow)}


@durable_execution
def handler(event, context):
    return FLOWS[event["flow"]](event, context)
