"""Answers on the channel behind the worker's back, then answers as one should."""
import json
import os
import struct


def handler(req):
    head = json.dumps({"t": "reply", "id": req.id, "http": {"status": 200, "headers": []}}).encode()
    os.write(3, struct.pack("<II", len(head), 6) + head + b"forged")
    return {"body": "honest"}
