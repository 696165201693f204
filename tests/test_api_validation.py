"""What is refused, and in which words: names, qualifiers, constraints, limits, operations not offered."""

import json
import re

import pytest

from support import ACCOUNT, REGION, ROLE, arn_of
from support.clients import Api, free_name
from support.packages import zip_fixture, zip_of, zip_of_random

RUNTIMES = (
    "nodejs20.x, python3.14, provided.al2023, python3.12, python3.13, nodejs24.x, nodejs22.x, java25, python3.10, "
    "python3.11, java21, ruby3.3, ruby3.4, ruby3.2, python3.8, python3.9, java17, nodejs16.x, dotnet10, dotnet8, "
    "java11, dotnet6, nodejs18.x, provided.al2, java8.al2"
)
PLAIN_NAME = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?"
    r"(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?"
)
SPACED_NAME = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?"
    r"(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)

BY_NAME = [
    ("get_function", {}),
    ("get_function_configuration", {}),
    ("update_function_code", {"ZipFile": zip_fixture("probe.py")}),
    ("update_function_configuration", {"Timeout": 5}),
    ("delete_function", {}),
    ("invoke", {}),
]


def creation(**parameters) -> dict:
    return {
        "FunctionName": free_name(),
        "Runtime": "python3.11",
        "Handler": "probe.echo",
        "Role": ROLE,
        "Code": {"ZipFile": zip_fixture("probe.py")},
        **parameters,
    }


def one_error(value, member, constraint) -> str:
    return f"1 validation error detected: Value {value} at '{member}' failed to satisfy constraint: {constraint}"


class TestReferences:
    @pytest.mark.parametrize(
        "shape",
        [
            "{n}",
            "function:{n}",
            "{a}:function:{n}",
            "arn:aws:lambda:{r}:{a}:function:{n}",
            "{n}:$LATEST",
            "arn:aws:lambda:{r}:{a}:function:{n}:$LATEST",
        ],
    )
    def test_every_accepted_shape(self, api, probe, shape):
        reference = shape.format(n=probe, a=ACCOUNT, r=REGION)
        assert api.client.get_function(FunctionName=reference)["Configuration"]["FunctionName"] == probe
        assert api.invoke(reference, {"a": 1}).ok() == {"a": 1}
        assert api.client.get_function_configuration(FunctionName=reference)["FunctionName"] == probe

    @pytest.mark.parametrize("operation,extra", BY_NAME)
    def test_wrong_region(self, api, operation, extra):
        name = f"arn:aws:lambda:ap-southeast-1:{ACCOUNT}:function:some-function"
        text = f"Functions from 'ap-southeast-1' are not reachable in this region ('{REGION}')"
        api.check(api.refused(operation, FunctionName=name, **extra), 404, "ResourceNotFoundException", text)

    @pytest.mark.parametrize("operation,extra", BY_NAME)
    def test_other_account(self, api, operation, extra):
        name = f"arn:aws:lambda:{REGION}:999999999999:function:some-function"
        api.check(api.refused(operation, FunctionName=name, **extra), 403, "AccessDeniedException")

    @pytest.mark.parametrize("operation,extra", BY_NAME)
    @pytest.mark.parametrize("name", ["invalid:function:name", f"arn:aws:lambda:{REGION}:123400000000@function:myfn"])
    def test_malformed(self, api, operation, extra, name):
        plain = operation.startswith("update_")
        text = one_error(
            f"'{name}'",
            "functionName",
            "Member must satisfy regular expression pattern: " + (PLAIN_NAME if plain else SPACED_NAME),
        )
        api.check(api.refused(operation, FunctionName=name, **extra), 400, "ValidationException", text)

    def test_malformed_on_create(self, api):
        for name in ("invalid:function:name", "with space", "dotted.name"):
            text = one_error(
                f"'{name}'", "functionName", f"Member must satisfy regular expression pattern: {PLAIN_NAME}"
            )
            api.check(api.refused("create_function", **creation(FunctionName=name)), 400, "ValidationException", text)

    def test_name_too_long(self, api):
        name = "a" * 65
        text = one_error(f"'{name}'", "functionName", "Member must have length less than or equal to 64")
        api.check(
            api.refused("create_function", **creation(FunctionName=name)), 400, "InvalidParameterValueException", text
        )

    def test_reference_too_long(self, api):
        name = arn_of("a" * 110)
        text = one_error(f"'{name}'", "functionName", "Member must have length less than or equal to 140")
        api.check(api.refused("create_function", **creation(FunctionName=name)), 400, "ValidationException", text)

    @pytest.mark.parametrize("operation,extra", [("get_function", {}), ("delete_function", {}), ("invoke", {})])
    def test_qualifiers_that_differ(self, api, probe, operation, extra):
        refusal = api.refused(operation, FunctionName=f"{probe}:1", Qualifier="2", **extra)
        text = "The derived qualifier from the function name does not match the specified qualifier."
        api.check(refusal, 400, "InvalidParameterValueException", text)

    @pytest.mark.parametrize("operation", ["get_function", "invoke"])
    def test_malformed_qualifier(self, api, probe, operation):
        refusal = api.refused(operation, FunctionName=probe, Qualifier="invalid-qualifier-with-?-char")
        text = one_error(
            "'invalid-qualifier-with-?-char'",
            "qualifier",
            "Member must satisfy regular expression pattern: "
            r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+",
        )
        api.check(refusal, 400, "ValidationException", text)

    def test_unknown_version_and_alias(self, api, probe):
        for qualifier in ("42", "live"):
            refusal = api.refused("get_function", FunctionName=probe, Qualifier=qualifier)
            text = (
                f"Function not found: {arn_of(probe, '42')}"
                if qualifier == "42"
                else re.compile(f"^(Cannot find alias arn|Function not found): {re.escape(arn_of(probe, 'live'))}$")
            )
            api.check(refusal, 404, "ResourceNotFoundException", text)

    def test_update_refuses_a_qualifier(self, api, probe):
        refusal = api.refused("update_function_configuration", FunctionName=f"{probe}:1", Timeout=5)
        assert refusal.status in (400, 404), refusal
        assert api.client.get_function_configuration(FunctionName=probe)["Timeout"] != 5


