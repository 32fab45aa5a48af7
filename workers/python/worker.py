"""The Python worker: the program that runs one function inside a box and answers the server's invocations on fd 3
(docs/design/002-channel.md). It runs unchanged on CPython 3.9 and newer, standard library only, in two modes:

    python3 -s -X utf8 worker.py template <libjail.so>   warm up, then fork a worker per request
    python3 -s -X utf8 worker.py boot [<libjail.so>]     be the worker

(`-s` keeps a user's own site-packages out while the interpreter's stay in; `-X utf8` because the environment that would
choose the encoding arrives only with the function.)

It never chooses a box, enforces a deadline, retries, or limits a body: that is the server's part. It never opens a
socket or file that a clone would share, and it never lets a function's failure look like its own.

What a clone cannot renew is the seed of `hash(str)`: it is fixed when the template starts, so clones of one template
agree on it as `PYTHONHASHSEED` would make them.
"""

import gc
import importlib
import importlib.machinery
import json
import os
import random
import struct
import sys
import time
from _imp import is_frozen
from contextvars import ContextVar
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, SourceFileLoader
from json.encoder import encode_basestring_ascii as quoted

# As they are now: what a function replaces in `os` (eventlet and gevent do) is its own affair.
from os import _exit, readv, writev
from os import read as read_fd
from os import write as write_fd

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # where an environment may say that it is not looked
import offshoot_logs  # noqa: E402
from offshoot_event import LambdaContext, Unserialisable, encoder, to_json  # noqa: E402
from offshoot_request import Request, body_of, header_lines, status_of  # noqa: E402

MISSING_LIBRARY = 78  # EX_CONFIG: tells the server to boot workers instead of cloning them
VERSION = "%d.%d.%d" % sys.version_info[:3]


class State:
    """What this process is at the moment. One object, so that a reader sees all the state there is."""

    jail = None  # the native library, when there is one
    cloned = False  # a fork of a template
    load = {}  # the `load` frame; `resume` renews its env, seed and function
    handler = None
    is_async = False  # the handler is a coroutine function
    call = None  # call_event or call_request
    loop = None  # the event loop that all asynchronous handlers of this process share
    lock = None  # held while sending, when invocations run concurrently
    inbox = None  # what the channel is read through
    kept = []  # frames that came while an answer in pieces waited for its window
    flows = {}  # id -> Outflow, when invocations run concurrently


state = State()
request_id = ContextVar("request_id", default="")

# ------------------------------------------------------------------------------------------------------------ connect

CHANNEL = 3
CLAIMS = 4
HEADER_LIMIT = 1 << 20
LENGTHS = struct.Struct("<II")
scan_json = json.JSONDecoder().scan_once  # what `json.loads` comes down to where nothing surrounds the value


class Inbox:
    """Reads frames from the channel through one buffer that lives as long as the process."""

    def __init__(self):
        self.box = bytearray(64 * 1024)
        self.view = memoryview(self.box)
        self.start = self.end = 0

    def next(self):
        """The next frame as (header, body)."""
        while True:
            have = self.end - self.start
            if have >= 8:
                header_length, body_length = LENGTHS.unpack_from(self.box, self.start)
                if header_length > HEADER_LIMIT:
                    violation("a header of %d bytes" % header_length)
                total = 8 + header_length + body_length
                if have >= total:
                    at = self.start
                    self.start += total
                    return split(self.view[at : at + total], header_length)
                if total > len(self.box):
                    return self.large(total, header_length)
            self.fill()

    def fill(self):
        if self.start == self.end:
            self.start = self.end = 0
        elif self.start > 0:  # only the beginning of a frame is left: it has to move to leave room for the rest
            have = self.end - self.start
            self.box[:have] = self.box[self.start : self.end]
            self.start, self.end = 0, have
        self.end += receive(self.view[self.end :])

    def large(self, total, header_length):
        """A frame that does not fit the buffer: the rest of it is read straight to where it stays."""
        frame = bytearray(total)
        view = memoryview(frame)
        have = self.end - self.start
        view[:have] = self.view[self.start : self.end]
        self.start = self.end = 0
        while have < total:
            have += receive(view[have:])
        return split(view, header_length)


def read_first():
    """The first frame of a process. Not a byte is read beyond it: in a process that becomes a template what follows
    on the channel is for the native library."""
    lengths = read_exactly(8)
    header_length, body_length = LENGTHS.unpack(lengths)
    if header_length > HEADER_LIMIT:
        violation("a header of %d bytes" % header_length)
    return split(memoryview(lengths + read_exactly(header_length + body_length)), header_length)[0]


def read_exactly(length):
    data = bytearray(length)
    view = memoryview(data)
    have = 0
    while have < length:
        have += receive(view[have:])
    return data


