"""State made once, before the snapshot; hooks on both sides of it, by AWS's interface."""
import os
import threading
import uuid

from snapshot_restore_py import register_after_restore, register_before_snapshot

initialised = str(uuid.uuid4())
hooks = []
before = after = calls = 0


@register_before_snapshot
def before_first():
    global before
    before += 1
    hooks.append("before 1")


def add(text, times=1):
    hooks.extend([text] * times)


register_before_snapshot(add, "before 2")


@register_after_restore
def after_first():
    global after
    after += 1
    hooks.append("after 1")


register_after_restore(add, "after 2", times=1)


def handler(req):
    global calls
    calls += 1
    if req.body == "leave":
        threading.Timer(0.005, os._exit, [0]).start()
    kind = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE")
    return {"body": {"initialised": initialised, "before": before, "after": after, "hooks": hooks, "calls": calls, "kind": kind}}