CONSTRAINTS = [
    (
        {"Role": "r1"},
        one_error(
            "'r1'",
            "role",
            r"Member must satisfy regular expression pattern: "
            r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+",
        ),
    ),
    (
        {"Architectures": ["X86_64"]},
        one_error(
            "'[X86_64]'",
            "architectures",
            "Member must satisfy constraint: [Member must "
            "satisfy enum value set: [x86_64, arm64], Member must not be null]",
        ),
    ),
    (
        {"Architectures": ["x86_64", "arm64"]},
        one_error("'[x86_64, arm64]'", "architectures", "Member must have length less than or equal to 1"),
    ),
    ({"Timeout": 0}, one_error("'0'", "timeout", "Member must have value greater than or equal to 1")),
    ({"MemorySize": 127}, one_error("'127'", "memorySize", "Member must have value greater than or equal to 128")),
    (
        {"EphemeralStorage": {"Size": 511}},
        one_error("'511'", "ephemeralStorage.size", "Member must have value greater than or equal to 512"),
    ),
    (
        {"EphemeralStorage": {"Size": 10241}},
        re.compile(
            "at 'ephemeralStorage.size' failed to satisfy constraint: "
            "Member must have value less than or equal to 10240"
        ),
    ),
    (
        {"Description": "d" * 257},
        one_error(f"'{'d' * 257}'", "description", "Member must have length less than or equal to 256"),
    ),
    (
        {"Handler": "with space"},
        one_error("'with space'", "handler", r"Member must satisfy regular expression pattern: [^\s]+"),
    ),
    (
        {"Handler": "h" * 129},
        one_error(f"'{'h' * 129}'", "handler", "Member must have length less than or equal to 128"),
    ),
    (
        {"SnapStart": {"ApplyOn": "invalidOption"}},
        one_error(
            "'invalidOption'", "snapStart.applyOn", "Member must satisfy enum value set: [PublishedVersions, None]"
        ),
    ),
    (
        {"TracingConfig": {"Mode": "Sometimes"}},
        re.compile(
            "at 'tracingConfig.mode' failed to satisfy constraint: Member must "
            "satisfy enum value set: \\[Active, PassThrough\\]"
        ),
    ),
    (
        {"PackageType": "Tar"},
        re.compile(
            "^1 validation error detected: Value 'Tar' at 'packageType' failed to satisfy "
            "constraint: Member must satisfy enum value set: \\["
        ),
    ),
]


