"""The `context` object that handlers get; its names are part of Lambda's Python programming model."""

import os
import time

from . import console


class _Record:
    """Attributes from a dict; a missing one is None."""

    __slots__ = ()

    def __init__(self, values):
        for name in self.__slots__:
            setattr(self, name, values.get(name))

    def __repr__(self):
        return _described(self, self.__slots__)


class CognitoIdentity(_Record):
    """Who called, when the caller was an Amazon Cognito identity."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(_Record):
    """The mobile application that called."""

    __slots__ = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")


class ClientContext(_Record):
    """What the caller sent along in `X-Amz-Client-Context`."""

    __slots__ = ("custom", "env", "client")

    def __init__(self, values):
        super().__init__(values)
        if self.client is not None:
            self.client = Client(self.client)


class LambdaContext:
    """Facts about the invocation and the function that runs."""

    def __init__(self, invocation, client_context, cognito):
        """`invocation` is the header of the INVOKE frame, the other two are parsed JSON objects or None."""
        environ = os.environ
        self.aws_request_id = invocation["id"]
        self.log_group_name = environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn = invocation.get("arn")
        self.tenant_id = None
        self.client_context = None if client_context is None else ClientContext(client_context)
        cognito = cognito or {}
        self.identity = CognitoIdentity(
            {
                "cognito_identity_id": cognito.get("cognitoIdentityId"),
                "cognito_identity_pool_id": cognito.get("cognitoIdentityPoolId"),
            }
        )
        self._deadline_ms = invocation["deadline_ms"]

    def get_remaining_time_in_millis(self):
        """Milliseconds until the platform ends the invocation, never negative."""
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, msg):
        """Writes `msg` to the function's log as it is."""
        console.write_line(str(msg))

    def __repr__(self):
        return _described(self, [name for name in vars(self) if not name.startswith("_")])


def _described(thing, names):
    fields = ",".join("%s=%s" % (name, getattr(thing, name)) for name in names)
    return "%s([%s])" % (type(thing).__name__, fields)