def receive(into):
    try:
        got = readv(CHANNEL, [into])
    except OSError:
        got = 0
    if got == 0:
        _exit(0)  # the server is gone, and nobody is left to tell
    return got


def split(frame, header_length):
    try:
        header = scan_json(str(frame[8 : 8 + header_length], "utf-8"), 0)[0]
    except (ValueError, StopIteration):
        violation("a header that is not JSON")
    return header, bytes(frame[8 + header_length :])


def send(head, body=b""):
    """Sends one frame: `head` a string of JSON, `body` bytes."""
    head = head.encode()
    parts = [LENGTHS.pack(len(head), len(body)) + head, body]
    if len(body) <= 16 * 1024:
        parts = [b"".join(parts)]
    if state.lock is None:
        return write(parts)
    with state.lock:
        write(parts)


def write(parts):
    try:
        left = sum(map(len, parts)) - writev(CHANNEL, parts)
        if left > 0:
            rest = memoryview(b"".join(parts))[-left:]
            while rest:
                rest = rest[write_fd(CHANNEL, rest) :]
    except OSError:
        _exit(0)


def violation(what):
    log("the server sent %s on the channel" % what)
    _exit(1)


def leave(code):
    """Ends the process without running exit handlers; a clone's would wait for threads that only its template has."""
    flush()
    _exit(code)


# --------------------------------------------------------------------------------------------------------------- load


class Fault(Exception):
    """A failure with a type that AWS gave it, and the stack of what caused it."""

    def __init__(self, kind, message, stack=()):
        super().__init__(message)
        self.kind = kind
        self.stack = list(stack)


ENVIRON = os.environ  # a function may put a plain dict in its place


def set_foreign_environment(env):
    for name in [name for name in os.environ if name not in env]:
        del os.environ[name]
    os.environ.update(env)


def set_environment(env):
    """Makes `os.environ` and the process's own environment be `env`, past `os.environ`'s methods: a start should run through as
    little Python as it can."""
    if os.environ is not ENVIRON:
        return set_foreign_environment(env)
    have = ENVIRON._data
    wanted = {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape") for name, value in env.items()
    }
    for name in [name for name in have if name not in wanted]:
        del have[name]
        os.unsetenv(name)
    for name, value in wanted.items():
        if have.get(name) != value:
            os.putenv(name, value)
            have[name] = value
    time.tzset()


OWN_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
LAYERS = ("/opt/python", "/opt/python/lib/python%d.%d/site-packages" % sys.version_info[:2])


def set_path(root):
    """The import path that the interpreter would have, had it been started with the function's environment."""
    named = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    first = [root] + named + [layer for layer in LAYERS if os.access(layer, os.R_OK)]
    rest = [entry for entry in sys.path if entry not in first and entry not in ("", OWN_DIRECTORY)]
    sys.path[:] = first + rest
    for entry in first:  # what a template may have seen there is not what this box has
        sys.path_importer_cache.pop(entry, None)


def load_function(text):
    root = os.environ.get("LAMBDA_TASK_ROOT", "/var/task")
    set_path(root)
    module_name, dot, name = text.rpartition(".")
    if not dot:
        raise Fault(
            "Runtime.MalformedHandlerName",
            "Bad handler '%s': not enough values to unpack (expected 2, got 1)" % text,
        )
    try:
        module = import_module(module_name, root)
    except ImportError as error:
        raise Fault("Runtime.ImportModuleError", "Unable to import module '%s': %s" % (module_name, error))
    except SyntaxError as error:
        where = '  File "%s" Line %s\n    %s' % (error.filename, error.lineno, error.text)
        raise Fault("Runtime.UserCodeSyntaxError", "Syntax error in module '%s': %s" % (module_name, error), [where])
    try:
        handler = getattr(module, name)
    except AttributeError:
        raise Fault("Runtime.HandlerNotFound", "Handler '%s' missing on module '%s'" % (name, module_name))
    if not callable(handler):
        raise Fault("Runtime.HandlerNotFound", "Handler '%s' of module '%s' is not callable" % (name, module_name))
    return handler


def import_module(module_name, root):
    dotted = module_name.replace("/", ".").strip(".")
    top = dotted.split(".")[0]
    if top in sys.builtin_module_names:
        raise Fault(
            "Runtime.BuiltInModuleConflict", "Cannot use built-in module %s as a handler module" % module_name
        )
    # A function may be called like a module that the worker happens to have imported: the function's file wins, as it
    # would in an interpreter started for it.
    base = os.path.join(root, top)
    if top in sys.modules and (os.path.isfile(base + ".py") or os.path.isdir(base)):
        for loaded in [name for name in sys.modules if name == top or name.startswith(top + ".")]:
            del sys.modules[loaded]
    # A clone has run no code of anybody's yet; in a boot a `sitecustomize` may have hooks in the interpreter's imports.
    if state.cloned and dotted == top and is_plain_file(base):
        return run_file(top, base + ".py")
    return importlib.import_module(dotted)


