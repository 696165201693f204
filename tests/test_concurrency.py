"""How much runs at a time: in an instance, of a function, in the account."""

import json
import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import kernel
from support.clients import Api, free_name, send
from support.packages import zip_fixture
from support.polling import wait_until

RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
ACCOUNT = "ConcurrentInvocationLimitExceeded"


class TestPerInstance:
    """Tidegate's own setting `concurrency`: invocations that one instance runs at a time."""

    def test_is_one_until_set(self, make, api):
        name = make()
        assert api.settings(name)["concurrency"] == 1
        api.settings(name, {"concurrency": 1_000})
        api.wait_active(name)
        assert api.settings(name)["concurrency"] == 1_000
        api.settings(name, {"network": "nat"})
        assert api.settings(name)["concurrency"] == 1_000, "what is not named stays"

    @pytest.mark.parametrize("wanted", [0, 1_001, 2**32 - 1])
    def test_bounds(self, probe, api, wanted):
        refused = api.refuse_settings(probe, {"concurrency": wanted})
        api.check(refused, 400, "InvalidParameterValueException", f"concurrency must be from 1 to 1000, not {wanted}.")

    @pytest.mark.parametrize("wanted", [-1, 1.5, "8", True])
    def test_is_a_whole_number(self, probe, api, wanted):
        assert api.refuse_settings(probe, {"concurrency": wanted}).status == 400

    def test_not_for_runtimes_that_cannot(self, make, api):
        name = make(Runtime="java21", wait=False)
        refused = api.refuse_settings(name, {"concurrency": 2})
        api.check(
            refused, 400, "InvalidParameterValueException", "Instances of java21 run one invocation at a time."
        )


def invocations(name: str) -> str:
    return f"/2015-03-31/functions/{name}/invocations"


def throttled(raw, reason: str) -> None:
    """All that the API says of a throttle."""
    headers = {key.lower(): value for key, value in raw.headers.items()}
    assert raw.status == 429 and headers["x-amzn-errortype"] == "TooManyRequestsException", raw
    assert raw.json() == {"Reason": reason, "Type": "User", "message": "Rate Exceeded."}
    assert int(headers["retry-after"]) >= 1 and headers["x-amzn-requestid"]


class Sleepers:
    """Invocations of `probe.overlapping` that run until they are released."""

    def __init__(self, api, name: str, count: int):
        self.argument = f"50.{uuid.uuid4().int % 10**9:09}"
        body = json.dumps({"argument": self.argument}).encode()
        self.pool = ThreadPoolExecutor(count)
        self.answers = [self.pool.submit(api.send, "POST", invocations(name), body) for _ in range(count)]
        wait_until(lambda: len(self.pids()) == count, f"{count} invocations run", 30)

    def pids(self) -> list:
        return kernel.pids_with_argument(self.argument)

    def release(self, count: int | None = None) -> None:
        """Ends some of them, or all."""
        for pid in self.pids()[:count]:
            os.kill(pid, signal.SIGTERM)

    def ended(self) -> list:
        """Their statuses, once they have been released."""
        self.release()
        return [answer.result().status for answer in self.answers]


class TestReserved:
    def test_life(self, make, api):
        name = make()
        assert "ReservedConcurrentExecutions" not in api.client.get_function_concurrency(FunctionName=name)
        assert "Concurrency" not in api.client.get_function(FunctionName=name)
        before = api.client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
        put = api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=7)
        assert put["ReservedConcurrentExecutions"] == 7 and put["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert api.client.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == 7
        assert api.client.get_function(FunctionName=name)["Concurrency"] == {"ReservedConcurrentExecutions": 7}
        after = api.client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
        assert before - after == 7
        assert api.invoke(name, 1).ok() == 1
        gone = api.client.delete_function_concurrency(FunctionName=name)
        assert gone["ResponseMetadata"]["HTTPStatusCode"] == 204
        api.client.delete_function_concurrency(FunctionName=name)
        assert "ReservedConcurrentExecutions" not in api.client.get_function_concurrency(FunctionName=name)
        assert api.client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == before

    def test_goes_with_the_function(self, api):
        name = api.create(zip_fixture("probe.py"))
        before = api.client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        api.client.delete_function(FunctionName=name)
        try:
            api.create(zip_fixture("probe.py"), name=name)
            assert "ReservedConcurrentExecutions" not in api.client.get_function_concurrency(FunctionName=name)
            assert api.invoke(name, 1).ok() == 1
            assert api.client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == before
        finally:
            api.delete(name)

    def test_survives_a_restart(self, server_factory):
        server = server_factory()
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"))
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        server.stop()
        server.start()
        api = Api(server.endpoint, server.credentials())
        assert api.client.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == 0
        throttled(api.send("POST", invocations(name), b"1"), RESERVED)

    def test_refusals(self, probe, api):
        for operation in ("put_function_concurrency", "get_function_concurrency", "delete_function_concurrency"):
            more = {"ReservedConcurrentExecutions": 1} if operation.startswith("put") else {}
            api.check(
                api.refused(operation, FunctionName=free_name(), **more), 404, "ResourceNotFoundException"
            )
            api.check(
                api.refused(operation, FunctionName=f"{probe}:1", **more),
                400,
                "InvalidParameterValueException",
                "This operation is permitted on Lambda functions only. Aliases and versions do not support this "
                "operation. Please specify either a function name or an unqualified function ARN.",
            )
        less = "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution"
        refused = api.refused("put_function_concurrency", FunctionName=probe, ReservedConcurrentExecutions=901)
        api.check(
            refused, 400, "InvalidParameterValueException", f"{less} below its minimum value of [100].", kind=None
        )
        assert refused.kind is None
        refused = api.refused("put_function_concurrency", FunctionName=probe, ReservedConcurrentExecutions=-1)
        api.check(
            refused,
            400,
            "ValidationException",
            "1 validation error detected: Value '-1' at 'reservedConcurrentExecutions' failed to satisfy constraint: "
            "Member must have value greater than or equal to 0",
        )

    def test_zero_throttles_everything(self, make, api):
        name = make()
        assert api.invoke(name, 1).ok() == 1
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        throttled(api.send("POST", invocations(name), b"1"), RESERVED)
        refused = api.refused("invoke", FunctionName=name, Payload=b"1")
        api.check(refused, 429, "TooManyRequestsException", "Rate Exceeded.")
        api.client.delete_function_concurrency(FunctionName=name)
        assert api.invoke(name, 2).ok() == 2

    def test_caps_the_function_and_what_runs_stays_counted(self, make, api):
        name, other = make(Handler="probe.overlapping"), make()
        running = Sleepers(api, name, 2)
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=2)
        throttled(api.send("POST", invocations(name), b'{"argument": "0"}'), RESERVED)
        assert api.invoke(other, 1).ok() == 1, "others are not held up"
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=3)
        assert api.invoke(name, {"argument": "0"}).status == 200
        assert running.ended() == [200, 200]

    def test_is_out_of_reach_for_others(self, server_factory):
        """Of three, two are reserved: all others have one, whether the reservation is used or not."""
        server = server_factory(config={"limits": {"concurrent_executions": 3, "unreserved_concurrency_min": 1}})
        api = Api(server.endpoint, server.credentials())
        own, others = api.create(zip_fixture("probe.py")), api.create(zip_fixture("probe.py"), Handler="probe.overlapping")
        api.client.put_function_concurrency(FunctionName=own, ReservedConcurrentExecutions=2)
        api.check(
            api.refused("put_function_concurrency", FunctionName=others, ReservedConcurrentExecutions=1),
            400,
            "InvalidParameterValueException",
            kind=None,
        )
        running = Sleepers(api, others, 1)
        throttled(api.send("POST", invocations(others), b'{"argument": "0"}'), ACCOUNT)
        assert api.invoke(own, 1).ok() == 1
        assert running.ended() == [200]


