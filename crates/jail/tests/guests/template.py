"""A language template in Python: clones itself; a clone answers commands, or becomes a function template."""
import ctypes, json, os, sys, threading

sys.path.insert(0, "/var/runtime")
sys.dont_write_bytecode = True
import frames, inside, ssl, hashlib, random

jail = ctypes.CDLL("/opt/libjail.so")
jail.ofs_reseed.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def serve():
    """The template's loop; returns in a clone."""
    code = jail.ofs_init(0)
    if code:
        os.write(2, f"ofs_init {code}\n".encode())
        os._exit(9)
    while True:
        got = jail.ofs_wait(3)
        if got != 1:
            os._exit(0 if got == 0 else 8)
        if jail.ofs_before_fork() != 0:
            continue
        pid = os.fork()
        if pid == 0:
            jail.ofs_after_fork_child()
            return
        jail.ofs_after_fork_parent(pid)


FLIP = bytes(b ^ 0x55 for b in range(256))


def find(needles):
    """Whether any of the byte strings lies anywhere in this process's writable memory."""
    found = []
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, permissions = line.split()[:2]
            if "rw" not in permissions or "[v" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, ValueError):
                continue
            # The needles come with every byte flipped, so that they themselves are not what is found.
            data = data.translate(FLIP)
            for i, needle in enumerate(needles):
                if needle in data:
                    found.append([i, line.strip()])
    return found


def main():
    jail.ofs_announce(sys.version.split()[0].encode())
    serve()
    while True:
        command = json.loads(frames.recv())
        if command["do"] == "look":
            frames.send(json.dumps(inside.look()).encode())
        elif command["do"] == "ping":
            frames.send(b'{"t":"pong"}')
        elif command["do"] == "reseed":
            jail.ofs_reseed(os.urandom(32), 32)
            frames.send(json.dumps({"ssl": ssl.RAND_bytes(8).hex()}).encode())
        elif command["do"] == "find":
            frames.send(json.dumps(find([bytes.fromhex(n) for n in command["needles"]])).encode())
        elif command["do"] == "threads":
            t = threading.Thread(target=lambda: None)
            t.start()
            t.join()
            frames.send(b'{"t":"ok"}')
        elif command["do"] == "snapshot":
            keep = open("/tmp/canary", "w")
            keep.write("template was here")
            keep.flush()
            frames.send(b'{"t":"ready"}')
            serve()
        elif command["do"] == "exit":
            os._exit(command["code"])


main()
