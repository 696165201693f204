"""The unmodified AWS CLI, from credentials to clean-up."""

import base64
import json
import os
import shutil
import subprocess
import sys

import pytest

from support import ROLE, arn_of
from support.clients import free_name
from support.packages import code_sha256, zip_fixture, zip_of
from support.server import clean_environment

# Version 1 of the AWS CLI ends with 255 after an API error, version 2 with 254.
API_ERRORS = (254, 255)


def aws_program() -> str:
    beside = os.path.join(os.path.dirname(sys.executable), "aws")
    return beside if os.access(beside, os.X_OK) else shutil.which("aws") or "aws"


@pytest.fixture
def aws(server, tmp_path):
    """Runs `aws lambda …` with what `tidegate credentials` printed; returns (exit code, JSON or text, stderr)."""
    environment = {
        **clean_environment(str(tmp_path)),
        **server.credentials(),
        "AWS_PAGER": "",
        "AWS_MAX_ATTEMPTS": "1",
    }

    def run(*arguments):
        answer = subprocess.run(
            [aws_program(), "lambda", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            cwd=tmp_path,
            check=False,
        )
        try:
            return answer.returncode, json.loads(answer.stdout), answer.stderr
        except ValueError:
            return answer.returncode, answer.stdout, answer.stderr

    return run


def raw_payload(text: str) -> list:
    """The arguments that send a payload as it is; version 1 needs no flag for that."""
    version = subprocess.run([aws_program(), "--version"], capture_output=True, text=True, timeout=60, check=True)
    flag = ["--cli-binary-format", "raw-in-base64-out"] if "aws-cli/2" in version.stdout + version.stderr else []
    return [*flag, "--payload", text]


def test_the_main_flow(aws, api, tmp_path):
    name = free_name("cli")
    (tmp_path / "one.zip").write_bytes(
        zip_of({"app.py": "def handler(e, c):\n print('in the log')\n return {'one': e}"})
    )
    (tmp_path / "two.zip").write_bytes(zip_of({"app.py": "def handler(e, c): return {'two': e}"}))
    try:
        _create_and_invoke(aws, name, tmp_path)
        _update_and_invoke(aws, name, tmp_path)
        _list_and_delete(aws, name)
    finally:
        api.delete(name)


def _create_and_invoke(aws, name, tmp_path):
    code, made, error = aws(
        "create-function",
        "--function-name",
        name,
        "--runtime",
        "python3.11",
        "--handler",
        "app.handler",
        "--role",
        ROLE,
        "--zip-file",
        "fileb://one.zip",
        "--environment",
        "Variables={ONE=1}",
    )
    assert code == 0, error
    assert made["FunctionArn"] == arn_of(name) and made["State"] == "Pending"
    code, _, error = aws("wait", "function-active-v2", "--function-name", name)
    assert code == 0, error
    code, answer, error = aws(
        "invoke",
        "--function-name",
        name,
        *raw_payload('{"a": 1}'),
        "--log-type",
        "Tail",
        "out.json",
    )
    assert code == 0, error
    assert answer["StatusCode"] == 200 and answer["ExecutedVersion"] == "$LATEST" and "FunctionError" not in answer
    assert json.loads((tmp_path / "out.json").read_text()) == {"one": {"a": 1}}
    log = base64.b64decode(answer["LogResult"]).decode()
    assert log.startswith("START RequestId: ") and "in the log\n" in log and "REPORT RequestId: " in log


def _update_and_invoke(aws, name, tmp_path):
    code, answer, error = aws("update-function-code", "--function-name", name, "--zip-file", "fileb://two.zip")
    assert code == 0 and answer["LastUpdateStatus"] == "InProgress", error
    assert answer["CodeSha256"] == code_sha256((tmp_path / "two.zip").read_bytes())
    assert aws("wait", "function-updated-v2", "--function-name", name)[0] == 0
    code, answer, error = aws(
        "update-function-configuration", "--function-name", name, "--timeout", "7", "--memory-size", "256"
    )
    assert code == 0 and answer["Timeout"] == 7, error
    assert aws("wait", "function-updated", "--function-name", name)[0] == 0
    code, _, error = aws("invoke", "--function-name", name, "out.json")
    assert code == 0, error
    assert json.loads((tmp_path / "out.json").read_text()) == {"two": {}}


def _list_and_delete(aws, name):
    code, found, _ = aws("list-functions", "--page-size", "5")
    assert code == 0 and name in [item["FunctionName"] for item in found["Functions"]]
    code, found, _ = aws("get-function", "--function-name", name)
    assert code == 0 and found["Code"]["Location"].startswith("http")
    assert aws("tag-resource", "--resource", arn_of(name), "--tags", "team=tide,x=y")[0] == 0
    assert aws("untag-resource", "--resource", arn_of(name), "--tag-keys", "x")[0] == 0
    code, found, _ = aws("list-tags", "--resource", arn_of(name))
    assert code == 0 and found["Tags"] == {"team": "tide"}
    assert aws("get-account-settings")[0] == 0
    assert aws("delete-function", "--function-name", name)[0] == 0
    code, _, error = aws("get-function", "--function-name", name)
    assert code in API_ERRORS and "ResourceNotFoundException" in error


def test_a_function_error_is_no_cli_error(aws, make, tmp_path):
    name = make(Handler="probe.raising")
    code, answer, error = aws(
        "invoke",
        "--function-name",
        name,
        *raw_payload('{"text": "boom"}'),
        "out.json",
    )
    assert code == 0 and answer["FunctionError"] == "Unhandled", error
    assert json.loads((tmp_path / "out.json").read_text())["errorMessage"] == "boom"


def test_errors(aws, probe, tmp_path):
    (tmp_path / "code.zip").write_bytes(zip_fixture("probe.py"))
    cases = [
        (("get-function", "--function-name", "doesnotexist"), "(ResourceNotFoundException)"),
        (
            (
                "create-function",
                "--function-name",
                probe,
                "--runtime",
                "python3.11",
                "--handler",
                "a.b",
                "--role",
                ROLE,
                "--zip-file",
                "fileb://code.zip",
            ),
            "(ResourceConflictException)",
        ),
        (
            (
                "create-function",
                "--function-name",
                "f",
                "--runtime",
                "python3.11",
                "--handler",
                "a.b",
                "--role",
                "r1",
                "--zip-file",
                "fileb://code.zip",
            ),
            "(ValidationException)",
        ),
        (
            (
                "create-function",
                "--function-name",
                "f",
                "--runtime",
                "python3.7",
                "--handler",
                "a.b",
                "--role",
                ROLE,
                "--zip-file",
                "fileb://code.zip",
            ),
            "(InvalidParameterValueException)",
        ),
        (("list-layers",), "(UnknownOperationException)"),
    ]
    for arguments, text in cases:
        code, _, error = aws(*arguments)
        assert code in API_ERRORS and text in error, (arguments, error)


def test_versions_and_aliases(aws, api, make, tmp_path):
    """Publishes, makes an alias, shifts it, invokes through it, cleans up."""
    code = "def handler(event, context):\n    return %d\n"
    name = make(zip_of({"app.py": code % 1}), Handler="app.handler")
    assert aws("publish-version", "--function-name", name)[1]["Version"] == "1"
    api.update(name, zip_of({"app.py": code % 2}))
    assert aws("publish-version", "--function-name", name, "--description", "two")[1]["Version"] == "2"
    live = ("--function-name", name, "--name", "live")
    assert aws("create-alias", *live, "--function-version", "1")[1]["AliasArn"] == arn_of(name, "live")
    shifted = aws("update-alias", *live, "--routing-config", "AdditionalVersionWeights={2=0.5}")[1]
    assert shifted["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.5}}
    assert aws("wait", "published-version-active", "--function-name", name, "--qualifier", "2")[0] == 0
    out = tmp_path / "answer"
    answer = aws("invoke", "--function-name", f"{name}:live", str(out))[1]
    assert answer["ExecutedVersion"] == out.read_text()
    listed = aws("list-versions-by-function", "--function-name", name)[1]["Versions"]
    assert [one["Version"] for one in listed] == ["$LATEST", "1", "2"]
    code, _, stderr = aws("delete-function", "--function-name", name, "--qualifier", "2")
    assert code in API_ERRORS and "the following aliases reference it: [live]" in stderr
    assert aws("delete-alias", *live)[0] == 0
    assert aws("delete-function", "--function-name", name, "--qualifier", "2")[0] == 0
