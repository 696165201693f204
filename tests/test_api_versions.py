"""Published versions through boto3, with the texts of `lambda-errors.md`."""

import re
import threading
import time

import pytest

from support import ROLE, arn_of
from support.clients import Api, free_name
from support.packages import code_sha256, digest_hex, zip_of

# What the function answers says which code ran.
CODE = "import os\ndef handler(event, context):\n    return {'code': %d, 'version': context.function_version, 'arn': context.invoked_function_arn, 'env': os.environ['AWS_LAMBDA_FUNCTION_VERSION'], 'stream': context.log_stream_name}\n"


def package(number: int) -> bytes:
    """A package whose handler answers `number`."""
    return zip_of({"app.py": CODE % number})


@pytest.fixture
def name(api):
    """A function whose $LATEST runs package 1."""
    one = api.create(package(1), Handler="app.handler")
    yield one
    api.delete(one)


def publish(api, name, number=None, **parameters):
    """Publishes $LATEST, after an update to package `number` if one is given; the version."""
    if number is not None:
        api.update(name, package(number))
    return api.client.publish_version(FunctionName=name, **parameters)["Version"]


class TestPublish:
    def test_the_answer(self, api, name):
        latest = api.client.get_function_configuration(FunctionName=name)
        made = api.client.publish_version(FunctionName=name, Description="the first")
        assert made.pop("ResponseMetadata")["HTTPStatusCode"] == 201
        assert (made["Version"], made["FunctionArn"]) == ("1", arn_of(name, "1"))
        assert (made["Description"], made["State"]) == ("the first", "Active")
        assert made["CodeSha256"] == code_sha256(package(1)) == latest["CodeSha256"]
        assert made["RevisionId"] != latest["RevisionId"]
        same = set(latest) - {"Version", "FunctionArn", "Description", "RevisionId", "ResponseMetadata"}
        assert {key: made[key] for key in same} == {key: latest[key] for key in same}
        api.client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="1")

    def test_nothing_changed_publishes_nothing(self, api, name):
        first = api.client.publish_version(FunctionName=name, Description="the first")
        again = api.client.publish_version(FunctionName=name, Description="other words")
        assert (again["Version"], again["Description"]) == ("1", "the first")
        assert again["RevisionId"] == first["RevisionId"]
        # The same code and configuration once more is no change either.
        api.update(name, package(1), Timeout=30)
        assert publish(api, name) == "1"
        assert publish(api, name, 2) == "2"
        assert publish(api, name, 1) == "3", "only the newest version counts"

    def test_code_precondition(self, api, name):
        for given in ("somenonexistentsha256", "a" * 64, code_sha256(package(2))):
            refusal = api.refused("publish_version", FunctionName=name, CodeSha256=given)
            text = (
                f"CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({code_sha256(package(1))}). "
                "Please try again with the CodeSHA256 in $LATEST."
            )
            api.check(refusal, 400, "InvalidParameterValueException", text)
        assert publish(api, name, CodeSha256=code_sha256(package(1))) == "1"

    def test_revision_precondition(self, api, name):
        refusal = api.refused("publish_version", FunctionName=name, RevisionId="1bb1a5e2-0000-0000-0000-000000000000")
        text = (
            "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to "
            "retrieve the latest Revision Id"
        )
        api.check(refusal, 412, "PreconditionFailedException", text)
        revision = api.client.get_function_configuration(FunctionName=name)["RevisionId"]
        assert publish(api, name, RevisionId=revision) == "1"
        after = api.client.get_function_configuration(FunctionName=name)["RevisionId"]
        assert after != revision, "publishing writes $LATEST's record"

    def test_missing_functions_and_qualifiers(self, api, name):
        refusal = api.refused("publish_version", FunctionName="doesnotexist")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of('doesnotexist')}")
        refusal = api.refused("publish_version", FunctionName=f"{name}:1")
        api.check(refusal, 400, "InvalidParameterValueException", re.compile("unqualified function ARN"))
        refusal = api.refused("publish_version", FunctionName=name, Description="x" * 257)
        api.check(refusal, 400, "ValidationException", re.compile("'description'"), kind=None)

    def test_on_creation(self, api):
        one = free_name()
        try:
            made = api.client.create_function(
                FunctionName=one,
                Code={"ZipFile": package(1)},
                Runtime="python3.11",
                Handler="app.handler",
                Role=ROLE,
                Publish=True,
            )
            assert (made["Version"], made["FunctionArn"], made["State"]) == ("1", arn_of(one), "Pending")
            api.client.get_waiter("published_version_active").wait(
                FunctionName=one, Qualifier="1", WaiterConfig={"Delay": 1, "MaxAttempts": 20}
            )
            api.wait_active(one)
            assert api.invoke(one, Qualifier="1").ok()["version"] == "1"
            assert publish(api, one) == "1"
        finally:
            api.delete(one)

    def test_on_update(self, api, name):
        made = api.client.update_function_code(FunctionName=name, ZipFile=package(2), Publish=True)
        assert (made["Version"], made["FunctionArn"]) == ("1", arn_of(name, "1"))
        api.wait_active(name)
        again = api.client.update_function_code(FunctionName=name, ZipFile=package(2), Publish=True)
        assert again["Version"] == "1", "the same as PublishVersion: nothing changed, nothing published"
        api.wait_active(name)
        assert api.invoke(name, Qualifier="1").ok()["code"] == 2
        dry = api.client.update_function_code(FunctionName=name, ZipFile=package(3), Publish=True, DryRun=True)
        assert dry["CodeSha256"] == code_sha256(package(3))
        assert [one["Version"] for one in api.client.list_versions_by_function(FunctionName=name)["Versions"]] == [
            "$LATEST",
            "1",
        ]


