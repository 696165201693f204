"""Clients of the Lambda API: boto3 with the raw answers kept, and a wire client that may send anything."""

import base64
import http.client
import json
import re
import socket
import urllib.parse
import uuid
from dataclasses import dataclass, field

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from . import REGION, ROLE
from .interpreters import PYTHON
from .polling import wait_until

# On two shared cores a cold start under load may take seconds; this bounds it without being a measurement.
READ_SECONDS = 100


def free_name(prefix: str = "f") -> str:
    """A function name that nobody else uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@dataclass
class Raw:
    """An HTTP answer as it came."""

    status: int
    headers: dict
    body: bytes

    def json(self):
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Refusal:
    """An API error as it came."""

    status: int
    code: str
    message: str
    kind: str | None
    member: str | None
    raw: Raw = field(repr=False)


@dataclass
class Answer:
    """What an invocation gave back."""

    status: int
    error: str | None
    body: bytes
    log: str
    version: str | None
    headers: dict

    @property
    def value(self):
        """The body as JSON."""
        return json.loads(self.body)

    def ok(self):
        """The value, after asserting that there was no function error."""
        assert self.error is None, f"{self.body[:2000]!r}\n{self.log}"
        return self.value

    def failed(self) -> dict:
        """The error JSON, after asserting that there was a function error."""
        assert self.status == 200 and self.error == "Unhandled", f"{self.status} {self.error} {self.body[:500]!r}"
        return self.value


def _refusal(raw: Raw) -> Refusal:
    headers = {name.lower(): value for name, value in raw.headers.items()}
    code = re.split("[:#]", headers.get("x-amzn-errortype", ""))[0]
    try:
        body = json.loads(raw.body or b"{}")
    except ValueError:
        body = {}
    member = next((name for name in ("message", "Message") if name in body), None)
    return Refusal(raw.status, code, body.get(member, ""), body.get("Type"), member, raw)


class Api:
    """A boto3 Lambda client with short cuts. Its parameter checks are off: the server's are under test."""

    def __init__(self, endpoint: str, credentials: dict | None, region: str = REGION, verify: str | None = None):
        self.endpoint = endpoint
        keys = credentials or {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        self.credentials = Credentials(
            keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], keys.get("AWS_SESSION_TOKEN")
        )
        self.region = region
        self.client = boto3.Session(
            aws_access_key_id=self.credentials.access_key,
            aws_secret_access_key=self.credentials.secret_key,
            aws_session_token=self.credentials.token,
            region_name=region,
        ).client(
            "lambda",
            endpoint_url=endpoint,
            verify=verify,
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=5,
                read_timeout=READ_SECONDS,
                parameter_validation=False,
                max_pool_connections=64,
            ),
        )
        self.last = None
        self.client.meta.events.register("before-parse.lambda", self._keep)

    def _keep(self, response_dict, **_):
        body = response_dict["body"]
        self.last = Raw(
            response_dict["status_code"], dict(response_dict["headers"]), body if isinstance(body, bytes) else b""
        )

    def refused(self, operation: str, **parameters) -> Refusal:
        """Calls an operation that must fail, and returns how it failed."""
        try:
            answer = getattr(self.client, operation)(**parameters)
        except ClientError as error:
            refusal = _refusal(self.last)
            assert error.response["Error"]["Code"] == refusal.code, "botocore and we read the same error code"
            return refusal
        raise AssertionError(f"{operation} was not refused: {answer}")

    def member_of(self, code: str) -> str | None:
        """Whether the model spells an exception's text `message` or `Message`; None if it is not in the model."""
        shapes = self.client.meta.service_model.error_shapes
        shape = next((s for s in shapes if s.name == code), None)
        return next((m for m in ("message", "Message") if shape and m in shape.members), None)

    def check(self, refusal: Refusal, status: int, code: str, message=None, kind: str | None = "User"):
        """Compares all that the oracle gives: status, code, text (or pattern), `Type`, and the member's letter case."""
        assert (refusal.status, refusal.code) == (status, code), refusal
        if isinstance(message, re.Pattern):
            assert message.search(refusal.message), refusal
        elif message is not None:
            assert refusal.message == message, refusal
        member = self.member_of(code)
        if member:
            assert refusal.member == member, refusal
            if kind:
                assert refusal.kind == kind, refusal
        headers = {name.lower() for name in refusal.raw.headers}
        assert "x-amzn-requestid" in headers, refusal.raw.headers

    def create(self, package: bytes, name: str | None = None, wait: bool = True, **parameters) -> str:
        """Creates a function (Python unless told otherwise), waits until it is Active, returns its name."""
        name = name or free_name()
        settings = {"Runtime": PYTHON, "Handler": "probe.echo", "Role": ROLE, "Timeout": 30, **parameters}
        self.client.create_function(FunctionName=name, Code={"ZipFile": package}, **settings)
        if wait:
            self.wait_active(name)
        return name

    def wait_active(self, name: str, seconds: float = 30):
        """Waits until a function is Active and no update is under way; returns its configuration."""

        def settled():
            found = self.client.get_function_configuration(FunctionName=name)
            if found["State"] == "Failed" or found.get("LastUpdateStatus") == "Failed":
                raise AssertionError(f"{name}: {found}")
            return found if found["State"] == "Active" and found.get("LastUpdateStatus") == "Successful" else None

        return wait_until(settled, f"{name} is Active", seconds)

    def update(self, name: str, package: bytes | None = None, **configuration):
        """Updates code or configuration and waits until the update is done."""
        if package is not None:
            self.client.update_function_code(FunctionName=name, ZipFile=package)
            self.wait_active(name)
        if configuration:
            self.client.update_function_configuration(FunctionName=name, **configuration)
            self.wait_active(name)

    def invoke(self, name: str, event=None, tail: bool = False, payload: bytes | None = None, **parameters) -> Answer:
        """Invokes a function with an event (JSON) or a raw payload."""
        if payload is None and event is not None:
            payload = json.dumps(event).encode()
        if payload is not None:
            parameters["Payload"] = payload
        if tail:
            parameters["LogType"] = "Tail"
        answer = self.client.invoke(FunctionName=name, **parameters)
        return Answer(
            answer["StatusCode"],
            answer.get("FunctionError"),
            answer["Payload"].read(),
            base64.b64decode(answer.get("LogResult", "")).decode(errors="replace"),
            answer.get("ExecutedVersion"),
            answer["ResponseMetadata"]["HTTPHeaders"],
        )

    def leave(self, name: str, event, running) -> None:
        """Begins an invocation and hangs up once `running()` tells that it runs."""
        path, body = f"/2015-03-31/functions/{name}/invocations", json.dumps(event).encode()
        address = urllib.parse.urlsplit(self.endpoint)
        headers = self.sign("POST", path, body, {"Host": address.netloc, "Content-Length": str(len(body))})
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers.items()) + "\r\n"
        with socket.create_connection((address.hostname, address.port), timeout=5) as one:
            one.sendall(head.encode() + body)
            wait_until(running, "the invocation runs", 20)

    def try_invoke(self, name: str, event=None):
        """The status of an invocation, or the name of the error of its connection; raises nothing."""
        try:
            path = f"/2015-03-31/functions/{name}/invocations"
            return self.send("POST", path, json.dumps(event).encode()).status
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__

    def delete(self, name: str) -> None:
        """Deletes a function; one that is not there is no error."""
        try:
            self.client.delete_function(FunctionName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise

    def send(self, method: str, path: str, body: bytes = b"", headers: dict | None = None, **signing) -> Raw:
        """Sends exactly this path and body, signed as a decent client would; see `sign` for the ways to be indecent."""
        return send(self.endpoint, method, path, body, self.sign(method, path, body, headers or {}, **signing))

    def send_json(self, method: str, path: str, value, **signing) -> Raw:
        """Sends a JSON body."""
        return self.send(method, path, json.dumps(value).encode(), {"Content-Type": "application/json"}, **signing)

    def refused_raw(self, method: str, path: str, body: bytes = b"", headers: dict | None = None) -> Refusal:
        """Sends a request and reads the answer as an API error."""
        return _refusal(self.send(method, path, body, headers))

    def sign(self, method, path, body, headers, credentials=None, service="lambda", region=None) -> dict:
        """The headers of a signed request."""
        request = AWSRequest(method=method, url=self.endpoint + path, data=body, headers=headers)
        SigV4Auth(credentials or self.credentials, service, region or self.region).add_auth(request)
        return dict(request.headers.items())

    def settings(self, name: str, value: dict | None = None):
        """Tidegate's own settings of a function: reads them, or writes `value`."""
        path = f"/tidegate/v1/functions/{name}/settings"
        raw = self.send("GET", path) if value is None else self.send_json("PUT", path, value)
        assert raw.status == 200, raw
        return raw.json()

    def refuse_settings(self, name: str, value: dict) -> Refusal:
        """Writes settings that must be refused, and returns how they were."""
        raw = self.send_json("PUT", f"/tidegate/v1/functions/{name}/settings", value)
        assert raw.status >= 400, raw
        return _refusal(raw)

    def logs(self, name: str, limit: int = 1000) -> list:
        """The newest lines of a function's log, as texts."""
        raw = self.send("GET", f"/tidegate/v1/functions/{name}/logs?limit={limit}")
        assert raw.status == 200, raw
        return [line["text"] for line in raw.json()["lines"]]


def refusal_of(raw: Raw) -> Refusal:
    """Reads a raw answer as an API error."""
    return _refusal(raw)


def send(endpoint: str, method: str, path: str, body: bytes = b"", headers: dict | None = None) -> Raw:
    """Sends an HTTP request as it is, without signature; an answer that comes before the body is sent is read."""
    address = urllib.parse.urlsplit(endpoint)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=READ_SECONDS)
    try:
        try:
            connection.request(method, path, body=body or None, headers=headers or {})
        except (BrokenPipeError, ConnectionResetError):
            connection.sock.settimeout(5)
            answer = http.client.HTTPResponse(connection.sock, method=method)
            answer.begin()
            return Raw(answer.status, dict(answer.getheaders()), answer.read())
        answer = connection.getresponse()
        return Raw(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()
