"""Provisioned concurrency through boto3: states, refusals with the texts of `lambda-errors.md`, spill-over, aliases."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import arn_of
from support.clients import Api
from support.packages import zip_of
from support.polling import wait_until

# Each instance has a marker of its own and knows how it was initialised; `broken` fails its Init by order.
CODE = """
import os, time
MARKER = os.urandom(8).hex()
BORN = time.time()
if os.environ.get('BROKEN'):
    raise RuntimeError('broken by order')
def handler(event, context):
    time.sleep((event or {}).get('seconds', 0))
    return {'marker': MARKER, 'version': context.function_version, 'age': time.time() - BORN,
            'type': os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']}
"""
PACKAGE = zip_of({"app.py": CODE})


@pytest.fixture
def name(api):
    """A function of versions 1 and 2."""
    one = api.create(PACKAGE, Handler="app.handler")
    api.client.publish_version(FunctionName=one)
    api.update(one, Description="two")
    assert api.client.publish_version(FunctionName=one)["Version"] == "2"
    yield one
    api.delete(one)


def put(api, name, qualifier, count):
    """Asks for provisioned concurrency."""
    return api.client.put_provisioned_concurrency_config(
        FunctionName=name, Qualifier=qualifier, ProvisionedConcurrentExecutions=count
    )


def get(api, name, qualifier):
    """How it stands."""
    return api.client.get_provisioned_concurrency_config(FunctionName=name, Qualifier=qualifier)


def ready(api, name, qualifier, seconds=60):
    """Waits until all of it is there."""

    def settled():
        found = get(api, name, qualifier)
        assert found["Status"] != "FAILED", found
        return found if found["Status"] == "READY" else None

    return wait_until(settled, f"{name}:{qualifier} is READY", seconds)


def burst(api, name, qualifier, count, seconds=1):
    """Invocations that overlap."""
    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(api.invoke, name, {"seconds": seconds}, Qualifier=qualifier) for _ in range(count)]
        return [call.result().ok() for call in calls]


class TestStates:
    def test_in_progress_then_ready(self, api, name):
        asked = put(api, name, "1", 2)
        assert asked["ResponseMetadata"]["HTTPStatusCode"] == 202
        assert (asked["Status"], asked["RequestedProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 2)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000", asked["LastModified"])
        found = ready(api, name, "1")
        assert found["AllocatedProvisionedConcurrentExecutions"] == 2
        assert found["AvailableProvisionedConcurrentExecutions"] == 2
        assert "StatusReason" not in found and found["LastModified"] == asked["LastModified"]

    def test_no_cold_start(self, api, name):
        """The instance was there before: it is older than the invocation."""
        put(api, name, "1", 2)
        ready(api, name, "1")
        time.sleep(1)
        answer = api.invoke(name, Qualifier="1")
        assert answer.ok()["age"] > 0.9, answer.value
        assert answer.value["type"] == "provisioned-concurrency"
        assert api.invoke(name, Qualifier="2").ok()["type"] == "on-demand"

    def test_spill_over(self, api, name):
        """More invocations than provisioned: the rest runs on demand, none is refused."""
        put(api, name, "1", 2)
        ready(api, name, "1")
        answers = burst(api, name, "1", 5)
        types = [answer["type"] for answer in answers]
        assert len({answer["marker"] for answer in answers}) == 5
        assert (types.count("provisioned-concurrency"), types.count("on-demand")) == (2, 3)

    def test_a_failing_init_is_said(self, api, name):
        api.update(name, Environment={"Variables": {"BROKEN": "1"}})
        assert api.client.publish_version(FunctionName=name)["Version"] == "3"
        put(api, name, "3", 1)
        found = wait_until(lambda: (f := get(api, name, "3"))["Status"] == "FAILED" and f, "FAILED", 60)
        assert found["StatusReason"] == "FUNCTION_ERROR_INIT_FAILURE"
        assert found["AllocatedProvisionedConcurrentExecutions"] == 0

    def test_more_and_less_and_none(self, api, name):
        put(api, name, "1", 1)
        ready(api, name, "1")
        put(api, name, "1", 3)
        assert ready(api, name, "1")["AllocatedProvisionedConcurrentExecutions"] == 3
        put(api, name, "1", 1)
        assert ready(api, name, "1")["AllocatedProvisionedConcurrentExecutions"] == 1
        answer = api.client.delete_provisioned_concurrency_config(FunctionName=name, Qualifier="1")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
        api.client.delete_provisioned_concurrency_config(FunctionName=name, Qualifier="1")
        refusal = api.refused("get_provisioned_concurrency_config", FunctionName=name, Qualifier="1")
        text = "No Provisioned Concurrency Config found for this function"
        api.check(refusal, 404, "ProvisionedConcurrencyConfigNotFoundException", text)

    def test_list(self, api, name):
        put(api, name, "1", 1)
        api.client.create_alias(FunctionName=name, Name="live", FunctionVersion="2")
        put(api, name, "live", 2)
        listed = api.client.list_provisioned_concurrency_configs(FunctionName=name)["ProvisionedConcurrencyConfigs"]
        assert [(one["FunctionArn"], one["RequestedProvisionedConcurrentExecutions"]) for one in listed] == [
            (arn_of(name, "1"), 1),
            (arn_of(name, "live"), 2),
        ]
        paged = api.client.get_paginator("list_provisioned_concurrency_configs").paginate(
            FunctionName=name, PaginationConfig={"PageSize": 1}
        )
        assert [len(page["ProvisionedConcurrencyConfigs"]) for page in paged] == [1, 1]
        refusal = api.refused("list_provisioned_concurrency_configs", FunctionName="doesnotexist")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of('doesnotexist')}")


class TestRefusals:
    def check(self, api, status, code, text, count=1, kind="User", **parameters):
        refusal = api.refused(
            "put_provisioned_concurrency_config", ProvisionedConcurrentExecutions=count, **parameters
        )
        api.check(refusal, status, code, text, kind=kind)

    def test_latest(self, api, name):
        self.check(
            api,
            400,
            "InvalidParameterValueException",
            "Provisioned Concurrency Configs cannot be applied to unpublished function versions.",
            FunctionName=name,
            Qualifier="$LATEST",
        )
        for operation in ("get_provisioned_concurrency_config", "delete_provisioned_concurrency_config"):
            refusal = api.refused(operation, FunctionName=name, Qualifier="$LATEST")
            text = "The function resource provided must be an alias or a published version."
            api.check(refusal, 400, "InvalidParameterValueException", text)

    def test_zero(self, api, name):
        text = (
            "1 validation error detected: Value '0' at 'provisionedConcurrentExecutions' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1"
        )
        self.check(api, 400, "ValidationException", text, count=0, kind=None, FunctionName=name, Qualifier="1")

    def test_what_is_missing(self, api, name):
        for function, qualifier, text in (
            (name, "10", f"Function not found: {arn_of(name, '10')}"),
            (name, "noalias", f"Cannot find alias arn: {arn_of(name, 'noalias')}"),
            ("doesnotexist", "1", f"Function not found: {arn_of('doesnotexist', '1')}"),
            ("doesnotexist", "noalias", f"Cannot find alias arn: {arn_of('doesnotexist', 'noalias')}"),
        ):
            self.check(api, 404, "ResourceNotFoundException", text, FunctionName=function, Qualifier=qualifier)
            refusal = api.refused("get_provisioned_concurrency_config", FunctionName=function, Qualifier=qualifier)
            api.check(refusal, 404, "ResourceNotFoundException", text)

    def test_alias_and_version(self, api, name):
        api.client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
        put(api, name, "live", 1)
        text = "Version is pointed by a Provisioned Concurrency alias"
        self.check(api, 409, "ResourceConflictException", text, FunctionName=name, Qualifier="1")
        api.client.delete_provisioned_concurrency_config(FunctionName=name, Qualifier="live")
        put(api, name, "1", 1)
        text = "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
        self.check(api, 409, "ResourceConflictException", text, FunctionName=name, Qualifier="live")

    def test_the_account(self, api, name):
        limit = api.client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
        text = f"Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [{limit}]."
        self.check(api, 400, "InvalidParameterValueException", text, count=limit + 1, FunctionName=name, Qualifier="1")
        text = (
            "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its "
            "minimum value of [100]."
        )
        self.check(api, 400, "InvalidParameterValueException", text, count=limit - 99, FunctionName=name, Qualifier="1")
        put(api, name, "1", 2)
        assert api.client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == limit - 2

    def test_reserved(self, api, name):
        api.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=2)
        text = (
            "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
        )
        self.check(api, 400, "InvalidParameterValueException", text, count=3, FunctionName=name, Qualifier="1")
        put(api, name, "1", 2)
        self.check(api, 400, "InvalidParameterValueException", text, count=1, FunctionName=name, Qualifier="2")
        refusal = api.refused("put_function_concurrency", FunctionName=name, ReservedConcurrentExecutions=1)
        text = (
            " ReservedConcurrentExecutions  1 should not be lower than function's total provisioned concurrency [2]."
        )
        api.check(refusal, 400, "InvalidParameterValueException", text, kind=None)


class TestAliases:
    def test_weights_divide_it_and_it_moves_along(self, api, name):
        api.client.create_alias(
            FunctionName=name,
            Name="live",
            FunctionVersion="1",
            RoutingConfig={"AdditionalVersionWeights": {"2": 0.25}},
        )
        put(api, name, "live", 4)
        assert ready(api, name, "live")["AllocatedProvisionedConcurrentExecutions"] == 4
        before = {v: {a["marker"] for a in burst(api, name, v, n)} for v, n in (("1", 3), ("2", 1))}
        types = [a["type"] for v, n in (("1", 3), ("2", 1)) for a in burst(api, name, v, n)]
        assert types == ["provisioned-concurrency"] * 4, before
        api.client.update_alias(FunctionName=name, Name="live", FunctionVersion="2", RoutingConfig={})
        assert ready(api, name, "live")["AllocatedProvisionedConcurrentExecutions"] == 4
        assert [a["type"] for a in burst(api, name, "live", 4)] == ["provisioned-concurrency"] * 4


def test_it_is_there_again_after_a_restart(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    name = api.create(PACKAGE, Handler="app.handler")
    api.client.publish_version(FunctionName=name)
    put(api, name, "1", 2)
    ready(api, name, "1")
    server.kill_tree()
    server.start()
    api = Api(server.endpoint, server.credentials())
    found = ready(api, name, "1")
    assert found["AllocatedProvisionedConcurrentExecutions"] == 2
    assert api.invoke(name, Qualifier="1").ok()["type"] == "provisioned-concurrency"


def test_an_alias_moves_under_load_without_a_failure(api, name):
    """Sticky to provisioned instances or not: while what is provisioned moves along, no invocation fails."""
    api.client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    put(api, name, "live", 2)
    ready(api, name, "live")
    stop, wrong, seen = threading.Event(), [], set()

    def load():
        while not stop.is_set():
            try:
                answer = api.invoke(name, Qualifier="live")
                seen.add((answer.version, answer.ok()["type"]))
            except Exception as error:  # whatever it is, it must not be
                wrong.append(error)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for version in ("2", "1", "2"):
            routing = {"AdditionalVersionWeights": {version: 0.5}}
            api.client.update_alias(FunctionName=name, Name="live", RoutingConfig=routing)
            ready(api, name, "live")
            api.client.update_alias(FunctionName=name, Name="live", FunctionVersion=version, RoutingConfig={})
            ready(api, name, "live")
            time.sleep(0.3)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert wrong == []
    assert {("1", "provisioned-concurrency"), ("2", "provisioned-concurrency")} <= seen
