"""Functions through boto3: create, read, update, list, delete, with the texts of `lambda-errors.md`."""

import re
import time
import uuid
import zipfile
from io import BytesIO

import pytest
import requests

from support import ACCOUNT, REGION, ROLE, arn_of
from support.clients import free_name
from support.interpreters import missing
from support.packages import code_sha256, fixture, zip_fixture, zip_of

UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
MODIFIED = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000$")
CREATING = "The function is being created."


def create(api, name, **parameters):
    settings = {"Runtime": "python3.11", "Handler": "probe.echo", "Role": ROLE, **parameters}
    code = settings.pop("Code", None) or {"ZipFile": zip_fixture("probe.py")}
    return api.client.create_function(FunctionName=name, Code=code, **settings)


@pytest.fixture
def name(api):
    one = free_name()
    yield one
    api.delete(one)


class TestCreate:
    def test_echoes_every_default(self, api, name):
        package = zip_fixture("probe.py")
        made = create(api, name, Code={"ZipFile": package})
        assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
        assert UUID.match(made.pop("RevisionId")) and MODIFIED.match(made.pop("LastModified"))
        made.pop("ResponseMetadata")
        assert made.pop("RuntimeVersionConfig")["RuntimeVersionArn"].startswith(f"arn:aws:lambda:{REGION}::runtime:")
        assert made == {
            "FunctionName": name,
            "FunctionArn": arn_of(name),
            "Runtime": "python3.11",
            "Role": ROLE,
            "Handler": "probe.echo",
            "CodeSize": len(package),
            "CodeSha256": code_sha256(package),
            "Description": "",
            "Timeout": 3,
            "MemorySize": 128,
            "Version": "$LATEST",
            "TracingConfig": {"Mode": "PassThrough"},
            "State": "Pending",
            "StateReason": CREATING,
            "StateReasonCode": "Creating",
            "PackageType": "Zip",
            "Architectures": ["x86_64"],
            "EphemeralStorage": {"Size": 512},
            "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"},
        }

    def test_becomes_active_by_the_waiter_with_a_new_revision(self, api, name):
        made = create(api, name)
        api.client.get_waiter("function_active_v2").wait(
            FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
        )
        api.client.get_waiter("function_exists").wait(FunctionName=name)
        found = api.client.get_function_configuration(FunctionName=name)
        assert (found["State"], found["LastUpdateStatus"]) == ("Active", "Successful")
        assert "StateReason" not in found and "StateReasonCode" not in found
        assert UUID.match(found["RevisionId"]) and found["RevisionId"] != made["RevisionId"]
        assert found["LastModified"] == made["LastModified"]

    def test_echoes_what_was_asked(self, api, name):
        asked = {
            "Description": "a ü description",
            "Timeout": 17,
            "MemorySize": 256,
            "EphemeralStorage": {"Size": 600},
            "Environment": {"Variables": {"ONE": "1", "TWO": "zwei ü"}},
            "TracingConfig": {"Mode": "Active"},
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/custom/group"},
        }
        made = create(api, name, **asked, Tags={"team": "tide"})
        assert {key: made[key] for key in asked} == asked
        api.wait_active(name)
        found = api.client.get_function(FunctionName=name)
        assert {key: found["Configuration"][key] for key in asked} == asked
        assert found["Tags"] == {"team": "tide"}

    def test_echoes_fields_that_are_stored_only(self, api, name):
        queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead"
        key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"
        create(
            api, name, DeadLetterConfig={"TargetArn": queue}, KMSKeyArn=key, SnapStart={"ApplyOn": "PublishedVersions"}
        )
        found = api.wait_active(name)
        assert found["DeadLetterConfig"] == {"TargetArn": queue}
        assert found["KMSKeyArn"] == key
        assert found["SnapStart"]["ApplyOn"] == "PublishedVersions"

    def test_accepts_names_as_arns(self, api, name):
        made = create(api, f"{ACCOUNT}:function:{name}")
        assert made["FunctionName"] == name
        api.wait_active(name)
        refusal = api.refused(
            "create_function",
            FunctionName=arn_of(name),
            Runtime="python3.11",
            Handler="probe.echo",
            Role=ROLE,
            Code={"ZipFile": zip_fixture("probe.py")},
        )
        api.check(refusal, 409, "ResourceConflictException", f"Function already exist: {name}")

    def test_duplicate(self, api, probe):
        refusal = api.refused(
            "create_function",
            FunctionName=probe,
            Runtime="python3.11",
            Handler="probe.echo",
            Role=ROLE,
            Code={"ZipFile": zip_fixture("probe.py")},
        )
        api.check(refusal, 409, "ResourceConflictException", f"Function already exist: {probe}")

    def test_a_runtime_this_machine_lacks_fails_with_a_reason(self, api, name):
        runtime = missing()
        if runtime is None:
            pytest.skip("this machine has every runtime that Tidegate can run")
        create(api, name, Runtime=runtime)
        self._fails(api, name, runtime)

    @pytest.mark.parametrize("runtime", ["java21", "ruby3.3", "dotnet8"])
    def test_a_runtime_without_a_way_to_start_fails_with_a_reason(self, api, name, runtime):
        create(api, name, Runtime=runtime)
        self._fails(api, name, runtime)

    @staticmethod
    def _fails(api, name, runtime):
        api.client.get_waiter("function_exists").wait(FunctionName=name)
        found = _poll_state(api, name, "Failed")
        assert found["StateReasonCode"] == "InvalidRuntime"
        assert runtime in found["StateReason"] and len(found["StateReason"]) > 30, found["StateReason"]
        refusal = api.refused("invoke", FunctionName=name)
        text = (
            "The operation cannot be performed at this time. The function is currently in the following state: Failed"
        )
        api.check(refusal, 409, "ResourceConflictException", text)

    def test_provided_is_accepted(self, api, name):
        made = create(api, name, Runtime="provided", Code={"ZipFile": zip_fixture("bootstrap")}, Handler="any")
        assert made["Runtime"] == "provided"
        api.wait_active(name)


