"""Gives back what it was called with; below /raw, the body's bytes as they came."""


def handler(req):
    if req.path.startswith("/raw"):
        return {"headers": {"Content-Type": "application/octet-stream"}, "body": req.bytes}
    return {
        "body": {
            "method": req.method,
            "path": req.path,
            "query": req.query,
            "headers": dict(req.headers),
            "body": req.body,
            "id": req.id,
        }
    }
