"""Closes descriptors that it did not open and replaces what it may; says which instance this is."""
import os
import uuid

begun = 0
born = str(uuid.uuid4())
try:
    os.close(4)
except OSError:
    pass


def mocked(*_):
    raise RuntimeError("mocked")


os.read = os.readv = os.write = os.writev = mocked


def handler(req):
    global begun
    begun += 1
    return {"body": {"begun": begun, "born": born, "asked": req.body}}
