"""Leaves marks wherever something could outlive an invocation, or reports the marks that it finds."""
import os
import socket

canary = None
held = []


def handler(req):
    global canary
    places = ["/tmp/canary", "/dev/shm/canary", "/var/tmp/canary", "/run/canary", "/var/task/canary", "/opt/canary"]
    if req.body == "leave":
        canary = "here"
        os.environ["CANARY"] = "here"
        left = []
        for place in places:
            try:
                with open(place, "w") as f:
                    f.write("here")
                left.append(place)
            except OSError:
                pass
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind("\0offshoot-canary")
        abstract.listen()
        held.append(abstract)
        os.umask(0o777)
        return {"body": left}
    found = [place for place in places if os.path.exists(place)]
    if canary:
        found.append("global")
    if "CANARY" in os.environ:
        found.append("env")
    try:
        socket.socket(socket.AF_UNIX).connect("\0offshoot-canary")
        found.append("abstract socket")
    except OSError:
        pass
    if os.umask(0o022) == 0o777:
        found.append("umask")
    return {"body": found}
