"""What a handler of the event convention is called with, and JSON as AWS's client for Python writes it. It knows no channel and no state
of the worker."""

import json
import os
import sys
import time


class Named:
    """A handful of named values, absent ones as None: the shape of AWS's small context classes."""

    names = ()

    def __init__(self, values):
        for name in self.names:
            setattr(self, name, values.get(name))

    def __repr__(self):
        return "%s([%s])" % (type(self).__name__, ",".join("%s=%s" % (n, getattr(self, n)) for n in self.names))


class CognitoIdentity(Named):
    names = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(Named):
    names = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")


class ClientContext(Named):
    names = ("custom", "env", "client")


class LambdaContext:
    # AWS's order.
    shown = ("aws_request_id", "log_group_name", "log_stream_name", "function_name", "memory_limit_in_mb", "function_version",
             "invoked_function_arn", "client_context", "identity", "tenant_id")

    def __init__(self, header, about):
        self.aws_request_id = header["id"]
        self.log_group_name = about.get("log_group")
        self.log_stream_name = about.get("log_stream")
        self.function_name = about.get("name")
        self.memory_limit_in_mb = about.get("memory")
        self.function_version = about.get("version")
        self.invoked_function_arn = header.get("arn") or about.get("arn")
        self.tenant_id = None
        self.client_context = None
        client_context = as_object(header.get("client_context"))
        if client_context is not None:
            self.client_context = ClientContext(client_context)
            if isinstance(self.client_context.client, dict):
                self.client_context.client = Client(self.client_context.client)
        identity = as_object(header.get("identity")) or {}
        self.identity = CognitoIdentity({})
        self.identity.cognito_identity_id = identity.get("cognitoIdentityId")
        self.identity.cognito_identity_pool_id = identity.get("cognitoIdentityPoolId")
        self._epoch_deadline_time_in_ms = header.get("deadline_ms") or 0

    def get_remaining_time_in_millis(self):
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def log(self, message):
        sys.stdout.write(str(message))

    def __repr__(self):
        shown = ",".join("%s=%s" % (name, getattr(self, name)) for name in self.shown)
        return "LambdaContext([%s])" % shown


def as_object(value):
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


class Encoder(json.JSONEncoder):
    """JSON as AWS's client writes it: decimals as numbers, and text unescaped from Python 3.12 on."""

    # The standard library cannot write a number of its own making: decimals go out as strings between these marks,
    # which nothing else can contain because they are made up per process, and lose them afterwards.
    mark = "decimal-%s-" % os.urandom(16).hex()
    seen = False

    def default(self, value):
        decimal = sys.modules.get("decimal")
        if decimal is not None and isinstance(value, decimal.Decimal):
            if value.is_nan():
                return float("nan")
            self.seen = True
            return self.mark + str(value)
        return super().default(value)

    def bytes(self, value):
        text = self.encode(value)
        if self.seen and self.mark in text:
            import re

            text = re.sub('"%s([^"]*)"' % self.mark, r"\1", text)
        return text.encode("utf-8")


encoder = Encoder(ensure_ascii=sys.version_info < (3, 12))


def to_json(value, complaint):
    try:
        return encoder.bytes(value)
    except Exception as error:
        raise Unserialisable(complaint + str(error))


class Unserialisable(Exception):
    """The handler answered with something that cannot be sent."""
