import os


def handler(req):
    os._exit(0)