def is_plain_file(base):
    """Whether the interpreter's own search for a module would end at `base`.py, and would compile it."""
    exists = os.access
    if not exists(base + ".py", os.R_OK) or exists(base, os.F_OK):
        return False
    for suffix in EXTENSION_SUFFIXES:
        if exists(base + suffix, os.F_OK):
            return False
    top = base.rpartition("/")[2]
    return not (exists(base[: -len(top)] + "__pycache__", os.F_OK) or top in sys.modules or is_frozen(top))


def run_file(name, path):
    """What `import` does with such a file, without its machinery: most functions are one file, and in a clone every line of Python
    that runs for the first time copies pages of its template (SPEC.md, density)."""
    cached = "%s/__pycache__/%s.%s.pyc" % (path.rpartition("/")[0], name, sys.implementation.cache_tag)
    loader = SourceFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path)
    spec.has_location, spec.cached, spec._initializing = True, cached, True
    module = type(sys)(name)
    vars(module).update(__file__=path, __cached__=cached, __loader__=loader, __package__="", __spec__=spec)
    with open(path, "rb", 0) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    sys.modules[name] = module
    try:
        exec(code, vars(module))
    except BaseException:
        sys.modules.pop(name, None)
        raise
    finally:
        spec._initializing = False  # meanwhile an import in a circle is told apart from a name that is not there
    return sys.modules[name]


