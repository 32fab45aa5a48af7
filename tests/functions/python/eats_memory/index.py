"""The body says where the memory goes: heap, mmap, tmp, memfd, pipes."""
import mmap
import os

kept = []


def handler(req):
    how = req.body or "heap"
    block = b"\1" * (1 << 20)
    if how == "memfd":
        fd = os.memfd_create("big")
        while True:
            os.write(fd, block)
    number = 0
    while True:
        number += 1
        if how == "heap":
            kept.append(bytearray(block))
        elif how == "mmap":
            area = mmap.mmap(-1, 1 << 20)
            area.write(block)
            kept.append(area)
        elif how == "tmp":
            with open("/tmp/%d" % number, "wb") as f:
                f.write(block)
