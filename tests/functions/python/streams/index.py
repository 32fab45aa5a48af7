"""Answers in pieces: generators of both kinds, as the path and the body ask for."""
import asyncio
import time


def plain(wish):
    if wish.get("fail"):
        yield "half"
        time.sleep(0.05)
        raise LookupError("as asked")
    if "bytes" in wish:
        for at in range(0, wish["bytes"], 30_000):
            yield b"x" * min(30_000, wish["bytes"] - at)
        return
    yield "first"
    time.sleep(wish["pause"])
    yield "last"


async def asynchronous(wish):
    for piece in plain({**wish, "pause": 0}):
        yield piece
        if piece == "first":
            await asyncio.sleep(wish["pause"])


def answer(req, wish):
    pieces = asynchronous(wish) if req.path == "/async" else plain(wish)
    return {"statusCode": 203, "headers": {"Content-Type": "text/event-stream"}, "body": pieces}


def handler(req):
    return answer(req, req.json())


async def later(req):
    return answer(req, await req.json())


def itself(req):
    yield "a"
    yield bytearray(b"b")
    yield {"c": 1}
