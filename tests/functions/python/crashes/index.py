import ctypes


def handler(req):
    ctypes.string_at(0)
