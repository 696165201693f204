"""The Python shim: what a handler sees, what its caller gets, what the log holds."""

import json
import re
import signal
import struct

import pytest
from guest import ARN, ERROR, INVOKE, REQUEST_ID, RESPONSE, RESPONSE_BYTES_MAX

NBSP = "\u00a0"


def test_answers_and_reuses_the_module(py):
    source = """
count = 0
def handler(event, context):
    global count
    count += 1
    return [count, event]
"""
    guest = py(source).ready()
    assert guest.value({"a": "ü"}) == [1, {"a": "ü"}]
    assert guest.value([None, True, 1.5], request_id="second") == [2, [None, True, 1.5]]
    assert guest.close() == 0


@pytest.mark.parametrize(
    "handler, files",
    [
        ("app.handler", {"app.py": "def handler(e, c): return 'here'"}),
        ("pkg/app.handler", {"pkg/app.py": "def handler(e, c): return 'here'"}),
        ("pkg.app.handler", {"pkg/__init__.py": "", "pkg/app.py": "def handler(e, c): return 'here'"}),
        ("app.handler", {"app.py": "from bootstrap import handler", "bootstrap.py": "handler = lambda e, c: 'here'"}),
    ],
)
def test_finds_the_handler(py, handler, files):
    assert py(handler=handler, files=files).ready().value() == "here"


