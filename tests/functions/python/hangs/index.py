import time


def handler(req):
    time.sleep(10**6)
