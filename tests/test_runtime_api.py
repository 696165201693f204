"""Custom runtimes: the Runtime API as a `bootstrap` sees it, with its headers and its refusals."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import arn_of, kernel
from support.clients import Api
from support.packages import fixture, zip_fixture, zip_of
from support.polling import wait_until

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def custom(make):
    """Makes a function of the test bootstrap."""

    def create(package=None, **parameters):
        settings = {"Runtime": "provided.al2023", "Handler": "some.handler", **parameters}
        return make(package or zip_fixture("bootstrap"), **settings)

    return create


@pytest.fixture(scope="module")
def plain(api):
    """One such function for tests that leave it as it is."""
    name = api.create(zip_fixture("bootstrap"), Runtime="provided.al2023", Handler="some.handler")
    yield name
    api.delete(name)


def line_of(answer, word):
    """A line that the bootstrap printed, as JSON."""
    found = re.search(rf"^{word} (.*)$", answer.log, re.MULTILINE)
    assert found, answer.log
    return json.loads(found[1])


@pytest.mark.parametrize("runtime", ["provided.al2023", "provided.al2", "provided"])
def test_every_custom_runtime(custom, api, runtime):
    name = custom(Runtime=runtime)
    assert api.invoke(name, {"a": 1}).ok() == {"a": 1}
    assert api.invoke(name, {"a": 2}).ok() == {"a": 2}


def test_a_shell_script(custom, api):
    script = """#!/bin/sh
set -eu
base="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
while :; do
  event=$(curl -sS -D /tmp/headers "$base/next")
  id=$(tr -d '\\r' < /tmp/headers | sed -n 's/^[Ll]ambda-[Rr]untime-[Aa]ws-[Rr]equest-[Ii]d: //p')
  curl -sS -o /dev/null -X POST -d "{\\"shell\\": $event}" "$base/$id/response"
