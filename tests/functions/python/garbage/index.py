"""Writes what no worker may say on the channel; the body names it."""
import os
import struct
import time


def frame(head, body=b""):
    return struct.pack("<II", len(head), len(body)) + head + body


SAY = {
    "noise": lambda: b"\xff\xfe\xfd this is no frame at all \x00\x01" * 8,
    "huge_header": lambda: struct.pack("<II", 0xFFFFFFFF, 0),
    "huge_body": lambda: struct.pack("<II", 13, 0xFFFFFFF0) + b'{"t":"reply"}',
    "not_json": lambda: frame(b'{"t":'),
    "unknown": lambda: frame(b'{"t":"format_disk"}'),
    "again_ready": lambda: frame(b'{"t":"ready","init_us":1,"version":"1"}'),
    "foreign": lambda: frame(b'{"t":"reply","id":"00000000-0000-4000-8000-000000000000"}', b"for you"),
    "deep": lambda: frame(b'{"t":' + b"[" * 200000 + b"]" * 200000 + b"}"),
    "many": lambda: frame(b'{"t":"ready","init_us":1}') * 5000,
    "partial": lambda: struct.pack("<II", 100, 100),
}


def handler(req):
    rest = memoryview(SAY[req.body]())
    while rest:
        rest = rest[os.write(3, rest) :]
    time.sleep(10**6)
