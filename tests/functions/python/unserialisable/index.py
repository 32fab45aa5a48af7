circle = {}
circle["self"] = circle
values = {"circle": circle, "object": object(), "set": {1, 2}, "bytes_inside": {"a": b"x"}, "fn": print}


def handler(req):
    return {"body": values[req.body]}
