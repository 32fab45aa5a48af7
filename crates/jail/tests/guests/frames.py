"""The two lengths and the header of a frame, on fd 3."""
import os, struct


def send(header, fd=3):
    data = struct.pack("<II", len(header), 0) + header
    while data:
        data = data[os.write(fd, data):]


def recv(fd=3):
    head = b""
    while len(head) < 8:
        part = os.read(fd, 8 - len(head))
        if not part:
            os._exit(0)
        head += part
    length, _ = struct.unpack("<II", head)
    data = b""
    while len(data) < length:
        data += os.read(fd, length - len(data))
    return data
