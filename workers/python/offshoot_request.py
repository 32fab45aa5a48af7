"""What a handler of the request convention is called with, and what its answer becomes: status, headers and bytes. It knows no channel and no
state of the worker."""

import json
from json.encoder import encode_basestring_ascii as quoted

from offshoot_event import Unserialisable, to_json

CANONICAL = {}


def canonical(name):
    """`content-type` → `Content-Type`, the way Glambdar's functions spell it."""
    found = CANONICAL.get(name)
    if found is None:
        found = "-".join(part[:1].upper() + part[1:] for part in name.lower().split("-"))
        if len(CANONICAL) < 1000:
            CANONICAL[name] = found
    return found


class Headers(dict):
    """The headers of a request, found by any spelling; repeated ones are joined by a comma."""

    def __init__(self, pairs):
        for name, value in pairs:
            name = canonical(name)
            earlier = dict.get(self, name)
            self[name] = value if earlier is None else earlier + "," + value

    def __missing__(self, name):
        wanted = canonical(name) if isinstance(name, str) else name
        if wanted == name:
            raise KeyError(name)
        return self[wanted]

    def __contains__(self, name):
        return dict.__contains__(self, canonical(name) if isinstance(name, str) else name)

    def get(self, name, default=None):
        return dict.get(self, canonical(name) if isinstance(name, str) else name, default)


class Request:
    """What a handler of the request convention is called with. In an `async def` handler, `json()` and `text()` are
    awaited; in a plain one they return their value."""

    is_async = False  # the handler is a coroutine function

    def __init__(self, header, body):
        http = header.get("http") or {}
        self.method = http.get("method", "POST")
        self.path = http.get("path", "/")
        self.query = http.get("query") or ""
        self.headers = Headers(http.get("headers") or ())
        self.bytes = body
        self.id = header["id"]
        self._text = None

    @property
    def body(self):
        if self._text is None:
            self._text = self.bytes.decode("utf-8", "replace")
        return self._text

    def text(self):
        return self._later(self.body) if Request.is_async else self.body

    def json(self):
        try:
            value = json.loads(self.body)
        except ValueError:
            if not Request.is_async:
                raise ValueError("invalid JSON body") from None
            return self._later(error=ValueError("invalid JSON body"))
        return self._later(value) if Request.is_async else value

    @staticmethod
    async def _later(value=None, error=None):
        if error is not None:
            raise error
        return value


def body_of(result, typed):
    """Bytes stay bytes; a string is sent as it is when the function named its type; anything else is JSON."""
    if "body" not in result:
        return b"", None
    body = result["body"]
    if result.get("isBase64Encoded") is True and isinstance(body, str):
        import base64

        try:
            return base64.b64decode(body), "application/octet-stream"
        except ValueError as error:
            raise Unserialisable("the body is not base64: %s" % error)
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), "application/octet-stream"
    if isinstance(body, str) and typed:
        return body.encode("utf-8", "replace"), None
    return to_json(body, "the body cannot be made JSON: "), "application/json"


def status_of(code):
    if code is None or (code == 0 and not isinstance(code, bool)):
        return 200
    try:
        status = int(code)
    except (TypeError, ValueError):
        status = 0
    if isinstance(code, bool) or not 200 <= status <= 599 or (isinstance(code, float) and code != status):
        raise Unserialisable("statusCode must be a whole number from 200 to 599, not %r" % (code,))
    return status


NAME_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def header_lines(headers):
    """The headers as JSON pairs, and whether the function named a content type."""
    lines = []
    typed = False
    if headers is None:
        return lines, typed
    if not hasattr(headers, "items"):
        raise Unserialisable("headers must be a dict")
    for name, values in headers.items():
        if values is None:
            continue
        if not isinstance(name, str) or not name or not NAME_CHARACTERS.issuperset(name):
            raise Unserialisable("%r is not a header name" % (name,))
        if name.lower() == "content-type":
            typed = True
        for value in values if isinstance(values, (list, tuple)) else (values,):
            lines.append("[%s,%s]" % (quoted(name), quoted(header_value(name, value))))
    return lines, typed


def header_value(name, value):
    if isinstance(value, bool):
        value = "true" if value else "false"
    if not isinstance(value, (str, int, float)):
        raise Unserialisable("the value of header %s must be a string, a number or a list of them" % name)
    text = str(value)
    if not text.isprintable() and any((c < " " and c != "\t") or c == "\x7f" for c in text):
        raise Unserialisable("the value of header %s has a character that headers cannot carry" % name)
    return text