done
"""
    name = custom(zip_of({"bootstrap": script}, executable=("bootstrap",)))
    assert api.invoke(name, {"a": 1}).ok() == {"shell": {"a": 1}}


def test_headers_of_next(plain, api):
    before = time.time() * 1000
    answer = api.invoke(plain, {"do": "headers"}, ClientContext="eyJjdXN0b20iOnsiYSI6ImIifX0=")
    seen = answer.ok()
    assert seen["lambda-runtime-aws-request-id"] == answer.headers["x-amzn-requestid"]
    assert seen["lambda-runtime-invoked-function-arn"] == arn_of(plain)
    assert before + 20_000 < int(seen["lambda-runtime-deadline-ms"]) <= time.time() * 1000 + 30_000
    assert seen["lambda-runtime-trace-id"].lower().startswith("root=1-")
    assert json.loads(seen["lambda-runtime-client-context"]) == {"custom": {"a": "b"}}
    assert seen["content-type"] == "application/json"


def test_answers_of_response(custom, api):
    """The first answer is taken; a second one for the same invocation is refused."""
    name = custom()
    assert api.invoke(name, {"do": "status of response"}).ok() == "first"
    api.invoke(name, {"do": "echo"}).ok()

    def printed():
        lines = api.logs(name)
        return lines if any(line.startswith("AGAIN ") for line in lines) else None

    lines = wait_until(printed, "the bootstrap printed what it was answered")
    first = next(line for line in lines if line.startswith("RESPONSE "))
    status, body = json.loads(first.removeprefix("RESPONSE "))
    assert status == 202 and json.loads(body) == {"status": "OK"}
    again = next(line for line in lines if line.startswith("AGAIN "))
    assert json.loads(again.removeprefix("AGAIN "))[0] in (400, 403)


def test_wrong_ids(plain, api):
    seen = api.invoke(plain, {"do": "wrong id"}).ok()
    for answer in seen.values():
        assert answer["status"] == 400
        assert json.loads(answer["body"]) == {"errorMessage": "Invalid request ID", "errorType": "InvalidRequestID"}


def test_init_error_after_init(plain, api):
    answer = api.invoke(plain, {"do": "init error too late"}).ok()
    assert answer["status"] == 403
    body = json.loads(answer["body"])
    assert body["errorType"] == "InvalidStateTransition"
    assert re.match(r"^State transition from \w+ to \w+ failed for runtime\. Error: ", body["errorMessage"]), body


def test_too_large_a_response(custom, api):
    """The runtime is told 413; the caller gets the error outcome, whatever the runtime does next."""
    answer = api.invoke(custom(MemorySize=512), {"do": "too large"})
    error = answer.failed()
    assert error["errorType"] == "Function.ResponseSizeTooLarge"
    assert error["errorMessage"] == "Response payload size exceeded maximum allowed payload size (6291556 bytes)."


def test_unknown_paths(plain, api):
    for answer in api.invoke(plain, {"do": "unknown path"}).ok():
        assert answer["status"] in (404, 405)


@pytest.mark.parametrize("kind", [None, "Runtime.Something", "Function.Mine", "no such shape"])
def test_reported_errors(custom, api, kind):
    name = custom()
    error = api.invoke(name, {"do": "error", "type": kind}, tail=True).failed()
    assert error == {"errorType": "My.Error", "errorMessage": "from the bootstrap", "stackTrace": []}
    assert api.invoke(name, {"again": 1}).ok() == {"again": 1}


def test_a_response_need_not_be_json(custom, api):
    """On Lambda the bytes of a custom runtime are passed on as they are."""
    answer = api.invoke(custom(), {"do": "raw answer", "raw": "no json"})
    assert answer.status == 200 and answer.body == b"no json"


def test_init_error(custom, api):
    name = custom(Environment={"Variables": {"FAIL_INIT": "1"}})
    answer = api.invoke(name, {}, tail=True)
    error = answer.failed()
    assert error["errorMessage"] == "cannot begin" and error["errorType"] == "My.InitError"
    status, body = line_of(answer, "INIT")
    assert status == 202 and json.loads(body) == {"status": "OK"}


@pytest.mark.parametrize("code,text", [("0", "without providing a reason"), ("9", "with error: exit status 9")])
def test_an_exit_before_next(custom, api, code, text):
    error = api.invoke(custom(Environment={"Variables": {"EXIT_EARLY": code}}), {}).failed()
    assert error["errorType"] == "Runtime.ExitError" and f"Runtime exited {text}" in error["errorMessage"]


def test_an_exit_in_the_middle(custom, api):
    name = custom()
    error = api.invoke(name, {"do": "exit", "code": 4}).failed()
    assert error["errorType"] == "Runtime.ExitError" and error["errorMessage"].endswith("exit status 4")
    assert api.invoke(name, {"fine": 1}).ok() == {"fine": 1}


def test_timeout(custom, api):
    name = custom(Timeout=1)
    error = api.invoke(name, {"do": "sleep", "seconds": 20}).failed()
    assert error["errorType"] == "Sandbox.Timedout" and error["errorMessage"].endswith(
        "Error: Task timed out after 1.00 seconds"
    )
    assert api.invoke(name, {"fine": 1}).ok() == {"fine": 1}


def test_next_without_an_answer(custom, api):
    """Asking for the next event while one is open does not break the open one for good."""
    name = custom(Timeout=5)
    api.invoke(name, {"do": "next twice"})
    assert api.invoke(name, {"fine": 1}).ok() == {"fine": 1}


@pytest.mark.parametrize("pause_s", [0, 0.6])
def test_a_runtime_that_reconnects_loses_nothing(custom, api, pause_s):
    """It waits 0.3 s for `next`, hangs up, perhaps rests, and asks again; invocations arrive in each span of that."""
    variables = {"PATIENCE_S": "0.3", "PAUSE_S": str(pause_s)}
    package = zip_fixture("impatient", as_name="bootstrap")
    name = custom(package, Timeout=10, Environment={"Variables": variables})
    for number, moment_s in enumerate([0.15, 0.45, 0.6 if pause_s else 0.5, 0.75, 1.05] * 2):
        assert api.invoke(name, {"number": number}).ok() == {"number": number}
        time.sleep(moment_s)  # The moment that is tried, not a wait for something.


def test_an_event_that_meets_a_hang_up_goes_to_the_next_call(custom, api):
    """The runtime hangs up all the time, so events are on their way to it just then."""
    variables = {"PATIENCE_S": "0.001", "PAUSE_S": "0"}
    name = custom(zip_fixture("impatient", as_name="bootstrap"), Timeout=10, Environment={"Variables": variables})
    for number in range(300):
        assert api.invoke(name, {"number": number}).ok() == {"number": number}


def test_calls_sent_ahead(custom, api):
    """A runtime may send its answer and its next call in one write; it hears of both, in order."""
    script = """#!/usr/bin/python3
import os, socket
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
connection = socket.create_connection((host, int(port)))
stream = connection.makefile("rb")
base = "/2018-06-01/runtime/invocation/"
ask = f"GET {base}next HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode()
def heard():
    status = stream.readline().split()[1]
    fields = {}
    while (line := stream.readline().strip()):
        name, value = line.decode().split(": ", 1)
        fields[name.lower()] = value
    return status, fields, stream.read(int(fields["content-length"]))
connection.sendall(ask)
while True:
    status, fields, event = heard()
    assert status == b"200", status
    head = f"POST {base}{fields['lambda-runtime-aws-request-id']}/response HTTP/1.1\\r\\nContent-Length: {len(event)}\\r\\n\\r\\n"
    connection.sendall(head.encode() + event + ask)
    assert heard()[0] == b"202"
