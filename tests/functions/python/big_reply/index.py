"""A reply of as many bytes as the body says."""


def handler(req):
    return {"headers": {"Content-Type": "text/plain"}, "body": "x" * int(req.body)}