def _poll_state(api, name, state):
    from support.polling import wait_until

    def reached():
        found = api.client.get_function_configuration(FunctionName=name)
        return found if found["State"] == state else None

    return wait_until(reached, f"{name} is {state}", 30)


class TestGet:
    def test_location_gives_the_same_bytes(self, api, make):
        package = zip_fixture("probe.py")
        name = make(package)
        found = api.client.get_function(FunctionName=name)
        assert found["Code"]["RepositoryType"] == "S3"
        assert "Tags" not in found or found["Tags"] == {}
        assert "Concurrency" not in found
        answer = requests.get(found["Code"]["Location"], timeout=10)
        assert answer.status_code == 200 and answer.content == package
        assert answer.headers["Content-Type"] == "application/zip"

    def test_location_is_signed_and_expires_in_ten_minutes(self, api, probe):
        location = api.client.get_function(FunctionName=probe)["Code"]["Location"]
        assert "X-Amz-Expires=600" in location
        assert requests.get(location.split("?")[0], timeout=10).status_code == 403
        signature = re.search(r"X-Amz-Signature=([0-9a-f]+)", location)[1]
        other = signature[:-1] + ("0" if signature[-1] != "0" else "1")
        assert requests.get(location.replace(signature, other), timeout=10).status_code == 403
        date = re.search(r"X-Amz-Date=(\d{8}T\d{6}Z)", location)[1]
        assert requests.get(location.replace(date, "20200101T000000Z"), timeout=10).status_code == 403
        assert requests.get(location.replace("Expires=600", "Expires=6000"), timeout=10).status_code == 403

    def test_configuration_equals_the_one_inside(self, api, probe):
        inside = api.client.get_function(FunctionName=probe)["Configuration"]
        alone = api.client.get_function_configuration(FunctionName=probe)
        alone.pop("ResponseMetadata")
        assert alone == inside

    def test_latest_by_qualifier(self, api, probe):
        for parameters in (
            {"FunctionName": probe, "Qualifier": "$LATEST"},
            {"FunctionName": f"{probe}:$LATEST"},
            {"FunctionName": f"{probe}:$LATEST", "Qualifier": "$LATEST"},
            {"FunctionName": arn_of(probe, "$LATEST")},
        ):
            found = api.client.get_function(**parameters)["Configuration"]
            assert found["FunctionArn"] == arn_of(probe, "$LATEST"), parameters
            assert found["Version"] == "$LATEST"


