"""How much runs at a time: in an instance, of a function, in the account."""

import json
import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import kernel
from support.clients import Api, free_name
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
