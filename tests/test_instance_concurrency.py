"""Several invocations at a time in one instance: answers, logs, limits and ends of each."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.interpreters import present
from support.packages import zip_of

SLOTS = 4

# The invocations meet, then leave in the reverse order of their numbers; each says where it ran.
PYTHON_MEETING = """
import os, threading
place = os.urandom(8).hex()
meeting = threading.Barrier(4)
turn = threading.Condition()
leaving = [3]
def handler(event, context):
    print("came", event)
    meeting.wait(20)
    with turn:
        turn.wait_for(lambda: leaving[0] == event, 20)
        leaving[0] = (event - 1) % 4
        turn.notify_all()
    print("left", event, context.aws_request_id, os.environ["AWS_LAMBDA_MAX_CONCURRENCY"])
    return [event, place]
"""

NODE_MEETING = """
const place = require("crypto").randomUUID();
const came = [];
exports.handler = async (event, context) => {
  console.log('came', event);
  await new Promise((resolve) => {
    came[event] = resolve;
    if (came.filter(Boolean).length === 4) {
      [3, 2, 1, 0].forEach((n, index) => setTimeout(came[n], 20 * index));
      setTimeout(() => { came.length = 0; }, 0);
    }
  });
  console.log('left', event, context.awsRequestId, process.env.AWS_LAMBDA_MAX_CONCURRENCY);
  return [event, place];
};
"""

# A thread for each call of `next`; what each prints comes through the one pipe.
CUSTOM_MEETING = """#!/usr/bin/python3
import http.client, json, os, threading
api = os.environ["AWS_LAMBDA_RUNTIME_API"]
slots = int(os.environ["AWS_LAMBDA_MAX_CONCURRENCY"])
place = os.urandom(8).hex()
meeting = threading.Barrier(slots)
def poll():
    connection = http.client.HTTPConnection(api)
    def call(method, path, body=None):
        connection.request(method, "/2018-06-01/runtime/invocation/" + path, body)
        answer = connection.getresponse()
        return answer.headers.get("lambda-runtime-aws-request-id"), answer.read()
    while True:
        request_id, event = call("GET", "next")
        meeting.wait(20)
        call("POST", request_id + "/response", json.dumps([json.loads(event), place]))
threads = [threading.Thread(target=poll) for _ in range(slots)]
for thread in threads: thread.start()
"""

CUSTOM = {"Runtime": "provided.al2023", "Handler": "x"}


def several(make, api, package, slots=SLOTS, **parameters):
    """A function whose instances run `slots` invocations at a time."""
    name = make(package, **{"Handler": "app.handler", **parameters})
    api.settings(name, {"concurrency": slots})
    api.wait_active(name)
    return name


def python(source):
    return zip_of({"app.py": source})


def at_once(api, name, events):
    """Invokes with all events at the same time; the answers in the order of the events."""
    with ThreadPoolExecutor(len(events)) as pool:
        return list(pool.map(lambda event: api.invoke(name, event, tail=True), events))


def check_meeting(api, name):
    for _ in range(2):
        answers = at_once(api, name, range(SLOTS))
        assert [answer.ok()[0] for answer in answers] == list(range(SLOTS))
        places = {answer.ok()[1] for answer in answers}
        assert len(places) == 1, f"not in one instance: {places}"
    return answers


def check_tail(answer, own):
    """START, the invocation's own lines, END and REPORT, all with its id; nothing of the others."""
    request_id = answer.headers["x-amzn-requestid"]
    start, *lines, end, report = answer.log.splitlines()
    assert start.startswith(f"START RequestId: {request_id} ") and end == f"END RequestId: {request_id}"
    assert report.startswith(f"REPORT RequestId: {request_id}\t")
    assert len(lines) == len(own) and all(line.endswith(text) for line, text in zip(lines, own)), answer.log