class TestUpdateCode:
    def test_moves_through_in_progress_and_renews_the_revision(self, api, make):
        name = make()
        before = api.client.get_function_configuration(FunctionName=name)
        package = zip_of({"probe.py": fixture("probe.py") + "\n# another\n"})
        answer = api.client.update_function_code(FunctionName=name, ZipFile=package)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert answer["State"] == "Active" and answer["LastUpdateStatus"] == "InProgress"
        assert answer["LastUpdateStatusReason"] == CREATING and answer["LastUpdateStatusReasonCode"] == "Creating"
        assert answer["CodeSha256"] == code_sha256(package) and answer["CodeSize"] == len(package)
        api.client.get_waiter("function_updated_v2").wait(
            FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
        )
        after = api.client.get_function_configuration(FunctionName=name)
        assert after["LastUpdateStatus"] == "Successful" and "LastUpdateStatusReason" not in after
        assert len({before["RevisionId"], answer["RevisionId"], after["RevisionId"]}) == 3
        assert after["LastModified"] > before["LastModified"]

    def test_takes_effect(self, api, make):
        name = make(zip_of({"probe.py": "def echo(e, c): return 'one'"}))
        assert api.invoke(name).ok() == "one"
        api.update(name, zip_of({"probe.py": "def echo(e, c): return 'two'"}))
        assert api.invoke(name).ok() == "two"

    def test_dry_run_changes_nothing(self, api, make):
        name = make()
        before = api.client.get_function_configuration(FunctionName=name)
        package = zip_of({"probe.py": "x = 1"})
        answer = api.client.update_function_code(FunctionName=name, ZipFile=package, DryRun=True)
        assert answer["CodeSha256"] == code_sha256(package)
        after = api.client.get_function_configuration(FunctionName=name)
        before.pop("ResponseMetadata"), after.pop("ResponseMetadata")
        assert after == before

    def test_revision_precondition(self, api, make):
        name = make()
        text = (
            "The Revision Id provided does not match the latest Revision Id. "
            "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
        )
        package = zip_of({"probe.py": "x = 1"})
        wrong = str(uuid.uuid4())
        refusal = api.refused("update_function_code", FunctionName=name, ZipFile=package, RevisionId=wrong)
        api.check(refusal, 412, "PreconditionFailedException", text)
        refusal = api.refused("update_function_configuration", FunctionName=name, Timeout=5, RevisionId=wrong)
        api.check(refusal, 412, "PreconditionFailedException", text)
        right = api.client.get_function_configuration(FunctionName=name)["RevisionId"]
        api.client.update_function_code(FunctionName=name, ZipFile=package, RevisionId=right)
        api.wait_active(name)

    def test_image_uri_for_a_zip_function(self, api, probe):
        refusal = api.refused("update_function_code", FunctionName=probe, ImageUri="a.b/c:d")
        text = "Please don't provide ImageUri when updating a function with packageType Zip."
        api.check(refusal, 400, "InvalidParameterValueException", text)

    def test_unknown_function(self, api):
        for operation, extra in (
            ("update_function_code", {"ZipFile": zip_fixture("probe.py")}),
            ("update_function_configuration", {"Timeout": 4}),
        ):
            refusal = api.refused(operation, FunctionName="doesnotexist", **extra)
            api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of('doesnotexist')}")