@pytest.mark.parametrize(
    "handler, source, error_type, message",
    [
        ("nope.handler", "", "Runtime.ImportModuleError", "Unable to import module 'nope': No module named 'nope'"),
        (
            "app.handler",
            "import nope",
            "Runtime.ImportModuleError",
            "Unable to import module 'app': No module named 'nope'",
        ),
        ("app.handler", "x = 1", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
        (
            "app",
            "",
            "Runtime.MalformedHandlerName",
            "Bad handler 'app': not enough values to unpack (expected 2, got 1)",
        ),
        ("sys.exit", "", "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
    ],
)
def test_init_faults(py, handler, source, error_type, message):
    guest = py(source, handler)
    assert guest.init_error() == {"errorMessage": message, "errorType": error_type, "requestId": "", "stackTrace": []}
    assert guest.log() == "[ERROR] %s: %s\nTraceback (most recent call last):\n" % (error_type, message)


def test_syntax_error(py, task_root):
    error = py("def handler(:\n    pass").init_error()
    assert error["errorType"] == "Runtime.UserCodeSyntaxError"
    assert error["errorMessage"].startswith("Syntax error in module 'app': invalid syntax (app.py, line 1)")
    assert error["stackTrace"] == ['  File "%s/app.py" Line 1\n    def handler(:\n' % task_root]


def test_exception_while_importing(py, task_root):
    guest = py("def deep():\n    raise KeyError('boom')\ndeep()")
    assert guest.init_error() == {
        "errorMessage": "'boom'",
        "errorType": "KeyError",
        "requestId": "",
        "stackTrace": [
            '  File "%s/app.py", line 3, in <module>\n    deep()\n' % task_root,
            "  File \"%s/app.py\", line 2, in deep\n    raise KeyError('boom')\n" % task_root,
        ],
    }


def test_exit_while_importing(py):
    guest = py("print('leaving')\nraise SystemExit(7)")
    assert guest.receive() is None
    assert guest.exit_status() == 7
    assert guest.log() == "leaving\n"


def test_handler_exception(py, task_root):
    guest = py("def inner():\n    raise ValueError('boom')\n\ndef handler(event, context):\n    inner()\n").ready()
    frames = [
        '  File "%s/app.py", line 5, in handler\n    inner()\n' % task_root,
        "  File \"%s/app.py\", line 2, in inner\n    raise ValueError('boom')\n" % task_root,
    ]
    expected = {"errorMessage": "boom", "errorType": "ValueError", "requestId": REQUEST_ID, "stackTrace": frames}
    assert guest.error() == expected
    logged = "".join(frames).replace("    ", NBSP * 4).replace("  File", NBSP * 2 + "File")
    assert guest.log() == "[ERROR] ValueError: boom\nTraceback (most recent call last):\n" + logged
    assert guest.error(request_id="again")["requestId"] == "again"


def test_more_failures_of_handlers(py):
    source = """
import asyncio
class Own(BaseException): pass
class Mute(Exception):
    def __str__(self): raise RuntimeError()
def recurse(): return recurse()
def handler(event, context):
    if event == "own": raise Own("base")
    if event == "mute": raise Mute()
    if event == "recurse": recurse()
    if event == "cancelled": raise asyncio.CancelledError()
    if event == "half": raise ValueError("half \\ud800 pair")
    return "fine"
"""
    guest = py(source).ready()
    for event, error_type, message in [
        ("own", "Own", "base"),
        ("mute", "Mute", ""),
        ("recurse", "RecursionError", None),
        ("cancelled", "CancelledError", ""),
        ("half", "ValueError", "half \ud800 pair"),
    ]:
        error = guest.error(event)
        assert error["errorType"] == error_type
        assert message is None or error["errorMessage"] == message
    assert guest.value("fine") == "fine"
    assert "[ERROR] Mute\n" in guest.log()


@pytest.mark.parametrize(
    "result, message",
    [
        ("{1, 2}", "Object of type set is not JSON serializable"),
        ("object()", "Object of type object is not JSON serializable"),
        ("(lambda a: a.append(a) or a)([])", "Circular reference detected"),
        ("{(1, 2): 3}", "keys must be str, int, float, bool or None, not tuple"),
    ],
)
def test_unserialisable_results(py, result, message):
    error = py("def handler(event, context): return %s" % result).ready().error()
    message = "Unable to marshal response: " + message
    assert error == {
        "errorMessage": message,
        "errorType": "Runtime.MarshalError",
        "requestId": REQUEST_ID,
        "stackTrace": [],
    }


@pytest.mark.parametrize(
    "result, text",
    [
        ("None", "null"),
        ("'text'", '"text"'),
        ("{'a': [1, 2.5, True], 1: None}", '{"a": [1, 2.5, true], "1": null}'),
        (
            "[D('1.10'), D('123456789012345678901234567890.5'), D('-0'), D('1E+3'), 'decimal-x']",
            '[1.10, 123456789012345678901234567890.5, -0, 1E+3, "decimal-x"]',
        ),
        ("[float('nan'), D('NaN')]", "[NaN, NaN]"),
        ("b'{\"raw\": 1}'", '{"raw": 1}'),
        ("10 ** 30", "1" + "0" * 30),
        ("'half \\ud800'", '"half \\ud800"'),
        ("T(1, 2)", "[1, 2]"),
    ],
)
def test_results(py, result, text):
    source = "from decimal import Decimal as D\nfrom collections import namedtuple\nT = namedtuple('T', 'a b')\n"
    guest = py(source + "def handler(event, context): return " + result).ready()
    guest.start_invocation(b"{}")
    assert guest.receive() == (RESPONSE, {"id": REQUEST_ID}, text.encode())


def test_events(py):
    guest = py("def handler(event, context): return repr(event)").ready()
    for body, seen in [
        (b' \n {"a": 1} \n', "{'a': 1}"),
        ('"ü€😀"'.encode(), "'ü€😀'"),
        (b'"\\ud83d\\ude00"', "'😀'"),
        (b"[1e3, -0.0, 12345678901234567890]", "[1000.0, -0.0, 12345678901234567890]"),
        ('\ufeff{"b": 2}'.encode(), "{'b': 2}"),
    ]:
        guest.start_invocation(body)
        assert guest.answer() == (RESPONSE, {"id": REQUEST_ID}, seen)
    for body in [b"", b"{", b"{} x", b"\xff", b"[" * 100_000]:
        guest.start_invocation(body)
        kind, header, error = guest.answer()
        assert (kind, header["type"], error["errorType"]) == (ERROR, "Runtime.UnmarshalError", "Runtime.UnmarshalError")
        assert error["errorMessage"].startswith("Unable to unmarshal input: ")


def test_context(py):
    source = """
import os
def handler(event, context):
    c = context
    names = ["aws_request_id", "log_group_name", "log_stream_name", "function_name", "memory_limit_in_mb",
             "function_version", "invoked_function_arn", "client_context"]
    seen = {name: getattr(c, name) for name in names}
    seen["identity"] = [c.identity.cognito_identity_id, c.identity.cognito_identity_pool_id]
    seen["remaining"] = c.get_remaining_time_in_millis()
    seen["trace"] = os.environ.get("_X_AMZN_TRACE_ID")
    context.log("from the context")
    repr(context)
    return seen
"""
    guest = py(source).ready()
    seen = guest.value()
    assert 0 < seen.pop("remaining") <= 3000
    assert seen == {
        "aws_request_id": REQUEST_ID,
        "log_group_name": "/aws/lambda/f",
        "log_stream_name": "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef",
        "function_name": "f",
        "memory_limit_in_mb": "128",
        "function_version": "$LATEST",
        "invoked_function_arn": ARN,
        "client_context": None,
        "identity": [None, None],
        "trace": "Root=1-5759e988-bd862e3fe1be46a994272793",
    }
    assert guest.log() == "from the context\n"
    assert guest.value(trace_id=None, deadline_ms=1) == {**seen, "trace": None, "remaining": 0}


def test_client_context(py):
    source = """
def handler(event, context):
    c = context.client_context
    client = c.client and [c.client.installation_id, c.client.app_title]
    return [client, c.custom, c.env, context.identity.cognito_identity_id]
"""
    guest = py(source).ready()
    full = json.dumps({"client": {"installation_id": "i"}, "custom": {"k": "v"}, "env": {"locale": "de"}})
    cognito = json.dumps({"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"})
    assert guest.value(client_context=full, cognito=cognito) == [["i", None], {"k": "v"}, {"locale": "de"}, "id"]
    assert guest.value(client_context="{}") == [None, None, None, None]
    assert guest.error(client_context="{")["errorType"] == "Runtime.LambdaContextUnmarshalError"


def test_output_is_there_before_the_answer(py):
    source = """
import subprocess, sys
assert sys.stdout is sys.__stdout__ and sys.stdout.encoding.lower() == "utf-8"
def handler(event, context):
    print("out", end="")
    sys.stderr.write("err")
    sys.stdout.buffer.write(b"raw")
    subprocess.run(["/bin/echo", "child"])
    print("ü", "x" * 20000)
"""
    guest = py(source).ready()
    for _ in range(20):
        assert guest.value() is None
        assert guest.log() == "outerrrawchild\nü " + "x" * 20000 + "\n"


def test_logging(py):
    source = """
import logging
log = logging.getLogger("mine")
log.warning("in Init")
logging.basicConfig(level=logging.DEBUG)
def handler(event, context):
    if event == "level":
        logging.getLogger().setLevel(logging.INFO)
    log.info("an %s", "info")
    logging.error("two\\nlines")
    try:
        1 / 0
    except ZeroDivisionError:
        if event == "trace":
            log.exception("caught")
    return [type(logging.__loader__).__name__, type(logging.__spec__.loader).__name__]
"""
    guest = py(source).ready()
    stamp = r"\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\t"
    assert re.fullmatch(r"\[WARNING\]" + stamp + r"\tin Init\n", guest.log())
    loaders = guest.value()
    assert "Logging" not in "".join(loaders)
    assert re.fullmatch(r"\[ERROR\]" + stamp + REQUEST_ID + r"\ttwo\nlines\n", guest.log())
    guest.value("level")
    assert re.match(r"\[INFO\]" + stamp + REQUEST_ID + r"\tan info\n\[ERROR\]", guest.log())
    guest.value("trace", request_id="other")
    caught = stamp + r"other\tcaught\nTraceback .*ZeroDivisionError: division by zero\n"
    assert re.search(r"\[ERROR\]" + caught, guest.log(), re.S)


def test_logging_as_json(py):
    source = """
import logging
def handler(event, context):
    logging.getLogger("mine").debug("hello %s", "you", extra={"order": 7})
    logging.getLogger("mine").info({"a": 1})
    raise ValueError("boom")
"""
    guest = py(source, AWS_LAMBDA_LOG_FORMAT="JSON", AWS_LAMBDA_LOG_LEVEL="DEBUG").ready()
    guest.error()
    debug, info, error = map(json.loads, guest.log().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", debug.pop("timestamp"))
    assert debug == {"level": "DEBUG", "message": "hello you", "logger": "mine", "requestId": REQUEST_ID, "order": 7}
    assert info["message"] == {"a": 1}
    assert (error["level"], error["errorType"], error["errorMessage"]) == ("ERROR", "ValueError", "boom")


def test_files_named_like_preloaded_modules_hide_nothing(py):
    """On Lambda these modules are loaded before the function's are, so that its own are never found."""
    names = ["logging", "string", "token", "traceback", "types", "json", "re", "collections", "email"]
    source = """
import decimal, email.message, json, logging, string
def handler(event, context):
    logging.warning("logged")
    if event: raise ValueError(event)
    return [json.loads("1"), string.digits, decimal.Decimal("1.0")]
"""
    guest = py(source, files={name + ".py": "raise RuntimeError(__name__)" for name in names}).ready()
    assert guest.value() == [1, "0123456789", 1.0]
    assert guest.error("boom")["errorMessage"] == "boom"
    assert "logged" in guest.log()
    own = py(files={"logging.py": "def handler(e, c): return 'own'"}, handler="logging.handler")
    assert own.init_error()["errorMessage"] == "Handler 'handler' missing on module 'logging'"


@pytest.mark.parametrize(
    "action, status",
    [
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit()", 0),
        ("import os; os._exit(5)", 5),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_ends_of_the_process(py, action, status):
    guest = py("def handler(event, context):\n    print('last words', end='')\n    " + action).ready()
    assert guest.invoke() is None
    assert guest.exit_status() == status
    assert guest.log().startswith("last words")


@pytest.mark.parametrize("length, fits", [(RESPONSE_BYTES_MAX - 2, True), (RESPONSE_BYTES_MAX - 1, False)])
def test_large_answers(py, length, fits):
    guest = py("def handler(event, context): return 'x' * event").ready()
    if fits:
        assert len(guest.value(length)) == length
    else:
        assert guest.error(length) == {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        }
    assert guest.value(1) == "x"


def test_error_type_in_the_header_is_short(py):
    guest = py("def handler(event, context): raise type('E' * 100_000, (Exception,), {})()").ready()
    kind, header, error = guest.invoke()
    assert (kind, header["type"], len(error["errorType"])) == (ERROR, "E" * 256, 100_000)


def test_large_errors_and_events(py):
    source = """
def handler(event, context):
    if isinstance(event, int): raise ValueError('x' * event)
    return len(event)
"""
    guest = py(source).ready()
    assert guest.error(7_000_000)["errorType"] == "Function.ResponseSizeTooLarge"
    assert guest.value("x" * 6_000_000) == 6_000_000


@pytest.mark.parametrize(
    "action",
    [
        "os.close(1)",
        "os.close(1); os.close(2)",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = sys.stderr = None",
        "sys.stdout = object()",
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
    ],
)
def test_closed_output(py, action):
    source = """
import logging, os, sys
def handler(event, context):
    if event: raise ValueError()
    logging.error("before")
    %s
    logging.error("after")
    return "alive"
"""
    guest = py(source % action).ready()
    assert guest.value() == "alive"
    assert guest.error(1)["errorType"] == "ValueError"


def test_children_do_not_get_the_channel(py):
    source = """
import os, subprocess
def handler(event, context):
    run = subprocess.run(["/bin/sh", "-c", "ls -l /proc/self/fd"], close_fds=False, stdout=subprocess.PIPE, text=True)
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            os.fstat(3)
            os.write(theirs, b"open")
        except OSError:
            os.write(theirs, b"closed")
        os._exit(0)
    os.wait()
    return ["socket" in run.stdout, os.read(ours, 10).decode()]
"""
    assert py(source).ready().value() == [False, "closed"]


def test_forked_child_that_returns(py):
    source = """
import os
def handler(event, context):
    pid = os.fork()
    if pid: os.waitpid(pid, 0)
    return "child" if pid == 0 else "parent"
"""
    guest = py(source).ready()
    for _ in range(3):
        assert guest.value() == "parent"


def test_background_threads_do_not_hold_up_the_end(py):
    source = """
import threading
threading.Thread(target=threading.Event().wait).start()
def handler(event, context): return 1
"""
    guest = py(source).ready()
    assert guest.value() == 1
    assert guest.close() == 0
    failing = py(source + "\nraise ValueError('at import')")
    assert failing.init_error()["errorType"] == "ValueError"


def _frame(kind, header, body=b"", total=None, header_bytes=None):
    total = 5 + len(header) + len(body) if total is None else total
    header_bytes = len(header) if header_bytes is None else header_bytes
    return struct.pack("<IBI", total, kind, header_bytes) + header + body


GOOD_HEADER = b'{"id": "1", "deadline_ms": 1}'
MALFORMED = {
    "kind": _frame(9, GOOD_HEADER, b"{}"),
    "short": _frame(INVOKE, b"", total=4),
    "too long": _frame(INVOKE, b"", total=2**32 - 1),
    "header past the end": _frame(INVOKE, b"{}", header_bytes=100),
    "header not JSON": _frame(INVOKE, b"{"),
    "header not UTF-8": _frame(INVOKE, b"\xff\xfe"),
    "header not an object": _frame(INVOKE, b"[]"),
    "header without id": _frame(INVOKE, b'{"deadline_ms": 1}', b"{}"),
    "header without deadline": _frame(INVOKE, b'{"id": "1"}', b"{}"),
    "two frames": _frame(INVOKE, GOOD_HEADER, b"{}") * 2,
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames(py, frame):
    guest = py("def handler(event, context): return 1").ready()
    guest.send_bytes(frame)
    assert guest.exit_status() == 1
    assert guest.log().startswith("tidegate: the channel to the platform failed")


def test_frames_in_pieces(py):
    guest = py("def handler(event, context): return event").ready()
    frame = _frame(INVOKE, GOOD_HEADER, json.dumps("x" * 300).encode())
    for start in range(0, len(frame), 3):
        guest.send_bytes(frame[start : start + 3])
    assert guest.answer() == (RESPONSE, {"id": "1"}, "x" * 300)


def test_end_inside_a_frame(py):
    guest = py("def handler(event, context): return event").ready()
    guest.send_bytes(_frame(INVOKE, GOOD_HEADER, b"{}", total=1000))
    assert guest.close() == 1


def test_search_path(py, task_root):
    source = """
import sys
path = list(sys.path)
heavy = [name for name in ("json", "logging", "traceback") if name in sys.modules]
def handler(event, context): return [path, "site" in sys.modules, heavy]
"""
    path, has_site, heavy = py(source).ready().value()
    assert path[0] == str(task_root)
    assert re.fullmatch(r"/opt/python/lib/python3\.\d+/site-packages", path[1]) and path[2] == "/opt/python"
    assert has_site and not any(folder.endswith("runtimes/python") for folder in path)
    assert heavy == [], "a function that does not use these must not pay for them"
