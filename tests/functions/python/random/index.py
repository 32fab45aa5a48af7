"""The first values of every source of randomness; then this instance ends, so that the next call gets a fresh one."""
import os
import random
import secrets
import ssl
import tempfile
import threading
import time
import uuid

try:
    import numpy
except ImportError:
    numpy = None

kept = random.random  # a reference kept from before a snapshot


def leave():
    time.sleep(0.005)
    os._exit(0)


def handler(req):
    threading.Thread(target=leave, daemon=True).start()
    values = {
        "random.random": "%r%r" % (random.random(), random.random()),
        "random kept": "%r%r" % (kept(), kept()),
        "random.getrandbits": str(random.getrandbits(128)),
        "random.SystemRandom": str(random.SystemRandom().getrandbits(128)),
        "os.urandom": os.urandom(16).hex(),
        "os.getrandom": os.getrandom(16).hex(),
        "secrets": secrets.token_hex(16),
        "uuid1": str(uuid.uuid1()),
        "uuid4": str(uuid.uuid4()),
        "ssl.RAND_bytes": ssl.RAND_bytes(16).hex(),
        "tempfile": tempfile.mktemp(),
        "kernel": open("/proc/sys/kernel/random/uuid").read(),
    }
    if numpy is not None:
        values["numpy.random"] = repr(numpy.random.random(2).tolist())
        values["numpy default_rng"] = repr(numpy.random.default_rng().random(2).tolist())
    return {"body": values}
