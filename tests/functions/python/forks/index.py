"""Starts processes until the machine says no."""
import errno
import os
import time


def handler(req):
    made = 0
    while made < 20000:
        try:
            if os.fork() == 0:
                while True:
                    time.sleep(1000)
        except OSError as error:
            return {"body": {"made": made, "error": errno.errorcode[error.errno]}}
        made += 1
    return {"body": {"made": made, "error": None}}
