"""Shims of instances that run several invocations at a time."""

import json
import time

import pytest
from guest import ERROR, RESPONSE

LOG = 7
SEVERAL = {"AWS_LAMBDA_MAX_CONCURRENCY": "3"}


def begin(guest, *ids, event=None):
    for request_id in ids:
        guest.start_invocation(json.dumps(event or {"id": request_id}).encode(), request_id)


def collect(guest, count):
    """Waits for answers: those by id in the order in which they came, and what was logged for each id before."""
    answers, logs = {}, {}
    while len(answers) < count:
        kind, header, body = guest.receive()
        if kind == LOG:
            assert header["id"] not in answers, "a line came after the answer"
            logs[header["id"]] = logs.get(header["id"], "") + body.decode()
        else:
            answers[header["id"]] = kind, json.loads(body)
    return answers, logs


PYTHON_BARRIER = """
import threading
barrier = threading.Barrier(3)
def handler(event, context):
    print("begin", event["id"])
    barrier.wait(10)
    print("open", end="")
    return [event["id"], context.aws_request_id]
"""

PYTHON_ASYNC = """
import asyncio
waiting = []
async def handler(event, context):
    print("begin", event["id"])
    waiting.append(asyncio.get_running_loop().create_future())
    if len(waiting) == 3:
        for future in waiting: future.set_result(None)
    await waiting[int(event["id"]) - 1]
    print("open", end="")
    return [event["id"], context.aws_request_id]
"""

NODE_BARRIER = """
const waiting = [];
exports.handler = async (event, context) => {
  process.stdout.write(`begin ${event.id}\\n`);
  await new Promise((resolve) => { waiting.push(resolve); if (waiting.length === 3) waiting.forEach((r) => r()); });
  process.stdout.write('open');
  return [event.id, context.awsRequestId];
};
"""


def check_together(guest):
    begin(guest.ready(), "1", "2", "3")
    answers, logs = collect(guest, 3)
    assert answers == {i: (RESPONSE, [i, i]) for i in "123"}
    assert logs == {i: "begin %s\nopen" % i for i in "123"}
    assert guest.log() == ""
    assert guest.close() == 0


@pytest.mark.parametrize("source", [PYTHON_BARRIER, PYTHON_ASYNC], ids=["threads", "async"])
def test_python_runs_them_together(py, source):
    check_together(py(source, **SEVERAL))


def test_nodejs_runs_them_together(js):
    check_together(js(NODE_BARRIER, **SEVERAL))


def test_nodejs_may_wait_for_an_invocation_that_is_still_to_come(js):
    source = """
let wake;
exports.handler = (event) => event.id === 'first' ? new Promise((resolve) => { wake = resolve; }) : wake('woken');
"""
    guest = js(source, **SEVERAL).ready()
    begin(guest, "first")
    # The span in which its event loop is empty, not a wait for something.
    time.sleep(0.3)
    begin(guest, "second")
    answers, _ = collect(guest, 1)
    assert answers == {"first": (RESPONSE, "woken")}


def test_python_answers_in_any_order_and_reuses_threads(py):
    source = """
import threading
second = threading.Event()
def handler(event, context):
    if event["id"] == "slow":
        second.wait(10)
    elif event["id"] == "go":
        second.set()
    return threading.active_count()
"""
    guest = py(source, **SEVERAL).ready()
    begin(guest, "slow")
    for n in range(50):
        begin(guest, "fast%d" % n)
        answers, _ = collect(guest, 1)
        # The one that receives, and one for each invocation under way.
        assert answers["fast%d" % n] == (RESPONSE, 3)
    begin(guest, "go")
    answers, _ = collect(guest, 2)
    assert set(answers) == {"go", "slow"}


def test_python_failures_are_logged_with_their_own_invocation(py):
    source = """
import threading
barrier = threading.Barrier(2)
def handler(event, context):
    barrier.wait(10)
    if event["id"] == "bad": raise ValueError("no")
    return 1
"""
    guest = py(source, **SEVERAL).ready()
    begin(guest, "bad", "good")
    answers, logs = collect(guest, 2)
    assert answers["good"] == (RESPONSE, 1)
    assert answers["bad"][0] == ERROR and answers["bad"][1]["requestId"] == "bad"
    assert list(logs) == ["bad"] and logs["bad"].startswith("[ERROR] ValueError: no\nTraceback")


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_python_log_records_carry_their_own_id(py, log_format):
    source = """
import logging, threading
logging.getLogger().setLevel("INFO")
barrier = threading.Barrier(2)
def handler(event, context):
    barrier.wait(10)
    logging.info("of %s", event["id"])
    barrier.wait(10)
"""
    guest = py(source, AWS_LAMBDA_LOG_FORMAT=log_format, **SEVERAL).ready()
    begin(guest, "a", "b")
    _, logs = collect(guest, 2)
    for request_id in "ab":
        if log_format == "JSON":
            line = json.loads(logs[request_id])
            assert (line["requestId"], line["message"]) == (request_id, "of " + request_id)
        else:
            level, _, written_id, message = logs[request_id].split("\t")
            assert (level, written_id, message) == ("[INFO]", request_id, "of %s\n" % request_id)