"""
    name = custom(zip_of({"bootstrap": script}, executable=("bootstrap",)))
    for number in range(20):
        assert api.invoke(name, number).ok() == number
    with ThreadPoolExecutor(8) as pool:
        assert [answer.ok() for answer in pool.map(lambda n: api.invoke(name, n), range(200))] == list(range(200))


def sockets(pid) -> int:
    """How many sockets a process holds."""
    folder, count = f"/proc/{pid}/fd", 0
    for name in os.listdir(folder):
        try:
            count += os.readlink(os.path.join(folder, name)).startswith("socket:")
        except FileNotFoundError:
            pass  # It was closed since.
    return count


@pytest.mark.parametrize("end", ["exit", "idle"])
def test_no_socket_stays_of_a_runtime_that_sent_ahead(server_factory, end):
    """It calls `next`, sends more than the server looks at, and is gone: by itself, or when it has idled."""
    script = """#!/usr/bin/python3
import os, socket, sys, time
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
base = "/2018-06-01/runtime/invocation/"
ask = f"GET {base}next HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode()
connection = socket.create_connection((host, int(port)))
connection.sendall(ask)
head = b""
while b"\\r\\n\\r\\n" not in head:
    head += connection.recv(4096)
fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\\r\\n") if ": " in line)
answer = f"POST {base}{fields['lambda-runtime-aws-request-id']}/response HTTP/1.1\\r\\nContent-Length: 1\\r\\n\\r\\n1"
connection.sendall(answer.encode() + ask + b"x" * 50_000)
if os.environ["END"] == "exit":
    time.sleep(0.2)
    sys.exit(0)
time.sleep(1000)
"""
    server = server_factory(config={"keep_alive": "fixed", "limits": {"idle_ms": 1000}})
    api = Api(server.endpoint, server.credentials())
    package = zip_of({"bootstrap": script}, executable=("bootstrap",))
    variables = {"Variables": {"END": end}}
    name = api.create(package, Runtime="provided.al2023", Handler="some.handler", Environment=variables)
    counts = []
    for number in range(5):
        assert api.invoke(name, number).ok() == 1
        wait_until(lambda: not kernel.guests_below(server.pid), "the instance ends", 30)
        counts.append(sockets(server.daemon_pid()))
    wait_until(lambda: sockets(server.daemon_pid()) <= counts[0] + 1, f"their sockets are closed: {counts}", 10)


def test_a_connection_may_rest_for_as_long_as_the_function_runs(custom, api):
    """A runtime that keeps its connection answers on it, however long after it was given the event."""
    script = """#!/usr/bin/python3
import http.client, json, os, time
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
connection.connect()
kept = connection.sock
def call(method, path, body=None):
    connection.request(method, "/2018-06-01/runtime/invocation/" + path, body)
    answer = connection.getresponse()
    return answer.headers.get("lambda-runtime-aws-request-id"), answer.read()
while True:
    request_id, event = call("GET", "next")
    time.sleep(json.loads(event))
    call("POST", request_id + "/response", json.dumps(connection.sock is kept))
"""
    name = custom(zip_of({"bootstrap": script}, executable=("bootstrap",)), Timeout=30)
    assert api.invoke(name, 12).ok() is True
    assert api.invoke(name, 0).ok() is True


def test_environment_and_place(plain, api):
    seen = api.invoke(plain, {"do": "environment"}).ok()
    assert seen["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:9001" and "AWS_EXECUTION_ENV" not in seen
    assert seen["_HANDLER"] == "some.handler" and seen["LAMBDA_TASK_ROOT"] == "/var/task"
    seen = api.invoke(plain, {"do": "args"}).ok()
    assert seen["cwd"] == "/var/task" and set(seen["fds"]) <= {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize(
    "package,why",
    [
        (zip_of({"other": "x"}), "no bootstrap"),
        (zip_of({"bootstrap": fixture("bootstrap")}), "not executable"),
        (zip_of({"bootstrap": "#!/no/such/interpreter\n"}, executable=("bootstrap",)), "no interpreter"),
        (zip_of({"bootstrap": b"\x7fELF nonsense"}, executable=("bootstrap",)), "not a program"),
    ],
)
def test_entry_points_that_cannot_run(custom, api, package, why):
    name = custom(package)
    error = api.invoke(name, {}).failed()
    assert error["errorType"] in ("Runtime.InvalidEntrypoint", "Runtime.ExitError"), (why, error)
    assert "/var/task/bootstrap" in error["errorMessage"] or "exit" in error["errorMessage"], error


def test_a_file_beside_the_bootstrap(custom, api):
    package = zip_of(
        {"bootstrap": "#!/bin/sh\nexec /var/task/real/bootstrap\n", "real/bootstrap": fixture("bootstrap")},
        executable=("bootstrap", "real/bootstrap"),
    )
    assert api.invoke(custom(package), 7).ok() == 7