class TestConstraints:
    @pytest.mark.parametrize("change,text", CONSTRAINTS, ids=lambda v: str(v)[:30] if isinstance(v, dict) else "")
    def test_on_create(self, api, change, text):
        asked = creation(**change)
        api.check(api.refused("create_function", **asked), 400, "ValidationException", text)
        api.check(api.refused("get_function", FunctionName=asked["FunctionName"]), 404, "ResourceNotFoundException")

    @pytest.mark.parametrize(
        "change,text",
        [
            row
            for row in CONSTRAINTS
            if set(row[0])
            <= {
                "Role",
                "Timeout",
                "MemorySize",
                "Description",
                "Handler",
                "SnapStart",
                "EphemeralStorage",
                "TracingConfig",
            }
        ],
        ids=lambda v: str(v)[:30] if isinstance(v, dict) else "",
    )
    def test_on_update(self, api, probe, change, text):
        before = api.client.get_function_configuration(FunctionName=probe)["RevisionId"]
        refusal = api.refused("update_function_configuration", FunctionName=probe, **change)
        api.check(refusal, 400, "ValidationException", text)
        assert api.client.get_function_configuration(FunctionName=probe)["RevisionId"] == before

    def test_several_at_once(self, api):
        refusal = api.refused("create_function", **creation(Role="r1", Timeout=0, Architectures=["X86_64"]))
        api.check(refusal, 400, "ValidationException", re.compile("^3 validation errors detected: "))
        for member in ("role", "timeout", "architectures"):
            assert f"at '{member}' failed to satisfy constraint" in refusal.message
        assert refusal.message.count("; ") == 2

    def test_too_long_a_timeout(self, api):
        refusal = api.refused("create_function", **creation(Timeout=901))
        assert refusal.status == 400 and "900" in refusal.message and "imeout" in refusal.message, refusal

    def test_too_much_memory(self, api):
        refusal = api.refused("create_function", **creation(MemorySize=10241))
        assert refusal.status == 400 and "10240" in refusal.message and "emory" in refusal.message, refusal

    @pytest.mark.parametrize("runtime", ["non-existent-runtime", "PYTHON3.9"])
    def test_unknown_runtime(self, api, runtime):
        refusal = api.refused("create_function", **creation(Runtime=runtime))
        text = (
            f"Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "
            f"[{RUNTIMES}] or be a valid ARN"
        )
        api.check(refusal, 400, "InvalidParameterValueException", text)

    def test_unknown_runtime_on_update(self, api, probe):
        refusal = api.refused("update_function_configuration", FunctionName=probe, Runtime="non-existent-runtime")
        text = (
            "Value non-existent-runtime at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "
            f"[{RUNTIMES}] or be a valid ARN"
        )
        api.check(refusal, 400, "InvalidParameterValueException", text)

    @pytest.mark.parametrize(
        "runtime", ["python3.7", "nodejs14.x", "nodejs12.x", "go1.x", "dotnetcore3.1", "java8", "ruby2.7"]
    )
    def test_retired_runtime(self, api, runtime):
        refusal = api.refused("create_function", **creation(Runtime=runtime))
        text = (
            f"The runtime parameter of {runtime} is no longer supported for creating or updating AWS Lambda functions. "
            "We recommend you use a supported runtime while creating or updating functions."
        )
        api.check(refusal, 400, "InvalidParameterValueException", text)

    @pytest.mark.parametrize("missing", ["FunctionName", "Role", "Code"])
    def test_required_members(self, api, missing):
        asked = creation()
        body = {key: value for key, value in asked.items() if key not in (missing, "Code")}
        if missing != "Code":
            body["Code"] = {"ZipFile": ""}
        refusal = api.refused_raw("POST", "/2015-03-31/functions", json.dumps(body).encode())
        member = missing[0].lower() + missing[1:]
        assert (refusal.status, refusal.code) == (400, "ValidationException"), refusal
        assert f"Value null at '{member}' failed to satisfy constraint: Member must not be null" in refusal.message

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"[]",
            b'"text"',
            b"\xff\xfe",
            b'{"Timeout":"ten"}',
            b'{"Timeout":1.5}',
            b'{"Code":7}',
            b'{"Environment":[]}',
            b'{"Tags":{"a":1}}',
        ],
    )
    def test_bodies_that_cannot_be_read(self, api, body):
        """Text that is no JSON and JSON of the wrong types have exceptions of their own."""
        refusal = api.refused_raw("POST", "/2015-03-31/functions", body)
        if body in (b"{", b"\xff\xfe"):
            api.check(
                refusal, 400, "InvalidRequestContentException", re.compile("^Could not parse request body into json: ")
            )
        else:
            api.check(refusal, 400, "SerializationException", kind=None)

    def test_unknown_members_are_ignored(self, api, probe):
        raw = api.send_json("PUT", f"/2015-03-31/functions/{probe}/configuration", {"NoSuchMember": {"a": 1}})
        assert raw.status == 200
        api.wait_active(probe)