class TestUse:
    def test_a_version_is_frozen(self, api, name):
        assert publish(api, name) == "1"
        api.update(name, package(2), Timeout=17, Environment={"Variables": {"AB": "c"}}, Description="new")
        old = api.client.get_function(FunctionName=name, Qualifier="1")
        assert old["Configuration"]["Timeout"] == 30 and "Environment" not in old["Configuration"]
        assert old["Configuration"]["Description"] == ""
        assert old["Configuration"]["FunctionArn"] == arn_of(name, "1")
        assert digest_hex(package(1)) in old["Code"]["Location"]
        assert api.client.get_function_configuration(FunctionName=f"{name}:1")["Version"] == "1"
        latest = api.client.get_function_configuration(FunctionName=name, Qualifier="$LATEST")
        assert (latest["Timeout"], latest["FunctionArn"]) == (17, arn_of(name, "$LATEST"))

    def test_what_runs(self, api, name):
        publish(api, name)
        publish(api, name, 2)
        api.update(name, package(3))
        for qualifier, code in (("1", 1), ("2", 2), ("$LATEST", 3)):
            answer = api.invoke(name, Qualifier=qualifier, tail=True)
            value = answer.ok()
            assert (value["code"], answer.version) == (code, qualifier)
            assert value["version"] == value["env"] == qualifier
            assert value["arn"] == arn_of(name, qualifier)
            assert f"[{qualifier}]" in value["stream"]
            assert f" Version: {qualifier}" in answer.log
        assert api.invoke(f"{name}:2").ok()["code"] == 2
        assert api.invoke(arn_of(name, "1")).ok()["code"] == 1
        unqualified = api.invoke(name)
        assert (unqualified.ok()["arn"], unqualified.version) == (arn_of(name), "$LATEST")

    def test_versions_that_are_missing(self, api, name):
        publish(api, name)
        for operation in ("get_function", "get_function_configuration", "invoke"):
            refusal = api.refused(operation, FunctionName=name, Qualifier="10")
            api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(name, '10')}")

    def test_snap_start_is_of_published_versions(self, api, name):
        api.update(name, SnapStart={"ApplyOn": "PublishedVersions"})
        latest = api.client.get_function_configuration(FunctionName=name)
        assert latest["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
        made = api.client.publish_version(FunctionName=name)
        assert (made["State"], made["StateReasonCode"]) == ("Pending", "Creating")
        api.client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier=made["Version"])
        made = api.client.get_function_configuration(FunctionName=name, Qualifier=made["Version"])
        assert made["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
        api.update(name, SnapStart={"ApplyOn": "None"})
        made = api.client.publish_version(FunctionName=name)
        assert made["SnapStart"] == {"ApplyOn": "None", "OptimizationStatus": "Off"}
        assert api.invoke(name, Qualifier="1").ok()["version"] == "1"

    def test_tags_are_the_function_s(self, api, name):
        publish(api, name)
        api.client.tag_resource(Resource=arn_of(name), Tags={"team": "tide"})
        assert api.client.get_function(FunctionName=name, Qualifier="1")["Tags"] == {"team": "tide"}


class TestLists:
    def test_versions_in_pages(self, api, name):
        for number in (1, 2, 3):
            publish(api, name, number)
        whole = api.client.list_versions_by_function(FunctionName=name)
        assert [one["Version"] for one in whole["Versions"]] == ["$LATEST", "1", "2", "3"]
        assert [one["FunctionArn"] for one in whole["Versions"]][:2] == [arn_of(name, "$LATEST"), arn_of(name, "1")]
        assert "State" not in whole["Versions"][0] and "NextMarker" not in whole
        pages = list(
            api.client.get_paginator("list_versions_by_function").paginate(
                FunctionName=name, PaginationConfig={"PageSize": 2}
            )
        )
        assert [[one["Version"] for one in page["Versions"]] for page in pages] == [["$LATEST", "1"], ["2", "3"]]
        refusal = api.refused("list_versions_by_function", FunctionName="doesnotexist")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of('doesnotexist')}")
        refusal = api.refused("list_versions_by_function", FunctionName=name, Marker="?")
        api.check(refusal, 400, "InvalidParameterValueException", re.compile("Marker"))

    def test_all_versions_of_all_functions(self, api, name):
        for number in (1, 2):
            publish(api, name, number)
        seen = []
        for page in api.client.get_paginator("list_functions").paginate(
            FunctionVersion="ALL", PaginationConfig={"PageSize": 2}
        ):
            assert len(page["Functions"]) <= 2
            seen += [one["FunctionArn"] for one in page["Functions"]]
        assert len(set(seen)) == len(seen)
        ours = [arn for arn in seen if f":{name}:" in arn]
        assert ours == [arn_of(name, "$LATEST"), arn_of(name, "1"), arn_of(name, "2")]
        assert all(one["Version"] == "$LATEST" for one in api.client.list_functions()["Functions"])


