"""Sleeps for the milliseconds in the body and says what else ran here meanwhile."""
import os
import threading
import time

lock = threading.Lock()
active = most = 0


def handler(req):
    global active, most
    with lock:
        active += 1
        most = max(most, active)
    time.sleep(int(req.body) / 1000)
    with lock:
        active -= 1
    return {"body": {"slept": int(req.body), "most": most, "env": os.environ.get("MARK")}}
