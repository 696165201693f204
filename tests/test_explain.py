"""Why an invocation took as long as it did, or was refused: `GET /tidegate/v1/explain/{request_id}`, `tidegate explain`."""

import json
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.clients import Api, send
from support.packages import zip_fixture
from support.polling import wait_until


def explain(api, request_id: str) -> dict:
    """What the server tells of an invocation."""
    raw = api.send("GET", f"/tidegate/v1/explain/{request_id}")
    assert raw.status == 200, raw
    return raw.json()


def invoke(api, name: str, event=1) -> tuple:
    """The status of an invocation and its id."""
    raw = api.send("POST", f"/2015-03-31/functions/{name}/invocations", json.dumps(event).encode())
    headers = {key.lower(): value for key, value in raw.headers.items()}
    return raw.status, headers["x-amzn-requestid"]


def steps(told: dict) -> list:
    return [step["name"] for step in told["steps"]]


def metric(api, start: str) -> float:
    """The sum of the metrics whose lines start so."""
    text = send(api.endpoint, "GET", "/metrics").body.decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))


def test_a_cold_start_and_a_warm_one(make, api):
    name = make()
    counted = 'tidegate_worker_cold_starts_total{reason="the version had no instance"}'
    before = metric(api, counted)
    _, first = invoke(api, name)
    told = explain(api, first)
    assert (told["request_id"], told["function"], told["version"]) == (first, name, "$LATEST")
    assert told["end"] == "success" and "reason" not in told and "throttle" not in told
    assert told["cold_start"]["reason"] == "the version had no instance"
    assert told["cold_start"]["init_us"] > 0 and told["cold_start"]["sandbox_us"] > 0
    assert told["cold_start"]["evicted"] == 0
    assert steps(told) == ["route", "admit", "slot", "invoke", "answer"]
    assert told["steps"][2]["note"] == "waited for a start" and told["steps"][2]["us"] > 0
    assert metric(api, counted) == before + 1
    _, second = invoke(api, name)
    told = explain(api, second)
    assert told["end"] == "success" and "cold_start" not in told
    assert told["instance"] == explain(api, first)["instance"]
    assert "note" not in told["steps"][2]


def test_a_throttle(make, api):
    name = make()
    api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    status, request_id = invoke(api, name)
    assert status == 429
    told = explain(api, request_id)
    assert (told["end"], told["throttle"]) == ("throttled", "reserved")
    assert told["reason"] == "the function's reserved concurrency is used up"
    assert steps(told) == ["route", "admit"] and "instance" not in told


def test_a_wait_for_concurrency(make, api):
    name = make()
    api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    api.settings(name, {"queue_ms": 30_000})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(invoke, api, name)
        wait_until(lambda: metric(api, "tidegate_router_queued ") == 1, "it waits", 20)
        api.client.delete_function_concurrency(FunctionName=name)
        status, request_id = waiting.result()
    assert status == 200
    told = explain(api, request_id)
    assert steps(told) == ["route", "admit", "queue", "slot", "invoke", "answer"]
    assert told["steps"][2]["note"] == "concurrency was used up" and told["steps"][2]["us"] > 0
    log = wait_until(lambda: [line for line in api.logs(name) if line.startswith("REPORT")], "the log is there", 20)
    assert "\tThrottle Wait: " in log[0]


@pytest.mark.parametrize(
    "handler, event, reason",
    [
        ("probe.raising", {"text": "no"}, "the function raised an error"),
        ("probe.leave", {"code": 3}, "the function's process ended"),
        ("probe.slow", {"seconds": 30}, "the function's time was over"),
    ],
)
def test_function_errors(make, api, handler, event, reason):
    name = make(Handler=handler, Timeout=1)
    status, request_id = invoke(api, name, event)
    told = explain(api, request_id)
    assert (status, told["end"], told["reason"]) == (200, "function_error", reason)


def test_an_eviction(server_factory):
    """With room for one instance, the second function's start costs the first one its idle instance."""
    server = server_factory(config={"limits": {"instances": 1}})
    api = Api(server.endpoint, server.credentials())
    first, second = (api.create(zip_fixture("probe.py")) for _ in range(2))
    assert invoke(api, first)[0] == 200
    status, request_id = invoke(api, second)
    assert status == 200
    assert explain(api, request_id)["cold_start"]["evicted"] == 1
    assert metric(api, 'tidegate_worker_stops_total{reason="its room was needed elsewhere"}') == 1


def test_nothing_is_known(api):
    refused = api.refused_raw("GET", f"/tidegate/v1/explain/{uuid.uuid4()}")
    api.check(refused, 404, "ResourceNotFoundException")


def test_the_command(make, api, server, tmp_path):
    name = make()
    _, request_id = invoke(api, name)

    def run(*arguments):
        environment = {**server.environment(), **server.credentials(), "HOME": str(tmp_path)}
        command = [server.program, "explain", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)

    text = run(request_id)
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith(f"{request_id} of {name} version $LATEST ran with success\n")
    assert "cold start: the version had no instance; sandbox " in text.stdout
    assert json.loads(run(request_id, "--output", "json").stdout) == explain(api, request_id)
    assert run("unheard-of").returncode == 3
