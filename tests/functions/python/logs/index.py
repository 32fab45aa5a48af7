"""Writes the lines that the body's JSON lists to standard output, and one to standard error."""
import base64
import json
import sys


def handler(req):
    asked = json.loads(req.body) if req.body else {}
    lines = asked.get("lines", [])
    for line in lines:
        print(line)
    if asked.get("raw"):
        sys.stdout.flush()
        sys.stdout.buffer.write(base64.b64decode(asked["raw"]))
        sys.stdout.flush()
    print("and one to stderr", file=sys.stderr)
    return {"body": {"written": len(lines)}}
