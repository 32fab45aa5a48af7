"""Leaves a process behind that tries to outlive everything."""
import os
import signal
import time


def handler(req):
    if os.fork() == 0:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(0.1)
    os.wait()
    return {"body": "left behind"}
