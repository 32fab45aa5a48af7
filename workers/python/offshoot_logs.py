"""How functions of the event convention write their log: `logging` in AWS's shapes, text or JSON. On AWS the root logger
has a handler before the function is loaded, and functions written for it only set a level. What the environment says
(`AWS_LAMBDA_LOG_FORMAT`, `AWS_LAMBDA_LOG_LEVEL`) is read once. What `print` writes is left as it is.

Functions of the request convention get Python's plain defaults. This never decides what is kept of a log; the server does.
"""

import json
import os
import sys
import time

TEXT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
JSON_TIME = "%Y-%m-%dT%H:%M:%SZ"

# What every record has: not what the function added with `extra`.
OWN = frozenset(
    "name msg args levelname levelno pathname filename module exc_info exc_text stack_info lineno funcName created msecs "
    "relativeCreated thread threadName processName process taskName aws_request_id asctime message".split()
)


def as_json():
    return os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"


handler = None


def prepare(request_id):
    """Gives the root logger its handler, for text; `request_id` holds the id of the call under way. In a template, so that clones
    have it."""
    global handler
    import logging

    class Lines(logging.Handler):
        def emit(self, record):
            try:
                sys.stdout.write(self.format(record))
            except Exception:
                self.handleError(record)

    class Ids(logging.Filter):
        def filter(self, record):
            record.aws_request_id = request_id.get()
            return True

    handler = Lines()
    handler.setFormatter(logging.Formatter(TEXT, "%Y-%m-%dT%H:%M:%S"))
    handler.formatter.converter = time.gmtime
    handler.addFilter(Ids())
    logging.root.addHandler(handler)


def set_up(request_id):
    """Has the root logger write as the environment says."""
    if handler is None:
        prepare(request_id)
    if as_json():
        write_json()
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL")
    if level:
        set_level(level.upper())


def take_down():
    """Python's plain defaults, where a template has prepared more."""
    import logging

    logging.root.handlers.clear()


def write_json():
    import logging

    class Json(logging.Formatter):
        def format(self, record):
            return dumps(members(record, logging)) + "\n"

    handler.setFormatter(Json())


def set_level(level):
    import logging

    level = {"TRACE": "DEBUG"}.get(level, level)
    if level in ("NOTSET", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL"):
        logging.root.setLevel(level)


def members(record, logging):
    """A record as AWS's JSON lines show it: levels between the five well-known ones count as the one below."""
    import traceback

    kind, error, trace = record.exc_info or (None, None, None)
    message = record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage()
    shown = {
        "timestamp": time.strftime(JSON_TIME, time.gmtime(record.created)),
        "level": logging.getLevelName(min(50, max(0, record.levelno)) // 10 * 10),
        "message": message,
        "logger": record.name,
        "stackTrace": traceback.format_tb(trace) if kind else None,
        "errorType": kind.__name__ if kind else None,
        "errorMessage": str(error) if kind else None,
        "requestId": record.aws_request_id,
        "location": "%s:%s:%s" % (record.pathname, record.funcName, record.lineno) if kind else None,
    }
    for name, value in vars(record).items():
        if name not in OWN:
            shown.setdefault(name, value)
    return {name: value for name, value in shown.items() if value is not None}


def dumps(value):
    return json.dumps(value, ensure_ascii=False, default=str)


def write_error(shape, to_bytes):
    """An error that ends a call or a start, as AWS's client logs it. `to_bytes` writes JSON as the answer has it."""
    if as_json():
        stamped = {"timestamp": time.strftime(JSON_TIME, time.gmtime()), "level": "ERROR", **shape}
        return put(to_bytes(stamped).decode())
    head = "[ERROR] %s: %s" % (shape["errorType"], shape["errorMessage"])
    lines = [head if shape["errorMessage"] else head[:-2], "Traceback (most recent call last):"]
    for entry in shape["stackTrace"]:
        lines.extend(indented(line) for line in entry.splitlines())
    put("\n".join(lines))


def indented(line):
    """Spaces that do not break: what shows logs would drop plain ones."""
    text = line.lstrip(" ")
    return "\u00a0" * (len(line) - len(text)) + text


def put(text):
    try:
        os.write(1, (text + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # a log that cannot be written has nowhere to be reported