class TestUpdateConfiguration:
    def test_changes_only_what_is_given(self, api, make):
        name = make(Description="kept", Environment={"Variables": {"ONE": "1"}})
        before = api.client.get_function_configuration(FunctionName=name)
        answer = api.client.update_function_configuration(FunctionName=name, Timeout=9, MemorySize=192)
        assert (answer["Timeout"], answer["MemorySize"], answer["LastUpdateStatus"]) == (9, 192, "InProgress")
        after = api.wait_active(name)
        for changed in ("Timeout", "MemorySize", "RevisionId", "LastModified", "ResponseMetadata"):
            before.pop(changed), after.pop(changed)
        assert after == before

    def test_empty_environment_clears(self, api, make):
        name = make(Environment={"Variables": {"ONE": "1"}})
        api.update(name, Environment={"Variables": {}})
        found = api.client.get_function_configuration(FunctionName=name)
        assert found.get("Environment", {}).get("Variables", {}) == {}

    def test_takes_effect(self, api, make):
        name = make(Handler="probe.environment", Environment={"Variables": {"COLOUR": "red"}})
        assert api.invoke(name).ok()["COLOUR"] == "red"
        api.update(name, Environment={"Variables": {"COLOUR": "blue"}}, MemorySize=192)
        found = api.invoke(name).ok()
        assert (found["COLOUR"], found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]) == ("blue", "192")

    def test_an_update_under_way_refuses_another(self, api, make):
        """Two updates at once: whichever loses the race is refused with 409, never half applied."""
        name = make()
        text = f"The operation cannot be performed at this time. An update is in progress for resource: {arn_of(name)}"
        refused = 0
        for round_ in range(20):
            api.client.update_function_configuration(FunctionName=name, Description=f"{round_}")
            raw = api.send_json("PUT", f"/2015-03-31/functions/{name}/configuration", {"Description": f"{round_} too"})
            if raw.status == 409:
                refused += 1
                assert raw.json()["message"] == text
            else:
                assert raw.status == 200
            api.wait_active(name)
        print(f"{refused} of 20 updates met one under way")

    def test_a_missing_runtime_fails_the_update_and_keeps_the_old(self, api, make):
        name = make()
        api.client.update_function_configuration(FunctionName=name, Runtime="java21")
        from support.polling import wait_until

        found = wait_until(
            lambda: next(
                (
                    c
                    for c in [api.client.get_function_configuration(FunctionName=name)]
                    if c["LastUpdateStatus"] == "Failed"
                ),
                None,
            ),
            "the update failed",
            30,
        )
        assert found["State"] == "Active" and found["LastUpdateStatusReasonCode"] == "InvalidRuntime"
        assert api.invoke(name, {"still": "old"}).ok() == {"still": "old"}


class TestList:
    def test_pages(self, api, make):
        names = sorted(make(wait=False) for _ in range(5))
        seen, marker = [], None
        for _ in range(200):
            page = api.client.list_functions(MaxItems=2, **({"Marker": marker} if marker else {}))
            assert len(page["Functions"]) <= 2
            seen += [found["FunctionName"] for found in page["Functions"]]
            marker = page.get("NextMarker")
            if not marker:
                break
        assert set(names) <= set(seen) and len(seen) == len(set(seen))
        for name in names:
            api.wait_active(name)

    def test_paginator_and_fields(self, api, probe):
        pages = api.client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 3})
        found = next(item for page in pages for item in page["Functions"] if item["FunctionName"] == probe)
        assert found["FunctionArn"] == arn_of(probe) and found["Version"] == "$LATEST"
        assert found["Handler"] == "probe.echo" and UUID.match(found["RevisionId"])

    def test_all_versions(self, api, probe):
        pages = api.client.get_paginator("list_functions").paginate(FunctionVersion="ALL")
        found = next(item for page in pages for item in page["Functions"] if item["FunctionName"] == probe)
        assert found["FunctionArn"] == arn_of(probe, "$LATEST")

    def test_refusals(self, api):
        refusal = api.refused("list_functions", FunctionVersion="invalid")
        api.check(
            refusal,
            400,
            "ValidationException",
            "1 validation error detected: Value 'invalid' at 'functionVersion' "
            "failed to satisfy constraint: Member must satisfy enum value set: [ALL]",
        )
        refusal = api.refused("list_functions", MaxItems=0)
        api.check(
            refusal,
            400,
            "ValidationException",
            "1 validation error detected: Value '0' at 'maxItems' failed to "
            "satisfy constraint: Member must have value greater than or equal to 1",
        )
        refusal = api.refused("list_functions", MaxItems=10001)
        api.check(
            refusal,
            400,
            "ValidationException",
            "1 validation error detected: Value '10001' at 'maxItems' failed to "
            "satisfy constraint: Member must have value less than or equal to 10000",
        )