def is_coroutine_function(function):
    while hasattr(function, "func") and not hasattr(function, "__code__"):  # functools.partial
        function = function.func
    code = getattr(function, "__code__", None) or getattr(getattr(type(function), "__call__", None), "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)  # inspect.CO_COROUTINE, without importing inspect


# -------------------------------------------------------------------------------------------------------------- ready

SNAPSHOT_HOOKS = '''
"""Hooks of functions that are snapshotted, with the interface of AWS's package of the same name."""
_before_snapshot_registry = []
_after_restore_registry = []


def register_before_snapshot(func, *args, **kwargs):
    _before_snapshot_registry.append((func, args, kwargs))
    return func


def register_after_restore(func, *args, **kwargs):
    _after_restore_registry.append((func, args, kwargs))
    return func


def get_before_snapshot():
    return _before_snapshot_registry


def get_after_restore():
    return _after_restore_registry
'''


class HooksFinder:
    """Finds `snapshot_restore_py` for functions that do not bring it: the last place where Python looks."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "snapshot_restore_py":
            return importlib.machinery.ModuleSpec(name, HooksFinder)
        return None

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        exec(SNAPSHOT_HOOKS, module.__dict__)


def run_hooks(getter, backwards, kind):
    module = sys.modules.get("snapshot_restore_py")
    if module is None:
        return
    hooks = list(getattr(module, getter)())
    for function, args, kwargs in reversed(hooks) if backwards else hooks:
        try:
            function(*args, **kwargs)
        except Exception as error:
            shape = describe(error)
            raise Fault(kind, "%s: %s" % (shape["errorType"], shape["errorMessage"]), shape["stackTrace"])


def say_ready(started, extra=""):
    took = (time.perf_counter_ns() - started) // 1000
    send('{"t":"ready","init_us":%d,"version":"%s"%s}' % (took, VERSION, extra))


NOTICED, RESEEDED_HERE = 0, 1  # what the library says of OpenSSL's generators


def renew(frame):
    """Everything in which a fork would repeat its siblings: random numbers, identifiers, names of this process.
    `secrets`, `os.urandom` and `uuid.uuid4` ask the kernel each time and need nothing."""
    seed = bytes.fromhex(frame["seed"])
    if len(seed) != 32:
        violation("a seed that is not 32 bytes")
    reseeded = state.jail.ofs_reseed(seed, len(seed))
    fresh = seed + os.urandom(32)
    # Of an int: seeding with bytes would load a hash function to make one of them.
    random.seed(int.from_bytes(fresh, "little"))
    loaded = sys.modules.get
    # One that is linked into a module is out of the library's reach: it has to be told where it would not notice the fork by itself.
    if reseeded != RESEEDED_HERE and loaded("ssl"):
        if reseeded != NOTICED or loaded("ssl").OPENSSL_VERSION_INFO < (3,):
            loaded("ssl").RAND_add(fresh, 64.0)
    if loaded("uuid"):  # uuid1 remembers a made-up address and the last time stamp
        loaded("uuid")._node = loaded("uuid")._last_timestamp = None
    if loaded("tempfile"):  # notices a fork by the pid, which in a PID namespace is often the same
        loaded("tempfile")._name_sequence = None
    if loaded("multiprocessing.process"):
        loaded("multiprocessing.process").current_process().authkey = os.urandom(32)
    if loaded("numpy.random"):
        loaded("numpy.random").seed(list(struct.unpack("<16I", fresh)))
    try:
        comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        write_fd(comm, str((frame.get("function") or {}).get("name") or "python").encode()[:15])
        os.close(comm)
    except OSError:
        pass  # a name for people who list processes; nothing depends on it


ballast = []
HOLES_LIMIT = 200_000  # a heap with more of them than this keeps them: to fill them would be memory of the function


def settle():
    """Makes this process ready to be cloned: what exists now is never looked at by the collector again, so clones need not copy its
    pages; and what clones will allocate lies side by side, not in holes all over the heap, each of which would cost a page.
    (The library does the latter for the C library's heap.)"""
    gc.collect()
    try:
        for _ in range(2):  # what fills the holes needs room itself
            fill_holes()
    except Exception as error:
        log("the heap of the template keeps its holes: %r" % error)
    gc.freeze()


def fill_holes():
    """Takes every free block of the interpreter's allocator, class by class. Its statistics, which only go to standard error, say how
    many there are."""
    smallest = sys.getsizeof(b"")
    rows = free_blocks()
    if sum(count for _, count in rows) > HOLES_LIMIT:
        return
    for size, count in rows:
        if size > smallest:
            ballast.append([bytes(size - smallest) for _ in range(count)])
        elif size >= sys.getsizeof(0.5):
            ballast.append([float(n) for n in range(count)])


def free_blocks():
    """Sizes of the blocks of the interpreter's allocator, and how many of each are free in places that are in use already. Nothing where
    the interpreter has another allocator."""
    kept = os.dup(2)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        os.dup2(writer, 2)
        sys._debugmallocstats()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)
    with open(reader, encoding="ascii", errors="replace") as text:
        rows = [line.split() for line in text]
    # class, size, pools, blocks in use, free blocks
    return [(int(row[1]), int(row[4])) for row in rows if len(row) == 5 and all(cell.isdigit() for cell in row)]


def make_clones():
    """Becomes a language template and returns only in its clones. The library forks, not the interpreter: nothing of what `os.fork`
    does around a fork matters to a process of one thread that has run no code of a user's, and it would copy a quarter of
    what a clone weighs. What its hooks renew, `renew` does."""
    main_thread = sys.modules["threading"].main_thread()
    settle()
    asked = state.jail.ofs_clones(CHANNEL)
    if asked <= 0:
        _exit(0 if asked == 0 else 1)
    main_thread._native_id = os.getpid()  # what the interpreter's own fork would see to
    come_alive()


def come_alive():
    """In every clone, first of all."""
    state.cloned = True
    gc.enable()


def fork_clones():
    """Becomes a function template and returns only in its clones. Here the interpreter forks: the function may have asked to be told
    (`os.register_at_fork`)."""
    import warnings

    settle()
    jail = state.jail
    while True:
        asked = jail.ofs_wait(CHANNEL)
        if asked <= 0:
            _exit(0 if asked == 0 else 1)
        if jail.ofs_before_fork() < 0:
            continue  # the library has answered that it failed
        try:
            with warnings.catch_warnings():  # 3.12 warns of threads, which are the function's own affair
                warnings.simplefilter("ignore")
                pid = os.fork()
        except OSError as error:
            pid = -(error.errno or 1)
        if pid == 0:
            break
        jail.ofs_after_fork_parent(pid)
    jail.ofs_after_fork_child()
    come_alive()


# --------------------------------------------------------------------------------------------------------------- loop


def serve():
    concurrency = int(state.load.get("max_concurrency") or 1)
    if concurrency > 1:
        return serve_many(concurrency)
    inbox = state.inbox = state.inbox or Inbox()
    while True:
        header, body = expect_invoke(inbox)
        if header.get("claim") and not claim():
            send('{"t":"skipped","id":%s}' % quoted(header["id"]))
        else:
            invoke(header, body)


def claim():
    """Whether an invocation that was sent behind another is still this worker's: the server takes back what waits too
    long."""
    try:
        return len(read_fd(CLAIMS, 1)) == 1
    except OSError:
        return False


def expect_invoke(inbox):
    if state.kept:
        return state.kept.pop(0)
    while True:
        header, body = inbox.next()
        if header.get("t") == "invoke":
            return header, body
        if header.get("t") != "more":
            violation('an unexpected frame "%s"' % header.get("t"))
        flow = state.flows.get(header["id"])
        if flow is not None:
            flow.widen(header["bytes"])


def serve_many(concurrency):
    """Several invocations at once: coroutines share one event loop in a thread of its own, functions share a few
    threads. The main thread only reads."""
    import queue
    import threading

    state.lock = threading.Lock()
    inbox = Inbox()
    if state.is_async:
        import asyncio

        loop = event_loop()
        threading.Thread(target=loop.run_forever, name="loop", daemon=True).start()
        while True:
            asyncio.run_coroutine_threadsafe(invoke_async(*expect_invoke(inbox)), loop)
    waiting = queue.SimpleQueue()

    def work():
        while True:
            invoke(*waiting.get())

    for number in range(concurrency):
        threading.Thread(target=work, name="worker-%d" % number, daemon=True).start()
    while True:
        waiting.put(expect_invoke(inbox))


def event_loop():
    if state.loop is None:
        import asyncio

        state.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(state.loop)
    return state.loop


def finish(awaitable):
    """Waits for what a handler returned unfinished. Concurrent threads each have a loop of their own for it."""

    async def wait():
        return await awaitable

    if state.lock is None:
        return event_loop().run_until_complete(wait())
    import asyncio

    return asyncio.run(wait())


def invoke(header, body):
    """One invocation from frame to frame, in this thread."""
    token = request_id.set(header["id"])
    header["began"] = time.perf_counter_ns()
    try:
        prepare, conclude = state.call
        result = state.handler(*prepare(header, body))
        if hasattr(result, "__await__"):
            result = finish(result)
        answer = conclude(header, result)
        if answer is None:
            answer = pour(header)
    except BaseException as error:
        answer = failed(header, error)
    flush()
    send(*answer)
    request_id.reset(token)


async def invoke_async(header, body):
    """The same as a task of the shared event loop."""
    request_id.set(header["id"])
    header["began"] = time.perf_counter_ns()
    try:
        prepare, conclude = state.call
        answer = conclude(header, await state.handler(*prepare(header, body)))
        if answer is None:
            answer = await pour_async(header)
    except BaseException as error:
        answer = failed(header, error)
    flush()
    send(*answer)


# ---- the event convention: handler(event, context)


def prepare_event(header, body):
    if state.lock is None:
        set_trace(header.get("trace"))
    try:
        event = json.loads(str(body, "utf-8")) if body else {}
    except ValueError as error:
        raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % error)
    return event, LambdaContext(header, state.load["function"])


