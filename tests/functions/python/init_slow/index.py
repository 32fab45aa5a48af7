import time

time.sleep(0.5)


def handler(req):
    return {"body": "ready at last"}