class TestNotHonouredYet:
    def test_publish_to(self, api):
        refusal = api.refused("create_function", **creation(PublishTo="LATEST_PUBLISHED"))
        api.check(refusal, 400, "InvalidParameterValueException", re.compile("PublishTo"))

    def test_images(self, api):
        asked = creation(PackageType="Image", Code={"ImageUri": "000000000000.dkr.ecr.us-east-1.amazonaws.com/a:b"})
        asked.pop("Runtime"), asked.pop("Handler")
        refusal = api.refused("create_function", **asked)
        api.check(refusal, 400, "InvalidParameterValueException", re.compile("[Ii]mage"))

    @pytest.mark.parametrize(
        "operation,parameters",
        [
            ("list_layers", {}),
            ("list_event_source_mappings", {}),
            ("get_policy", {"FunctionName": "f"}),
            ("create_function_url_config", {"FunctionName": "f", "AuthType": "NONE"}),
            ("list_code_signing_configs", {}),
            ("get_function_recursion_config", {"FunctionName": "f"}),
        ],
    )
    def test_operations_say_so(self, api, operation, parameters):
        refusal = api.refused(operation, **parameters)
        name = api.client.meta.method_to_api_mapping[operation]
        api.check(refusal, 404, "UnknownOperationException", re.compile(name))

    def test_unknown_paths(self, api, server):
        import requests

        for method, path in (
            ("GET", "/"),
            ("GET", "/2015-03-31/nothing"),
            ("PATCH", "/2015-03-31/functions"),
            ("GET", "/%00/%ff"),
        ):
            refusal = api.refused_raw(method, path)
            api.check(refusal, 404, "UnknownOperationException")
        metrics = requests.get(f"{server.endpoint}/metrics", timeout=10)
        assert metrics.status_code == 200 and "ListLayers" in metrics.text

    def test_event_invocations(self, api, probe):
        refusal = api.refused("invoke", FunctionName=probe, InvocationType="Event")
        api.check(refusal, 400, "InvalidParameterValueException", re.compile("asynchronous"))