class TestDelete:
    def test_is_final(self, api, make):
        name = make()
        answer = api.client.delete_function(FunctionName=name)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
        for operation in ("get_function", "get_function_configuration", "delete_function"):
            refusal = api.refused(operation, FunctionName=name)
            api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(name)}")
        refusal = api.refused("invoke", FunctionName=name)
        api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn_of(name)}:$LATEST")

    def test_latest_alone_cannot_go(self, api, probe):
        for parameters in ({"FunctionName": probe, "Qualifier": "$LATEST"}, {"FunctionName": f"{probe}:$LATEST"}):
            refusal = api.refused("delete_function", **parameters)
            text = "$LATEST version cannot be deleted without deleting the function."
            api.check(refusal, 400, "InvalidParameterValueException", text)

    def test_the_same_name_again_is_a_new_function(self, api, make):
        name = make(zip_of({"probe.py": "def echo(e, c): return 'old'"}))
        assert api.invoke(name).ok() == "old"
        api.delete(name)
        api.create(zip_of({"probe.py": "def echo(e, c): return 'new'"}), name=name)
        assert api.invoke(name).ok() == "new"

    def test_unreferenced_packages_go(self, api, make, server):
        from support.packages import digest_hex
        from support.polling import wait_until
        import os

        package = zip_of({"probe.py": f"def echo(e, c): return {time.time()}"})
        path = os.path.join(server.data_dir, "packages", digest_hex(package))
        name = make(package)
        assert os.path.isdir(path) and os.path.isfile(path + ".zip")
        api.delete(name)

        def gone():
            api.delete(make(zip_of({"probe.py": "x = 1"})))
            return not os.path.exists(path) and not os.path.exists(path + ".zip")

        wait_until(gone, "the package is removed by a later write", 30, 0.2)


class TestTags:
    def test_life_of_tags(self, api, make):
        name = make(Tags={"a": "1", "b": "2"})
        arn = arn_of(name)
        assert api.client.list_tags(Resource=arn)["Tags"] == {"a": "1", "b": "2"}
        answer = api.client.tag_resource(Resource=arn, Tags={"b": "3", "c d": "ü +/=@:-_."})
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
        answer = api.client.untag_resource(Resource=arn, TagKeys=["a", "not there"])
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
        want = {"b": "3", "c d": "ü +/=@:-_."}
        assert api.client.list_tags(Resource=arn)["Tags"] == want
        assert api.client.get_function(FunctionName=name)["Tags"] == want

    def test_limit(self, api, make):
        name = make(Tags={f"k{n}": "v" for n in range(49)})
        api.client.tag_resource(Resource=arn_of(name), Tags={"k49": "v"})
        refusal = api.refused("tag_resource", Resource=arn_of(name), Tags={"k50": "v"})
        api.check(refusal, 400, "InvalidParameterValueException", "Number of tags exceeds resource tag limit.")
        api.client.tag_resource(Resource=arn_of(name), Tags={"k49": "another"})

    def test_qualifiers_are_refused(self, api, probe):
        text = "Tags on function aliases and versions are not supported. Please specify a function ARN."
        for arn in (arn_of(probe, "$LATEST"), arn_of(probe, "1"), arn_of(probe, "live")):
            for operation, extra in (
                ("list_tags", {}),
                ("tag_resource", {"Tags": {"a": "b"}}),
                ("untag_resource", {"TagKeys": ["a"]}),
            ):
                refusal = api.refused(operation, Resource=arn, **extra)
                api.check(refusal, 400, "InvalidParameterValueException", text)

    def test_unknown_function(self, api):
        arn = arn_of("doesnotexist")
        for operation, extra in (
            ("list_tags", {}),
            ("tag_resource", {"Tags": {"a": "b"}}),
            ("untag_resource", {"TagKeys": ["a"]}),
        ):
            refusal = api.refused(operation, Resource=arn, **extra)
            api.check(refusal, 404, "ResourceNotFoundException", f"Function not found: {arn}")

    def test_malformed_resource(self, api):
        pattern = (
            r"arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:"
            r"(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|"
            r"code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-"
            r"[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|capacity-provider:[a-zA-Z0-9-_]+)"
        )
        for resource in ("arn:aws:something", f"arn:aws:lambda:{REGION}:{ACCOUNT}:foobar:x"):
            refusal = api.refused("list_tags", Resource=resource)
            text = (
                f"1 validation error detected: Value '{resource}' at 'resource' failed to satisfy constraint: "
                f"Member must satisfy regular expression pattern: {pattern}"
            )
            api.check(refusal, 400, "ValidationException", text)

    def test_tag_keys_are_needed(self, api, probe):
        refusal = api.refused_raw("DELETE", f"/2017-03-31/tags/{arn_of(probe)}".replace(":", "%3A"))
        api.check(
            refusal,
            400,
            "ValidationException",
            "1 validation error detected: Value null at 'tagKeys' failed to "
            "satisfy constraint: Member must not be null",
        )