class TestDelete:
    def test_one_version(self, api, name):
        for number in (1, 2):
            publish(api, name, number)
        answer = api.client.delete_function(FunctionName=name, Qualifier="2")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
        # One that is not there is as good as deleted.
        api.client.delete_function(FunctionName=f"{name}:2")
        refusal = api.refused("invoke", FunctionName=name, Qualifier="2")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(name, '2')}")
        assert api.invoke(name, Qualifier="1").ok()["code"] == 1
        assert api.invoke(name).ok()["code"] == 2
        assert publish(api, name) == "3", "a number is never given twice"

    def test_refusals(self, api, name):
        publish(api, name)
        refusal = api.refused("delete_function", FunctionName=name, Qualifier="$LATEST")
        text = "$LATEST version cannot be deleted without deleting the function."
        api.check(refusal, 400, "InvalidParameterValueException", text)
        refusal = api.refused("delete_function", FunctionName=name, Qualifier="live")
        text = "Deletion of aliases is not currently supported."
        api.check(refusal, 400, "InvalidParameterValueException", text)
        api.client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
        refusal = api.refused("delete_function", FunctionName=name, Qualifier="1")
        text = "Unable to delete version because the following aliases reference it: [live]"
        api.check(refusal, 409, "ResourceConflictException", text)
        api.client.delete_alias(FunctionName=name, Name="live")
        api.client.delete_function(FunctionName=name, Qualifier="1")
        refusal = api.refused("delete_function", FunctionName="doesnotexist", Qualifier="1")
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of('doesnotexist')}")

    def test_a_deleted_function_takes_its_versions_along(self, api, name):
        publish(api, name)
        api.client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
        api.delete(name)
        for qualifier in ("1", "live"):
            refusal = api.refused("invoke", FunctionName=name, Qualifier=qualifier)
            assert refusal.status == 404, refusal
        api.create(package(5), name=name, Handler="app.handler")
        assert [one["Version"] for one in api.client.list_versions_by_function(FunctionName=name)["Versions"]] == [
            "$LATEST"
        ]
        assert api.client.list_aliases(FunctionName=name)["Aliases"] == []
        assert publish(api, name) == "1"

    def test_a_running_invocation_outlives_its_version(self, api, make):
        slow = make(Handler="probe.slow")
        api.client.publish_version(FunctionName=slow)
        answers = []
        runner = threading.Thread(target=lambda: answers.append(api.invoke(slow, {"seconds": 2}, Qualifier="1")))
        runner.start()
        time.sleep(1)
        api.client.delete_function(FunctionName=slow, Qualifier="1")
        runner.join(30)
        assert answers[0].ok()["marker"]


def test_versions_survive_kill(server_factory):
    """What was answered is there after `kill -9`, and runs; packages that only versions need are kept."""
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    one = api.create(package(1), Handler="app.handler")
    publish(api, one)
    publish(api, one, 2)
    api.update(one, package(3))
    api.client.create_alias(
        FunctionName=one, Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}}
    )
    before = api.client.get_alias(FunctionName=one, Name="live")
    before.pop("ResponseMetadata")
    server.kill_tree()
    server.start()
    api = Api(server.endpoint, server.credentials())
    after = api.client.get_alias(FunctionName=one, Name="live")
    after.pop("ResponseMetadata")
    assert after == before
    # The unused packages of an earlier run are removed at the start.
    api.wait_active(one)
    assert [api.invoke(one, Qualifier=q).ok()["code"] for q in ("1", "2", "$LATEST")] == [1, 2, 3]
    assert {api.invoke(one, Qualifier="live").version for _ in range(40)} == {"1", "2"}