class TestTogether:
    def test_python(self, make, api):
        name = several(make, api, python(PYTHON_MEETING))
        for event, answer in enumerate(check_meeting(api, name)):
            request_id = answer.headers["x-amzn-requestid"]
            check_tail(answer, [f"came {event}", f"left {event} {request_id} {SLOTS}"])

    def test_nodejs(self, make, api):
        runtime = next((r for r in present() if r.startswith("nodejs")), None)
        if runtime is None:
            pytest.skip("needs Node.js")
        package = zip_of({"index.js": NODE_MEETING})
        name = several(make, api, package, Runtime=runtime, Handler="index.handler")
        for event, answer in enumerate(check_meeting(api, name)):
            request_id = answer.headers["x-amzn-requestid"]
            check_tail(answer, [f"came {event}", f"left {event} {request_id} {SLOTS}"])

    def test_custom_runtime(self, make, api):
        package = zip_of({"bootstrap": CUSTOM_MEETING}, executable=("bootstrap",))
        name = several(make, api, package, **CUSTOM)
        for answer in check_meeting(api, name):
            check_tail(answer, [])

    def test_a_custom_runtime_that_takes_one_at_a_time_takes_all_in_turn(self, make, api):
        script = CUSTOM_MEETING.replace('int(os.environ["AWS_LAMBDA_MAX_CONCURRENCY"])', "1")
        name = several(make, api, zip_of({"bootstrap": script}, executable=("bootstrap",)), Timeout=20, **CUSTOM)
        answers = at_once(api, name, range(SLOTS))
        assert [answer.ok()[0] for answer in answers] == list(range(SLOTS))


PYTHON_ENDS = """
import os, struct, sys, threading, time
both = threading.Barrier(2)
place = os.urandom(8).hex()
def frame(kind, request_id, body=b"1"):
    header = b'{"id":"%s"}' % request_id.encode()
    os.write(3, struct.pack("<IBI", 5 + len(header) + len(body), kind, len(header)) + header + body)
def handler(event, context):
    if event.get("meet"): both.wait(20)
    exec(event["do"], globals(), {"context": context})
    return place
"""


class TestEnds:
    @pytest.fixture
    def ends(self, make, api):
        return several(make, api, python(PYTHON_ENDS), slots=2, Timeout=2)

    def pair(self, api, name, one, other):
        return at_once(api, name, [{"meet": True, "do": one}, {"meet": True, "do": other}])

    def test_others_finish_behind_a_timeout(self, ends, api):
        """The second begins a second later, so that it has time left when the first has not."""
        first = api.invoke(ends, {"do": "pass"}).ok()
        with ThreadPoolExecutor(2) as pool:
            slow = pool.submit(api.invoke, ends, {"do": "time.sleep(60)"})
            early = pool.submit(api.invoke, ends, {"do": "time.sleep(1)"})
            assert early.result().ok() == first
            late = pool.submit(api.invoke, ends, {"do": "time.sleep(1.6)"})
            assert slow.result().failed()["errorType"] == "Sandbox.Timedout"
            assert late.result().ok() == first
        assert api.invoke(ends, {"do": "pass"}).ok() != first

    def test_an_exit_ends_all(self, ends, api):
        answers = self.pair(api, ends, "sys.exit(3)", "time.sleep(60)")
        for answer in answers:
            assert answer.failed()["errorType"] == "Runtime.ExitError"
            assert answer.failed()["errorMessage"].endswith("exit status 3")
        assert isinstance(api.invoke(ends, {"do": "pass"}).ok(), str)

    @pytest.mark.parametrize(
        "nonsense",
        [
            "frame(3, 'never sent')",
            "frame(3, context.aws_request_id); frame(3, context.aws_request_id)",
            "frame(2, '')",
            "frame(9, context.aws_request_id)",
            "os.write(3, b'\\xff' * 64)",
        ],
        ids=["unknown id", "twice", "ready again", "unknown kind", "garbage"],
    )
    def test_nonsense_ends_the_instance_and_no_other(self, ends, api, nonsense):
        hostile, other = self.pair(api, ends, nonsense, "time.sleep(60)")
        assert other.failed()["errorType"] in ("Runtime.ProtocolError", "Runtime.ExitError")
        assert hostile.status == 200
        assert isinstance(api.invoke(ends, {"do": "pass"}).ok(), str)

    def test_lines_of_unknown_invocations_are_only_logged(self, ends, api):
        first = api.invoke(ends, {"do": "frame(7, 'never sent', b'of nobody\\n' * 3)"}, tail=True)
        check_tail(first, [])
        assert api.invoke(ends, {"do": "pass"}).ok() == first.ok()
        assert api.logs(ends).count("of nobody") == 3
