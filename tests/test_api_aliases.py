"""Aliases through boto3, with the texts of `lambda-errors.md`; weights by counting; updates under load."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import arn_of
from support.packages import zip_of

CODE = "def handler(event, context):\n    return {'code': %d, 'version': context.function_version, 'arn': context.invoked_function_arn}\n"
STALE = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"


def package(number: int) -> bytes:
    """A package whose handler answers `number`."""
    return zip_of({"app.py": CODE % number})


@pytest.fixture
def name(api):
    """A function of three versions, of which the n-th answers n."""
    one = api.create(package(1), Handler="app.handler")
    for number in (1, 2, 3):
        api.update(one, package(number))
        assert api.client.publish_version(FunctionName=one)["Version"] == str(number)
    yield one
    api.delete(one)


def weights(**versions):
    """A routing configuration: `weights(v2=0.5)`."""
    return {"AdditionalVersionWeights": {version[1:]: weight for version, weight in versions.items()}}


def make(api, name, alias="live", version="1", **parameters):
    """Creates an alias."""
    return api.client.create_alias(FunctionName=name, Name=alias, FunctionVersion=version, **parameters)


class TestCreate:
    def test_the_answer(self, api, name):
        made = make(api, name, Description="what is live", RoutingConfig=weights(v2=0.25))
        assert made.pop("ResponseMetadata")["HTTPStatusCode"] == 201
        assert len(made.pop("RevisionId")) == 36
        assert made == {
            "AliasArn": arn_of(name, "live"),
            "Name": "live",
            "FunctionVersion": "1",
            "Description": "what is live",
            "RoutingConfig": weights(v2=0.25),
        }
        found = api.client.get_alias(FunctionName=name, Name="live")
        assert found["AliasArn"] == arn_of(name, "live") and found["RoutingConfig"] == weights(v2=0.25)

    def test_without_weights(self, api, name):
        made = make(api, name, version="$LATEST", RoutingConfig={"AdditionalVersionWeights": {}})
        assert made["FunctionVersion"] == "$LATEST" and "RoutingConfig" not in made and made["Description"] == ""

    def test_twice(self, api, name):
        make(api, name, "custom")
        refusal = api.refused("create_alias", FunctionName=name, Name="custom", FunctionVersion="2")
        api.check(refusal, 409, "ResourceConflictException", f"Alias already exists: {arn_of(name, 'custom')}")

    def test_missing_versions_and_functions(self, api, name):
        refusal = api.refused("create_alias", FunctionName=name, Name="a", FunctionVersion="42")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(name, '42')}")
        refusal = api.refused(
            "create_alias", FunctionName=name, Name="a", FunctionVersion="1", RoutingConfig=weights(v42=0.5)
        )
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(name, '42')}")
        refusal = api.refused("create_alias", FunctionName="doesnotexist", Name="a", FunctionVersion="$LATEST")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of('doesnotexist')}")

    @pytest.mark.parametrize(
        "version,routing,code,text",
        [
            (
                "1",
                weights(v2=0.3, v3=0.3),
                "InvalidParameterValueException",
                "Number of items in AdditionalVersionWeights cannot be greater than 1",
            ),
            (
                "1",
                weights(v1=0.5),
                "InvalidParameterValueException",
                "Invalid function version 1. Function version 1 is already included in routing configuration.",
            ),
            (
                "$LATEST",
                weights(v1=0.5),
                "InvalidParameterValueException",
                "$LATEST is not supported for an alias pointing to more than 1 version",
            ),
            (
                "1",
                {"AdditionalVersionWeights": {"$LATEST": 0.5}},
                "ValidationException",
                "1 validation error detected: Value '{$LATEST=0.5}' at 'routingConfig.additionalVersionWeights' failed "
                "to satisfy constraint: Map keys must satisfy constraint: [Member must have length less than or equal "
                "to 1024, Member must have length greater than or equal to 1, Member must satisfy regular expression "
                "pattern: [0-9]+]",
            ),
            (
                "1",
                weights(v2=2.0),
                "ValidationException",
                "1 validation error detected: Value '{2=2.0}' at 'routingConfig.additionalVersionWeights' failed to "
                "satisfy constraint: Map value must satisfy constraint: [Member must have value less than or equal to "
                "1.0, Member must have value greater than or equal to 0.0, Member must not be null]",
            ),
            (
                "1",
                weights(v2=-1.0),
                "ValidationException",
                "1 validation error detected: Value '{2=-1.0}' at 'routingConfig.additionalVersionWeights' failed to "
                "satisfy constraint: Map value must satisfy constraint: [Member must have value less than or equal to "
                "1.0, Member must have value greater than or equal to 0.0, Member must not be null]",
            ),
        ],
    )
    def test_weights_that_are_refused(self, api, name, version, routing, code, text):
        refusal = api.refused(
            "create_alias", FunctionName=name, Name="a", FunctionVersion=version, RoutingConfig=routing
        )
        api.check(refusal, 400, code, text, kind="User" if code.startswith("Invalid") else None)
        assert api.client.list_aliases(FunctionName=name)["Aliases"] == []

    def test_versions_of_different_roles_and_queues(self, api, name):
        for change in (
            {"Role": "arn:aws:iam::000000000000:role/other"},
            {"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:000000000000:dead"}},
        ):
            api.update(name, **change)
            version = api.client.publish_version(FunctionName=name)["Version"]
            refusal = api.refused(
                "create_alias",
                FunctionName=name,
                Name="a",
                FunctionVersion="1",
                RoutingConfig={"AdditionalVersionWeights": {version: 0.1}},
            )
            api.check(refusal, 400, "InvalidParameterValueException", re.compile("same (execution role|dead-letter)"))

    def test_names(self, api, name):
        refusal = api.refused("create_alias", FunctionName=name, Name="2024", FunctionVersion="1")
        text = (
            "1 validation error detected: Value '2024' at 'name' failed to satisfy constraint: Member must satisfy "
            "regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"
        )
        api.check(refusal, 400, "ValidationException", text, kind=None)
        refusal = api.refused("create_alias", FunctionName=name, Name="x" * 129, FunctionVersion="1")
        api.check(refusal, 400, "ValidationException", re.compile("length less than or equal to 128"), kind=None)
        make(api, name, "x" * 128)


class TestChange:
    def test_changes_only_what_is_given(self, api, name):
        first = make(api, name, Description="d", RoutingConfig=weights(v2=0.25))
        second = api.client.update_alias(FunctionName=name, Name="live", FunctionVersion="3")
        assert (second["FunctionVersion"], second["Description"]) == ("3", "d")
        assert second["RoutingConfig"] == weights(v2=0.25) and second["RevisionId"] != first["RevisionId"]
        third = api.client.update_alias(FunctionName=name, Name="live", RoutingConfig={})
        assert "RoutingConfig" not in third and third["FunctionVersion"] == "3"
        fourth = api.client.update_alias(FunctionName=name, Name="live", Description="")
        assert fourth["Description"] == ""

    def test_the_whole_is_checked(self, api, name):
        make(api, name, RoutingConfig=weights(v2=0.25))
        refusal = api.refused("update_alias", FunctionName=name, Name="live", FunctionVersion="2")
        text = "Invalid function version 2. Function version 2 is already included in routing configuration."
        api.check(refusal, 400, "InvalidParameterValueException", text)
        api.client.update_alias(FunctionName=name, Name="live", FunctionVersion="2", RoutingConfig={})

    def test_revision_precondition(self, api, name):
        made = make(api, name)
        api.client.update_alias(FunctionName=name, Name="live", Description="1", RevisionId=made["RevisionId"])
        refusal = api.refused("update_alias", FunctionName=name, Name="live", RevisionId=made["RevisionId"])
        api.check(refusal, 412, "PreconditionFailedException", STALE)

    def test_missing_aliases(self, api, name):
        refusal = api.refused("update_alias", FunctionName=name, Name="non-existent", Description="d")
        api.check(refusal, 404, "ResourceNotFoundException", f"Alias not found: {arn_of(name, 'non-existent')}")
        refusal = api.refused("get_alias", FunctionName=name, Name="non-existent")
        api.check(refusal, 404, "ResourceNotFoundException", f"Cannot find alias arn: {arn_of(name, 'non-existent')}")
        refusal = api.refused("get_alias", FunctionName="doesnotexist", Name="noalias")
        text = f"Cannot find alias arn: {arn_of('doesnotexist', 'noalias')}"
        api.check(refusal, 404, "ResourceNotFoundException", text)

    def test_delete(self, api, name):
        make(api, name)
        answer = api.client.delete_alias(FunctionName=name, Name="live")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
        api.client.delete_alias(FunctionName=name, Name="live")
        refusal = api.refused("invoke", FunctionName=name, Qualifier="live")
        api.check(refusal, 404, "ResourceNotFoundException", f"Cannot find alias arn: {arn_of(name, 'live')}")
        refusal = api.refused("delete_alias", FunctionName="doesnotexist", Name="live")
        assert refusal.status == 404, refusal

    def test_lists(self, api, name):
        for alias, version in (("b", "1"), ("a", "2"), ("c", "$LATEST"), ("d", "3")):
            make(api, name, alias, version)
        assert [one["Name"] for one in api.client.list_aliases(FunctionName=name)["Aliases"]] == ["a", "b", "c", "d"]
        pages = api.client.get_paginator("list_aliases").paginate(FunctionName=name, PaginationConfig={"PageSize": 3})
        assert [[one["Name"] for one in page["Aliases"]] for page in pages] == [["a", "b", "c"], ["d"]]
        of_two = api.client.list_aliases(FunctionName=name, FunctionVersion="2")["Aliases"]
        assert [one["Name"] for one in of_two] == ["a"]
        refusal = api.refused("list_aliases", FunctionName="doesnotexist")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of('doesnotexist')}")


class TestInvoke:
    def test_the_alias_is_in_the_arn_and_the_version_in_the_header(self, api, name):
        make(api, name, version="2")
        answer = api.invoke(name, Qualifier="live", tail=True)
        assert answer.ok() == {"code": 2, "version": "2", "arn": arn_of(name, "live")}
        assert answer.version == "2" and " Version: 2" in answer.log
        assert api.invoke(f"{name}:live").ok()["code"] == 2
        assert api.client.invoke(FunctionName=name, Qualifier="live", InvocationType="DryRun")["StatusCode"] == 204

    def test_reads_by_alias(self, api, name):
        make(api, name, version="2")
        found = api.client.get_function_configuration(FunctionName=name, Qualifier="live")
        assert (found["Version"], found["FunctionArn"]) == ("2", arn_of(name, "live"))
        assert api.client.get_function(FunctionName=f"{name}:live")["Configuration"]["Version"] == "2"
        refusal = api.refused("get_function", FunctionName=name, Qualifier="aliasdoesnotexist")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(name, 'aliasdoesnotexist')}")

    @pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 1.0])
    def test_weights_by_counting(self, api, name, weight):
        """Each draw is independent: the count is binomial. Five standard deviations fail by chance once in millions."""
        make(api, name, RoutingConfig=weights(v2=weight))
        total = 1_000
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: api.invoke(name, Qualifier="live"), range(total)))
        versions = [answer.version for answer in answers]
        assert all(answer.ok()["version"] == answer.version for answer in answers)
        got, want = versions.count("2"), total * weight
        allowed = 5 * (total * weight * (1 - weight)) ** 0.5
        assert abs(got - want) <= allowed, f"{got} of {total} went to version 2, expected {want} within {allowed:.0f}"
        assert set(versions) <= {"1", "2"}

    def test_draws_are_independent(self, api, name):
        """At one half, runs of equal answers are as frequent as coins give them: no alternation, no stickiness."""
        make(api, name, RoutingConfig=weights(v2=0.5))
        versions = [api.invoke(name, Qualifier="live").version for _ in range(600)]
        changes = sum(one != other for one, other in zip(versions, versions[1:]))
        assert abs(changes - 299.5) <= 5 * (599 * 0.25) ** 0.5, changes


def test_updates_under_load_fail_no_request(api, name):
    """Constant load on an alias and on $LATEST while code, configuration and alias change under it."""
    make(api, name)
    stop = threading.Event()
    wrong, seen = [], {}

    def load(qualifier):
        while not stop.is_set():
            parameters = {"Qualifier": qualifier} if qualifier else {}
            try:
                answer = api.invoke(name, **parameters)
                if answer.error is None:
                    seen.setdefault(qualifier, set()).add(answer.value["code"])
                else:
                    wrong.append((qualifier, answer.body))
            except Exception as error:  # whatever it is, it must not be
                wrong.append((qualifier, error))

    threads = [threading.Thread(target=load, args=(qualifier,)) for qualifier in ("live", "live", None)]
    for thread in threads:
        thread.start()
    try:
        for number in range(4, 10):
            made = api.client.update_function_code(FunctionName=name, ZipFile=package(number), Publish=True)
            # At once, while the version is being made ready.
            api.client.update_alias(
                FunctionName=name,
                Name="live",
                RoutingConfig={"AdditionalVersionWeights": {made["Version"]: 0.5}},
            )
            api.wait_active(name)
            api.client.update_function_configuration(FunctionName=name, Timeout=number)
            api.wait_active(name)
            time.sleep(0.2)
            api.client.update_alias(
                FunctionName=name, Name="live", FunctionVersion=made["Version"], RoutingConfig={}
            )
            time.sleep(0.2)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert wrong == []
    assert seen["live"] == {1, 4, 5, 6, 7, 8, 9}
    assert max(seen[None]) == 9