class TestAccount:
    def test_settings(self, api, make):
        make()
        found = api.client.get_account_settings()
        limits, usage = found["AccountLimit"], found["AccountUsage"]
        assert limits == {
            "TotalCodeSize": 80530636800,
            "CodeSizeUnzipped": 262144000,
            "CodeSizeZipped": 52428800,
            "ConcurrentExecutions": 1000,
            "UnreservedConcurrentExecutions": 1000,
        }
        assert usage["FunctionCount"] >= 1 and usage["TotalCodeSize"] > 0


class TestPackages:
    """A package that is not in order is refused, and nothing of it stays."""

    def test_what_is_in_a_zip_arrives(self, api, make):
        source = "import os\ndef echo(e, c): return open(os.path.dirname(__file__) + '/deep/er/file.txt').read()"
        name = make(zip_of({"probe.py": source, "deep/er/file.txt": "found"}))
        assert api.invoke(name).ok() == "found"

    @pytest.mark.parametrize("broken", ["empty", "text", "truncated", "wrong checksum", "no entries"])
    def test_not_a_zip(self, api, server, broken):
        good = zip_of({"probe.py": "x = 'some text that is stored as it is'"}, compress=False)
        empty = BytesIO()
        zipfile.ZipFile(empty, "w").close()
        package = {
            "empty": b"",
            "text": b"this is not a zip file",
            "truncated": good[: len(good) - 30],
            "wrong checksum": good.replace(b"stored", b"Stored"),
            "no entries": empty.getvalue(),
        }[broken]
        self._refused(api, server, package)

    def test_could_not_unzip_text(self, api):
        refusal = api.refused(
            "create_function",
            FunctionName=free_name(),
            Runtime="python3.11",
            Handler="a.b",
            Role=ROLE,
            Code={"ZipFile": b"this is not a zip file"},
        )
        text = "Could not unzip uploaded file. Please check your file, then try to upload again."
        api.check(refusal, 400, "InvalidParameterValueException", text)

    @pytest.mark.parametrize("entry", ["../escape.py", "/absolute.py", "a/../../escape.py", "a\\b.py", "C:/x.py"])
    def test_names_that_escape(self, api, server, entry):
        self._refused(api, server, zip_of({"app.py": "x = 1", entry: "y = 2"}))

    @pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "..", "x/../../y"])
    def test_links_that_escape(self, api, server, target):
        from support.packages import zip_with_symlink

        self._refused(api, server, zip_with_symlink("link", target))

    def test_a_link_inside_works(self, api, make):
        from support.packages import zip_with_symlink

        name = make(zip_with_symlink("link", "app.py"), Handler="app.handler")
        assert "def handler" in api.invoke(name).ok()

    def test_duplicate_entries(self, api, server):
        from support.packages import zip_with_duplicates

        self._refused(api, server, zip_with_duplicates())

    def test_updates_are_checked_too(self, api, probe):
        refusal = api.refused("update_function_code", FunctionName=probe, ZipFile=b"not a zip")
        api.check(refusal, 400, "InvalidParameterValueException")
        assert api.invoke(probe, 1).ok() == 1

    @staticmethod
    def _refused(api, server, package):
        import os

        folder = os.path.join(server.data_dir, "packages")
        before, name = set(os.listdir(folder)), free_name()
        refusal = api.refused(
            "create_function",
            FunctionName=name,
            Runtime="python3.11",
            Handler="a.b",
            Role=ROLE,
            Code={"ZipFile": package},
        )
        api.check(refusal, 400, "InvalidParameterValueException")
        assert refusal.message
        api.check(api.refused("get_function", FunctionName=name), 404, "ResourceNotFoundException")
        assert set(os.listdir(folder)) <= before