def test_python_invocations_do_not_share_context_variables(py):
    source = """
import contextvars
seen = contextvars.ContextVar("seen", default=None)
def handler(event, context):
    before = seen.get()
    seen.set(event["id"])
    return before
"""
    guest = py(source, **SEVERAL).ready()
    for request_id in ("1", "2", "3"):
        begin(guest, request_id)
        assert collect(guest, 1)[0] == {request_id: (RESPONSE, None)}


@pytest.mark.parametrize(
    "leave, status", [("sys.exit(7)", 7), ("sys.exit()", 0), ("sys.exit('why')", 1), ("raise KeyboardInterrupt", 130)]
)
@pytest.mark.parametrize("kind", ["", "async "], ids=["threads", "async"])
def test_python_exits_end_the_process(py, leave, status, kind):
    guest = py("import sys\n%sdef handler(event, context):\n    %s\n" % (kind, leave), **SEVERAL).ready()
    begin(guest, "1")
    assert guest.exit_status() == status


def test_a_plain_thread_belongs_to_no_invocation(py):
    source = """
import threading
def handler(event, context):
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
"""
    guest = py(source, **SEVERAL).ready()
    begin(guest, "1")
    assert collect(guest, 1) == ({"1": (RESPONSE, None)}, {})
    assert guest.log() == "from a thread\n"


def check_too_many(guest):
    begin(guest.ready(), "1", "2", "3", "4")
    assert guest.exit_status() == 1
    assert "tidegate: the channel to the platform failed" in guest.log()


def test_python_more_invocations_than_slots_break_the_channel(py):
    check_too_many(py("import time\ndef handler(event, context): time.sleep(60)", **SEVERAL))


def test_nodejs_more_invocations_than_slots_break_the_channel(js):
    check_too_many(js("exports.handler = () => new Promise((r) => setTimeout(r, 60_000));", **SEVERAL))


def test_nodejs_console_lines_carry_their_own_id(js):
    source = """
exports.handler = async (event) => {
  await new Promise((resolve) => setTimeout(resolve, event.id === 'a' ? 30 : 10));
  console.log('of', event.id);
  if (event.id === 'b') throw new Error('no');
};
"""
    guest = js(source, **SEVERAL).ready()
    begin(guest, "a", "b")
    answers, logs = collect(guest, 2)
    assert list(answers) == ["b", "a"] and answers["a"] == (RESPONSE, None) and answers["b"][0] == ERROR
    assert logs["a"].split("\t")[1:] == ["a", "INFO", "of a\n"]
    first, second = logs["b"].splitlines()[:2]
    assert first.split("\t")[1:] == ["b", "INFO", "of b"]
    assert second.split("\t")[1:4] == ["b", "ERROR", "Invoke Error "]


def test_nodejs_callbacks_answer_at_once(js):
    source = """
exports.handler = (event, context, callback) => {
  if (event.id === 'slow') { setTimeout(() => callback(null, 'late'), 300); } else { callback(null, 'soon'); }
};
"""
    guest = js(source, **SEVERAL).ready()
    begin(guest, "slow", "fast")
    answers, _ = collect(guest, 2)
    assert list(answers.items()) == [("fast", (RESPONSE, "soon")), ("slow", (RESPONSE, "late"))]


def test_nodejs_uncaught_exceptions_end_all(js):
    source = """
exports.handler = async (event) => {
  if (event.id === 'bad') { setTimeout(() => { throw new Error('nobody catches this'); }, 10); }
  await new Promise((resolve) => setTimeout(resolve, 60_000));
};
"""
    guest = js(source, **SEVERAL).ready()
    begin(guest, "good", "bad")
    answers, _ = collect(guest, 2)
    assert {kind for kind, _ in answers.values()} == {ERROR}
    assert guest.exit_status() == 129