def took(header):
    """What the handler took, for the server's choice of where calls go."""
    return ',"us":%d' % ((time.perf_counter_ns() - header.get("began", 0)) // 1000)


def conclude_event(header, result):
    head = '{"t":"reply","id":%s%s}' % (quoted(header["id"]), took(header))
    return head, result if isinstance(result, bytes) else to_json(result, "Unable to marshal response: ")


def set_trace(trace):
    if trace is not None:
        os.environ["_X_AMZN_TRACE_ID"] = trace
    elif "_X_AMZN_TRACE_ID" in os.environ:
        del os.environ["_X_AMZN_TRACE_ID"]


# ---- the request convention: handler(request) → {"statusCode", "headers", "body"} | anything

def prepare_request(header, body):
    return (Request(header, body),)


def conclude_request(header, result):
    if not (isinstance(result, dict) and ("body" in result or "statusCode" in result or "headers" in result)):
        result = {"body": result}
    status = status_of(result.get("statusCode"))
    lines, typed = header_lines(result.get("headers"))
    pieces = result.get("body")
    if type(pieces) not in WHOLE and (hasattr(pieces, "__next__") or hasattr(pieces, "__anext__")):
        if not typed:
            lines.append('["Content-Type","application/octet-stream"]')
        header["pieces"] = pieces, '{"status":%d,"headers":[%s]}' % (status, ",".join(lines))
        return None
    body, kind = body_of(result, typed)
    if kind is not None and not typed:
        lines.append('["Content-Type","%s"]' % kind)
    about = (quoted(header["id"]), took(header), status, ",".join(lines))
    head = '{"t":"reply","id":%s%s,"http":{"status":%d,"headers":[%s]}}' % about
    return head, body


# ---- answers in pieces: a body that is a generator, or any other iterator

WHOLE = {dict, list, str, bytes, type(None)}  # bodies that are no iterators, as most are
PIECE_COST = 256  # of the window, besides a piece's length (docs/design/002-channel.md)
PIECE_LIMIT = 64 * 1024


class Outflow:
    """An answer on its way, piece by piece, to a caller that takes it so; else it is collected."""

    def __init__(self, header, http):
        self.header, self.http = header, http
        self.id = quoted(header["id"])
        self.window = header.get("stream")
        self.pieces = []
        self.wider = None
        if self.window is None:
            return
        if state.lock is not None:
            import threading

            self.wider = threading.Condition()
            state.flows[header["id"]] = self
        send('{"t":"stream","id":%s,"http":%s}' % (self.id, http))

    def put(self, piece):
        if isinstance(piece, str):
            piece = piece.encode("utf-8", "replace")
        elif not isinstance(piece, (bytes, bytearray, memoryview)):
            piece = to_json(piece, "a piece of the body cannot be made JSON: ")
        if self.window is None:
            return self.pieces.append(bytes(piece))
        rest = memoryview(piece).cast("B")
        while rest:
            length = min(len(rest), PIECE_LIMIT, self.room() - PIECE_COST)
            send('{"t":"chunk","id":%s}' % self.id, rest[:length])
            self.widen(-length - PIECE_COST)
            rest = rest[length:]

    def room(self):
        """The window, once there is one."""
        if self.wider is not None:
            with self.wider:
                self.wider.wait_for(lambda: self.window > PIECE_COST)
        while self.window <= PIECE_COST:
            header, body = state.inbox.next()
            if header.get("t") != "more":
                state.kept.append((header, body))
            elif header["id"] == self.header["id"]:
                self.window += header["bytes"]
        return self.window

    def widen(self, count):
        if self.wider is None:
            self.window += count
            return
        with self.wider:
            self.window += count
            self.wider.notify_all()

    def end(self):
        about = (self.id, took(self.header))
        if self.window is not None:
            return '{"t":"end","id":%s%s}' % about, b""
        return '{"t":"reply","id":%s%s,"http":%s}' % (*about, self.http), b"".join(self.pieces)

    def close(self):
        state.flows.pop(self.header["id"], None)


def pour(header):
    """Sends the pieces of an answer; the frame that ends it."""
    pieces, http = header.pop("pieces")
    flow = Outflow(header, http)
    try:
        for piece in pieces if hasattr(pieces, "__next__") else in_turn(pieces):
            flow.put(piece)
        return flow.end()
    finally:
        flow.close()


def in_turn(pieces):
    """What an asynchronous iterator yields, in this thread."""
    import asyncio

    loop = event_loop() if state.lock is None else asyncio.new_event_loop()

    async def following():
        return await pieces.__anext__()

    try:
        while True:
            try:
                piece = loop.run_until_complete(following())
            except StopAsyncIteration:
                return
            yield piece
    finally:
        if loop is not state.loop:
            loop.close()


async def pour_async(header):
    """The same beside other tasks of the event loop: what waits, waits in a thread of its own."""
    import asyncio

    pieces, http = header.pop("pieces")
    flow = Outflow(header, http)
    try:
        if hasattr(pieces, "__anext__"):
            async for piece in pieces:
                await asyncio.to_thread(flow.put, piece)
        else:
            over = object()
            while (piece := await asyncio.to_thread(next, pieces, over)) is not over:
                await asyncio.to_thread(flow.put, piece)
        return flow.end()
    finally:
        flow.close()


# --------------------------------------------------------------------------------------------------------------- fail

MESSAGE_LIMIT = 256 * 1024  # an error is for people; one that is longer would only fail to be delivered


def describe(error):
    """What an error looks like to the caller. Never raises, whatever was raised."""
    try:
        message = str(error)[:MESSAGE_LIMIT]
    except Exception:
        message = "the error that was raised could not be read"
    if isinstance(error, Fault):
        return {"errorType": error.kind, "errorMessage": message, "stackTrace": error.stack}
    if isinstance(error, Unserialisable):
        return {"errorType": "Runtime.MarshalError", "errorMessage": message, "stackTrace": []}
    import traceback

    frames = traceback.extract_tb(error.__traceback__, limit=200)
    outer = ("<frozen importlib", importlib.__file__, __file__, os.path.dirname(os.__file__) + "/asyncio/")
    while frames and frames[0].filename.startswith(outer):  # how the worker got there says nothing
        frames = frames[1:]
    return {"errorType": type(error).__name__, "errorMessage": message, "stackTrace": traceback.format_list(frames)}


def failed(header, error):
    """The frame that answers an invocation whose handler raised."""
    if isinstance(error, SystemExit):
        exit_as_asked(error)
    shape = describe(error)
    log_error("RequestId: %s Invoke Error" % header["id"], shape, header["id"])
    if state.load.get("convention") == "event":
        shape = aws_shape(shape, header["id"])
    kind = "unserialisable" if isinstance(error, Unserialisable) else "handler"
    return '{"t":"error","id":%s,"kind":"%s"}' % (quoted(header["id"]), kind), json.dumps(shape).encode()


def aws_shape(shape, invocation):
    """An error with the members of AWS's, in their order."""
    return {
        "errorMessage": shape["errorMessage"],
        "errorType": shape["errorType"],
        "requestId": invocation,
        "stackTrace": shape["stackTrace"],
    }


def fail_loading(error):
    if isinstance(error, SystemExit):
        exit_as_asked(error)
    shape = describe(error)
    log_error("Init Error", shape)
    if state.load.get("convention") == "event":
        shape = aws_shape(shape, "")
    send('{"t":"init_error"}', json.dumps(shape).encode())
    leave(1)


def exit_as_asked(error):
    """`sys.exit` in a function ends the process; the server tells the caller, with the exit code."""
    if error.code is None:
        leave(0)
    if isinstance(error.code, int):
        leave(error.code & 0xFF)
    log(str(error.code))
    leave(1)


# ---------------------------------------------------------------------------------------------------------------- log


def open_logs():
    """Lines appear as they are written and never fail for their encoding."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # the function may have put anything there, or closed it


def log(text):
    flush()  # what the function wrote before comes before
    try:
        write_fd(2, (text + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # a log that cannot be written has nowhere to be reported


def log_error(title, shape, invocation=""):
    """What a function of the event convention did wrong is logged as AWS logs it."""
    if state.load.get("convention") == "event":
        flush()
        return offshoot_logs.write_error(aws_shape(shape, invocation), encoder.bytes)
    lines = ["ERROR\t%s\t%s: %s" % (title, shape["errorType"], shape["errorMessage"])]
    if shape["stackTrace"]:
        lines.append("Traceback (most recent call last):")
        lines.extend(line.rstrip("\n") for line in shape["stackTrace"])
    log("\n".join(lines))


# -------------------------------------------------------------------------------------------------------------- start

CONVENTIONS = {
    "event": (prepare_event, conclude_event),
    "request": (prepare_request, conclude_request),
}


def adopt(frame):
    """Takes over what a `load` or `resume` frame says about the function."""
    about = dict(frame.get("function") or {})
    about["memory"] = str(about.get("memory_mib", ""))
    state.load = {**state.load, **frame, "function": about}
    # Started through a wrapper, it has the environment that the wrapper left it.
    set_environment(dict(os.environ) if frame.get("keep_env") else frame.get("env") or {})
    if state.cloned:
        renew(frame)


def work():
    frame = read_first()
    started = time.perf_counter_ns()
    if frame.get("t") != "load":
        violation('"%s" where "load" belongs' % frame.get("t"))
    try:
        adopt(frame)
        snapshot = frame.get("snapshot") is True and state.jail is not None
        state.call = CONVENTIONS["request" if frame.get("convention") == "request" else "event"]
        if frame.get("convention") != "request":
            offshoot_logs.set_up(request_id)
        elif state.cloned:
            offshoot_logs.take_down()
        state.handler = load_function(frame["handler"])
        Request.is_async = state.is_async = is_coroutine_function(state.handler)
        if snapshot and not alone():
            log("this function leaves threads or processes running when it has initialised: no snapshot is made of it")
            snapshot = False
        if snapshot:
            run_hooks("get_before_snapshot", True, "Runtime.BeforeSnapshotError")
        flush()
    except BaseException as error:
        fail_loading(error)
    if snapshot:
        return be_snapshot(started)
    say_ready(started, ',"snapshot":false' if frame.get("snapshot") is True else "")
    serve()


def alone():
    """Whether this is the only thread of the only process of its box: another would live on in the template, see every
    clone, and could be in the middle of anything when it is forked."""
    try:
        threads = len(os.listdir("/proc/self/task"))
        return threads == 1 and sum(name.isdigit() for name in os.listdir("/proc")) == 1
    except OSError:
        return False


def be_snapshot(started):
    """The rest of the life of a function template: first in the template, then in each of its clones."""
    say_ready(started)
    fork_clones()
    frame = read_first()
    started = time.perf_counter_ns()
    if frame.get("t") != "resume":
        violation('"%s" where "resume" belongs' % frame.get("t"))
    try:
        adopt(frame)
        state.loop = None  # a loop made while loading has its descriptors in the template
        run_hooks("get_after_restore", False, "Runtime.AfterRestoreError")
        flush()
    except BaseException as error:
        fail_loading(error)
    say_ready(started)
    serve()


# What functions most often import. Once in the template it costs its clones neither time nor memory.
PRELOAD = """
    abc array asyncio base64 binascii bisect calendar collections collections.abc concurrent.futures contextlib copy
    csv dataclasses datetime decimal email.message email.mime.text email.utils enum fractions functools glob gzip
    hashlib heapq hmac html html.parser http.client http.cookies importlib.metadata inspect io ipaddress itertools
    logging logging.handlers math mimetypes numbers operator pathlib pickle platform pprint queue re secrets select
    shlex shutil signal socket sqlite3 ssl stat statistics string subprocess tempfile textwrap threading traceback
    types typing unicodedata urllib.error urllib.parse urllib.request uuid warnings weakref xml.etree.ElementTree
    zipfile zlib zoneinfo
"""


def template(library_path):
    gc.disable()  # until clones exist: a collection here would only touch pages that they share
    try:
        state.jail = open_library(library_path)
    except Exception as error:
        log("the worker cannot use %s: %s" % (library_path, error))
        _exit(MISSING_LIBRARY)
    for name in PRELOAD.split():
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # interpreters are built without sqlite3, ssl and the like
    rehearse()
    offshoot_logs.prepare(request_id)
    state.inbox = Inbox()  # its pages stay the template's as long as nothing large comes
    state.jail.ofs_announce(VERSION.encode())
    make_clones()
    if state.jail.ofs_spare():
        wait_as_spare()
    work()


def wait_as_spare():
    """A spare is a clone that was made before it is needed. Its box has namespaces but is not sealed, so nothing of a
    user may run; it uses the time to touch the memory that its start will touch, and waits to be told what it is for."""
    rehearse_start(1)
    rehearse_invocations(1)
    state.jail.ofs_seal()


def rehearse():
    """Runs the paths that every start and invocation takes, so that clones inherit them ready: a clone's first run of
    anything costs several times its second. Nothing is sent, and nothing of it stays."""
    rehearse_start(3)
    rehearse_invocations(50)


def rehearse_invocations(rounds):
    http = {"method": "POST", "path": "/", "query": "", "headers": [["content-type", "application/json"]]}
    header = {"t": "invoke", "id": "rehearsal", "deadline_ms": 1, "arn": "arn", "http": http}
    state.load = {"function": {"memory": "128"}}
    for prepare, conclude in CONVENTIONS.values():
        for _ in range(rounds):
            frame = json.dumps(header).encode()
            body = split(memoryview(bytes(8) + frame + b'{"a":[1,"x"]}'), len(frame))[1]
            prepare(header, body)
            conclude(header, {"statusCode": 200, "headers": {"X-A": "b"}, "body": {"a": 1.5}})
    state.load = {}


def rehearse_start(rounds):
    path, env = list(sys.path), dict(os.environ)
    own, name = os.path.dirname(os.path.abspath(__file__)), "rehearsal"
    for _ in range(rounds):
        set_environment({**env, "LAMBDA_TASK_ROOT": own})
        state.jail.ofs_reseed(os.urandom(32), 32)  # the first time, OpenSSL makes its generators
        load_function(name + ".main")
        del sys.modules[name]
        set_environment(env)
    sys.path[:] = path


def open_library(path):
    """The library, ready for use; raises where it is missing or may not do its work here."""
    import ctypes

    if not path:
        raise OSError("no path was given")
    jail = ctypes.CDLL(path)
    jail.ofs_init.argtypes = [ctypes.c_int]
    jail.ofs_clones.argtypes = [ctypes.c_int]
    jail.ofs_wait.argtypes = [ctypes.c_int]
    jail.ofs_after_fork_parent.argtypes = [ctypes.c_int]
    jail.ofs_announce.argtypes = [ctypes.c_char_p]
    jail.ofs_reseed.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    for name in ("ofs_init", "ofs_clones", "ofs_wait", "ofs_before_fork", "ofs_after_fork_parent", "ofs_after_fork_child",
                 "ofs_spare", "ofs_seal"):
        getattr(jail, name).restype = ctypes.c_int
    failed = jail.ofs_init(0)
    if failed < 0:
        raise OSError(-failed, os.strerror(-failed))
    return jail


def main(mode=None, library_path=None):
    sys.dont_write_bytecode = True  # code is read-only in a box, and a template has no business writing any
    sys.argv = sys.argv[:1]
    sys.meta_path.append(HooksFinder)
    open_logs()
    try:
        os.set_blocking(CHANNEL, True)
        os.set_inheritable(CHANNEL, False)
    except OSError:
        log("the worker has no channel: descriptor %d is not open" % CHANNEL)
        _exit(64)
    try:
        os.set_inheritable(CLAIMS, False)
    except OSError:
        pass  # without claims no call is sent behind another
    if mode == "template":
        return template(library_path)
    if mode != "boot":
        log("usage: worker.py template <library> | worker.py boot [<library>]")
        _exit(64)
    if library_path:
        try:
            state.jail = open_library(library_path)
        except Exception:
            state.jail = None  # `ready` says that there is no snapshot
    return work()


if __name__ == "__main__":
    main(*sys.argv[1:3])