def metric(api, name: str) -> float:
    """A metric's value; `name` includes its labels."""
    text = send(api.endpoint, "GET", "/metrics").body.decode()
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def queued(api) -> float:
    """How many invocations wait for concurrency."""
    return metric(api, "tidegate_router_queued")


class TestQueue:
    """Tidegate's own settings `queue_ms` and `queue_length`: waiting instead of a 429."""

    def test_settings(self, make, api):
        name = make()
        assert api.settings(name)["queue_ms"] == 0
        found = api.settings(name, {"queue_ms": 1_500})
        assert (found["queue_ms"], found["queue_length"]) == (1_500, 100)
        found = api.settings(name, {"queue_length": 5})
        assert (found["queue_ms"], found["queue_length"]) == (1_500, 5)
        found = api.settings(name, {"queue_ms": 0})
        assert found["queue_ms"] == 0 and "queue_length" not in found
        for value in ({"queue_ms": 60_001}, {"queue_ms": 1, "queue_length": 1_001}, {"queue_length": 5}):
            api.check(api.refuse_settings(name, value), 400, "InvalidParameterValueException")

    def test_who_waits_gets_through(self, make, api):
        name = make(Handler="probe.overlapping")
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
        api.settings(name, {"queue_ms": 30_000, "queue_length": 2})
        running = Sleepers(api, name, 1)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(api.send, "POST", invocations(name), b'{"argument": "0"}') for _ in range(2)]
            wait_until(lambda: queued(api) == 2, "both wait", 20)
            throttled(api.send("POST", invocations(name), b'{"argument": "0"}'), RESERVED)
            assert not any(one.done() for one in waiting)
            assert running.ended() == [200]
            assert [one.result().status for one in waiting] == [200, 200]

    def test_a_greater_share_serves_who_waits(self, make, api):
        name = make()
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        api.settings(name, {"queue_ms": 30_000, "queue_length": 1})
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(api.send, "POST", invocations(name), b"1")
            wait_until(lambda: queued(api) == 1, "it waits", 20)
            throttled(api.send("POST", invocations(name), b"1"), RESERVED)
            api.client.delete_function_concurrency(FunctionName=name)
            assert waiting.result().status == 200

    def test_time_runs_out(self, make, api):
        name = make()
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        api.settings(name, {"queue_ms": 50})
        counted = 'tidegate_router_throttles_total{cause="queued_too_long"}'
        before = metric(api, counted)
        throttled(api.send("POST", invocations(name), b"1"), RESERVED)
        assert metric(api, counted) == before + 1

    def test_who_leaves_gives_up_its_place(self, make, api):
        name = make()
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        api.settings(name, {"queue_ms": 30_000, "queue_length": 1})
        api.leave(name, 1, lambda: queued(api) == 1)
        wait_until(lambda: queued(api) == 0, "nobody waits", 20)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(api.send, "POST", invocations(name), b"1")
            wait_until(lambda: queued(api) == 1, "another waits in its place", 20)
            api.client.delete_function_concurrency(FunctionName=name)
            assert waiting.result().status == 200

    def test_a_drain_refuses_who_waits(self, server_factory):
        server = server_factory()
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"))
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        api.settings(name, {"queue_ms": 60_000, "queue_length": 1})
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(api.send, "POST", invocations(name), b"1")
            wait_until(lambda: queued(api) == 1, "it waits", 20)
            server.terminate()
            assert waiting.result().status == 503
        assert server.wait() == 0