class TestLimits:
    def test_environment(self, api):
        variables = {"SMALL_VAR": "ok", "LARGE_VAR": "x" * 4100}
        refusal = api.refused("create_function", **creation(Environment={"Variables": variables}))
        text = (
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided exceeded the 4KB limit. String measured: " + json.dumps(variables, separators=(",", ":"))
        )
        api.check(refusal, 400, "InvalidParameterValueException", text)

    def test_environment_at_the_limit(self, api, make):
        room = 4096 - len(json.dumps({"LARGE_VAR": ""}, separators=(",", ":")))
        make(Environment={"Variables": {"LARGE_VAR": "x" * room}})
        refusal = api.refused("create_function", **creation(Environment={"Variables": {"LARGE_VAR": "x" * (room + 1)}}))
        api.check(refusal, 400, "InvalidParameterValueException", re.compile("exceeded the 4KB limit"))

    @pytest.mark.parametrize(
        "key", ["AWS_REGION", "AWS_LAMBDA_FUNCTION_NAME", "_HANDLER", "LAMBDA_TASK_ROOT", "AWS_ACCESS_KEY_ID"]
    )
    def test_reserved_variables(self, api, key):
        refusal = api.refused("create_function", **creation(Environment={"Variables": {key: "x", "FINE": "y"}}))
        text = (
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided contains reserved keys that are currently not supported for modification. Reserved keys used in "
            f"this request: {key}"
        )
        api.check(refusal, 400, "InvalidParameterValueException", text)

    @pytest.mark.parametrize("key", ["1A", "A-B", "A B", "ü"])
    def test_variable_names(self, api, key):
        refusal = api.refused("create_function", **creation(Environment={"Variables": {key: "x"}}))
        assert refusal.status == 400 and refusal.code in ("ValidationException", "InvalidParameterValueException")

    @pytest.mark.slow
    def test_request_too_large(self, api):
        body = b'{"FunctionName":"f","Code":{"ZipFile":"' + b"A" * 70_200_000 + b'"}}'
        refusal = api.refused_raw("POST", "/2015-03-31/functions", body)
        text = "Request must be smaller than 70167211 bytes for the CreateFunction operation"
        api.check(refusal, 413, "RequestEntityTooLargeException", text, kind=None)

    @pytest.mark.slow
    def test_zip_too_large(self, api):
        package = zip_of_random(52_428_801)
        refusal = api.refused("create_function", **creation(Code={"ZipFile": package}))
        api.check(
            refusal, 413, "RequestEntityTooLargeException", "Zipped size must be smaller than 52428800 bytes", kind=None
        )

    @pytest.mark.slow
    def test_unzipped_too_large(self, api, server):
        import os

        before = set(os.listdir(os.path.join(server.data_dir, "packages")))
        package = zip_of({"app.py": "x = 1", "zeros": b"\0" * 262_144_001})
        refusal = api.refused("create_function", **creation(Code={"ZipFile": package}))
        text = "Unzipped size must be smaller than 262144000 bytes"
        api.check(refusal, 400, "InvalidParameterValueException", text)
        assert set(os.listdir(os.path.join(server.data_dir, "packages"))) <= before

    def test_limits_are_settings(self, server_factory):
        server = server_factory(config={"limits": {"unzipped_bytes": 1000, "zip_bytes": 600, "environment_bytes": 100}})
        api = Api(server.endpoint, server.credentials())
        small = zip_of({"app.py": "x = 1"})
        refusal = api.refused("create_function", **creation(Code={"ZipFile": zip_of({"app.py": "#" * 1001})}))
        api.check(refusal, 400, "InvalidParameterValueException", "Unzipped size must be smaller than 1000 bytes")
        refusal = api.refused("create_function", **creation(Code={"ZipFile": zip_of_random(600)}))
        api.check(
            refusal, 413, "RequestEntityTooLargeException", "Zipped size must be smaller than 600 bytes", kind=None
        )
        refusal = api.refused(
            "create_function", **creation(Code={"ZipFile": small}, Environment={"Variables": {"ONE": "x" * 100}})
        )
        api.check(refusal, 400, "InvalidParameterValueException", re.compile("provided exceeded the "))

    def test_code_storage(self, server_factory):
        server = server_factory(config={"limits": {"code_storage_bytes": 3000}})
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_of_random(2000, **{"probe.py": "x = 1"}))
        refusal = api.refused("create_function", **creation(Code={"ZipFile": zip_of_random(2000)}))
        api.check(refusal, 400, "CodeStorageExceededException")
        api.delete(name)


class TestOtherAccountAndRegion:
    def test_flags_change_arns(self, server_factory):
        server = server_factory(flags=["--account-id", "123456789012", "--region", "eu-west-1"])
        api = Api(server.endpoint, server.credentials(), region="eu-west-1")
        name = api.create(zip_fixture("probe.py"), Handler="probe.context_of")
        arn = f"arn:aws:lambda:eu-west-1:123456789012:function:{name}"
        assert api.client.get_function_configuration(FunctionName=name)["FunctionArn"] == arn
        assert api.invoke(arn).ok()["invoked_function_arn"] == arn
        refusal = api.refused("get_function", FunctionName=arn_of(name))
        api.check(
            refusal,
            404,
            "ResourceNotFoundException",
            "Functions from 'us-east-1' are not reachable in this region ('eu-west-1')",
        )
