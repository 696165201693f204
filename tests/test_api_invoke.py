"""Invoke: types, payloads, headers and refusals. What happens inside a function is in `test_runtimes.py`."""

import base64
import json
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from support import arn_of, kernel
from support.clients import Api, free_name, send
from support.packages import zip_fixture

UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def test_answer(api, probe):
    answer = api.invoke(probe, {"text": "ü 😀", "number": 1.5, "list": [None, True]})
    assert answer.status == 200 and answer.error is None and answer.version == "$LATEST"
    assert answer.value == {"text": "ü 😀", "number": 1.5, "list": [None, True]}
    assert UUID.match(answer.headers["x-amzn-requestid"])
    assert answer.headers["x-amzn-trace-id"].startswith(("root=1-", "Root=1-"))
    assert "x-amz-log-result" not in answer.headers


def test_payloads_that_are_no_objects(api, probe):
    for payload in (b"null", b"true", b"17", b'"text"', b"[1,2]", b"  {} \n", b'{"a":"' + b"x" * 100_000 + b'"}'):
        assert api.invoke(probe, payload=payload).ok() == json.loads(payload)


def test_empty_payload_is_an_empty_object(api, probe):
    assert api.invoke(probe).ok() == {}
    assert api.invoke(probe, payload=b"").ok() == {}


def test_nothing_returned_is_null(api, make):
    assert api.invoke(make(Handler="probe.nothing")).body == b"null"


def test_invalid_json(api, probe):
    start = "Could not parse request body into json: Could not parse payload into json: "
    for payload in (b"{", b"\x99", b'{"a":}', b"nul", b"{} {}", b"'text'", b'"\x87"', b"[" * 100_000):
        refusal = api.refused("invoke", FunctionName=probe, Payload=payload)
        api.check(refusal, 400, "InvalidRequestContentException", re.compile("^" + re.escape(start)))


def test_recorded_text_of_invalid_json(api, probe):
    refusal = api.refused("invoke", FunctionName=probe, Payload=b"\x99")
    text = (
        "Could not parse request body into json: Could not parse payload into json: Unexpected character ((CTRL-CHAR, "
        "code 153)): expected a valid value (JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
    )
    api.check(refusal, 400, "InvalidRequestContentException", re.compile("^" + re.escape(text)))


def test_dry_run(api, make):
    name = make(Handler="probe.counter")
    answer = api.invoke(name, {}, InvocationType="DryRun")
    assert (answer.status, answer.body) == (204, b"")
    assert api.invoke(name, {}).ok()["count"] == 1
    refusal = api.refused("invoke", FunctionName="doesnotexist", InvocationType="DryRun")
    api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of('doesnotexist')}:$LATEST")


def test_unknown_function_version_alias(api, probe):
    missing = free_name()
    refusal = api.refused("invoke", FunctionName=missing)
    api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(missing)}:$LATEST")
    refusal = api.refused("invoke", FunctionName=missing, Qualifier="1")
    api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(missing)}:1")
    refusal = api.refused("invoke", FunctionName=probe, Qualifier="42")
    api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(probe)}:42")
    refusal = api.refused("invoke", FunctionName=probe, Qualifier="noalias")
    api.check(refusal, 404, "ResourceNotFoundException", f"Cannot find alias arn: {arn_of(probe)}:noalias")


def test_payload_too_large(api, probe):
    payload = b'"' + b"x" * 6_291_455 + b'"'
    refusal = api.refused("invoke", FunctionName=probe, Payload=payload)
    text = "Request must be smaller than 6291456 bytes for the InvokeFunction operation"
    api.check(refusal, 413, "RequestTooLargeException", text)


def test_payload_at_the_limit(api, make):
    name = make(Handler="probe.nothing", MemorySize=512)
    assert api.invoke(name, payload=b'"' + b"x" * 6_291_454 + b'"').ok() is None


def test_client_context(api, make):
    name = make(Handler="probe.context_of")
    context = base64.b64encode(json.dumps({"custom": {"a": "b"}, "client": {}, "env": {}}).encode()).decode()
    assert api.invoke(name, {}, ClientContext=context).ok()["custom"] == {"a": "b"}
    for bad in ("!!!", base64.b64encode(b"not json").decode(), base64.b64encode(b'"' + b"x" * 4000 + b'"').decode()):
        refusal = api.refused("invoke", FunctionName=name, ClientContext=bad)
        assert refusal.status == 400, refusal


def test_unknown_invocation_type_and_log_type(api, probe):
    for parameters in ({"InvocationType": "Sometimes"}, {"LogType": "All"}):
        refusal = api.refused("invoke", FunctionName=probe, **parameters)
        assert (refusal.status, refusal.code) == (400, "ValidationException"), refusal


def test_trace_id_is_passed_on(api, make):
    name = make(Handler="probe.traced")
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    raw = api.send("POST", f"/2015-03-31/functions/{name}/invocations", b"{}", {"X-Amzn-Trace-Id": trace})
    assert raw.status == 200
    assert raw.json()["trace"].startswith("Root=1-5759e988-bd862e3fe1be46a994272793")


def test_every_answer_has_a_request_id(api, server):
    for method, path in (("GET", "/2015-03-31/functions"), ("GET", "/nowhere"), ("POST", "/2015-03-31/functions")):
        raw = send(server.endpoint, method, path)
        ids = [value for name, value in raw.headers.items() if name.lower() == "x-amzn-requestid"]
        assert len(ids) == 1 and UUID.match(ids[0]), raw


def test_an_abandoned_invocation_still_counts(server_factory):
    """A caller who hangs up gives no room to others before the invocation has ended, as on Lambda."""
    server = server_factory(config={"limits": {"concurrent_executions": 1}})
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.overlapping")
    other = api.create(zip_fixture("probe.py"))
    seconds = f"4.{uuid.uuid4().int % 10**9:09}"
    api.leave(name, {"argument": seconds}, lambda: kernel.pids_with_argument(seconds))
    refused = 0
    while (status := api.try_invoke(other)) == 429 and refused < 1000:
        refused += 1
        time.sleep(0.05)
    assert not kernel.pids_with_argument(seconds), f"taken with {status} while the abandoned invocation ran"
    assert status == 200 and refused >= 3, (status, refused)


def test_account_concurrency_throttles(server_factory):
    """With two concurrent executions allowed, the third caller at the same time gets 429 with its reason."""
    server = server_factory(config={"limits": {"concurrent_executions": 2}})
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.slow")
    path = f"/2015-03-31/functions/{name}/invocations"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.send("POST", path, b'{"seconds": 1.5}'), range(8)))
    refused = [raw for raw in answers if raw.status != 200]
    assert len(answers) - len(refused) == 2 and refused
    for raw in refused:
        headers = {key.lower(): value for key, value in raw.headers.items()}
        assert raw.status == 429 and headers["x-amzn-errortype"].startswith("TooManyRequestsException")
        body = raw.json()
        assert body["message"] == "Rate Exceeded." and body["Reason"] == "ConcurrentInvocationLimitExceeded"
        assert body["Type"] == "User" and int(headers["retry-after"]) >= 0
