"""What a managed function sees, says and can do wrong: Python and Node.js, every version this machine has."""

import json
import os
import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import arn_of, kernel
from support.clients import Api
from support.interpreters import nodes, python_for, pythons
from support.packages import fixture, zip_fixture, zip_of
from support.polling import wait_until

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
REPORT = re.compile(
    rf"REPORT RequestId: ({UUID})\tDuration: (\d+\.\d\d) ms\tBilled Duration: (\d+) ms\tMemory Size: (\d+) MB\t"
    r"Max Memory Used: (\d+) MB\t(?:Init Duration: (\d+\.\d\d) ms\t)?(?:Status: (\w+)\t)?(?:Error Type: [\w.]+\t)?"
    # Tidegate's own, behind Lambda's, where there is something to tell.
    r"(?:Cold Start: ([^\t\n]+)\tSandbox Duration: \d+\.\d\d ms\t(?:Evicted: \d+\t)?)?"
    r"(?:Throttle Wait: \d+\.\d\d ms \([^\t\n]+\)\t)?(?:Queued: \d+\.\d\d ms \([^\t\n]+\)\t)?\n"
)
RESPONSE_LIMIT = 6_291_556


class TestPython:
    @pytest.mark.parametrize("runtime", pythons())
    def test_each_version(self, make, api, runtime):
        name = make(Runtime=runtime, Handler="probe.surroundings")
        seen = api.invoke(name, {}).ok()
        assert seen["version"] == runtime.removeprefix("python")
        assert seen["cwd"] == "/var/task" and seen["tmp"] == "yes"
        assert seen["task"] == ["probe.py"] and seen["opt"] == []

    @pytest.mark.parametrize("runtime", pythons())
    def test_an_error_in_each_version(self, make, api, runtime):
        name = make(Runtime=runtime, Handler="probe.raising")
        assert api.invoke(name, {"text": "boom"}).failed()["errorMessage"] == "boom"

    def test_context(self, make, api):
        name = make(Handler="probe.context_of", MemorySize=192, Timeout=20)
        answer = api.invoke(name, {})
        seen = answer.ok()
        assert (
            re.fullmatch(UUID, seen["aws_request_id"]) and seen["aws_request_id"] == answer.headers["x-amzn-requestid"]
        )
        assert seen["function_name"] == name and seen["function_version"] == "$LATEST"
        assert seen["invoked_function_arn"] == arn_of(name)
        assert seen["log_group_name"] == f"/aws/lambda/{name}" and seen["memory_limit_in_mb"] == "192"
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", seen["log_stream_name"])
        assert 10_000 < seen["remaining_ms"] <= 20_000
        assert seen["custom"] is None and seen["identity"] is None
        assert api.invoke(f"{name}:$LATEST", {}).ok()["invoked_function_arn"] == arn_of(name, "$LATEST")

    def test_environment(self, make, api):
        name = make(Handler="probe.environment", MemorySize=192, Environment={"Variables": {"MINE": "ü =\n\"'"}})
        seen = api.invoke(name, {}).ok()
        want = {
            "_HANDLER": "probe.environment",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.11",
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "192",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
            "LAMBDA_TASK_ROOT": "/var/task",
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
            "MINE": "ü =\n\"'",
        }
        assert {key: seen.get(key) for key in want} == want
        assert "/var/task/lib" in seen["LD_LIBRARY_PATH"] and "/opt/lib" in seen["LD_LIBRARY_PATH"]
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", seen["AWS_LAMBDA_LOG_STREAM_NAME"])
        assert (
            "TIDEGATE" not in " ".join(seen)
            and "HOME" not in seen
            or seen.get("HOME", "").startswith(("/tmp", "/home/sbx", "/"))
        )

    def test_tmp_has_the_asked_size(self, make, api):
        name = make(Handler="probe.surroundings", EphemeralStorage={"Size": 700})
        megabytes = api.invoke(name, {}).ok()["tmp_bytes"] / 1_048_576
        assert 700 * 0.95 < megabytes < 700 * 1.05

    def test_exception(self, make, api):
        answer = api.invoke(make(Handler="probe.raising"), {"text": "boom ü"}, tail=True)
        error = answer.failed()
        assert error["errorMessage"] == "boom ü" and error["errorType"] == "ValueError"
        assert error["requestId"] == answer.headers["x-amzn-requestid"]
        frames = error["stackTrace"]
        assert re.match(r'^  File "/var/task/probe.py", line \d+, in raising\n', frames[0])
        assert re.match(r'^  File "/var/task/probe.py", line \d+, in inner\n', frames[-1])
        assert "[ERROR] ValueError: boom ü" in answer.log and "Traceback" in answer.log

    @pytest.mark.parametrize(
        "files,handler,kind,text",
        [
            (
                {"broken_import.py": fixture("broken_import.py")},
                "broken_import.handler",
                "Runtime.ImportModuleError",
                "Unable to import module 'broken_import': No module named 'no_such_module_at_all'",
            ),
            (
                {"probe.py": "x = 1"},
                "nowhere.handler",
                "Runtime.ImportModuleError",
                "Unable to import module 'nowhere': No module named 'nowhere'",
            ),
            (
                {"probe.py": "x = 1"},
                "probe.missing",
                "Runtime.HandlerNotFound",
                "Handler 'missing' missing on module 'probe'",
            ),
            (
                {"probe.py": "x = 1"},
                "nodot",
                "Runtime.MalformedHandlerName",
                "Bad handler 'nodot': not enough values to unpack (expected 2, got 1)",
            ),
            (
                {"broken_syntax.py": fixture("broken_syntax.py")},
                "broken_syntax.handler",
                "Runtime.UserCodeSyntaxError",
                re.compile("^Syntax error in module 'broken_syntax': "),
            ),
            ({"broken_top.py": fixture("broken_top.py")}, "broken_top.handler", "KeyError", "'at import'"),
        ],
    )
    def test_init_errors(self, make, api, files, handler, kind, text):
        error = api.invoke(make(zip_of(files), Handler=handler), {}).failed()
        assert error["errorType"] == kind
        assert text.search(error["errorMessage"]) if isinstance(text, re.Pattern) else error["errorMessage"] == text
        assert error.get("requestId", "") == ""

    def test_an_exit_during_init(self, make, api):
        name = make(zip_fixture("leaving_top.py"), Handler="leaving_top.handler")
        for _ in range(2):
            error = api.invoke(name, {}).failed()
            assert error["errorType"] == "Runtime.ExitError"
            assert re.fullmatch(
                rf"RequestId: {UUID} Error: Runtime exited with error: exit status 7", error["errorMessage"]
            )

    @pytest.mark.parametrize(
        "event,text",
        [
            ({"code": 0}, "Runtime exited without providing a reason"),
            ({"code": 127}, "Runtime exited with error: exit status 127"),
            ({"code": 3, "how": "sys"}, "Runtime exited with error: exit status 3"),
            ({"signal": 9}, "Runtime exited with error: signal: killed"),
            ({"signal": 11}, "Runtime exited with error: signal: segmentation fault"),
        ],
    )
    def test_exits(self, make, api, event, text):
        name = make(Handler="probe.leave")
        answer = api.invoke(name, event)
        error = answer.failed()
        assert error["errorType"] == "Runtime.ExitError"
        assert error["errorMessage"].startswith(f"RequestId: {answer.headers['x-amzn-requestid']} Error: {text}")
        assert api.invoke(name, event).failed()["errorType"] == "Runtime.ExitError"

    def test_timeout(self, make, api):
        name = make(Handler="probe.slow", Timeout=1)
        answer = api.invoke(name, {"seconds": 30}, tail=True)
        identity = answer.headers["x-amzn-requestid"]
        assert answer.failed() == {
            "errorType": "Sandbox.Timedout",
            "errorMessage": f"RequestId: {identity} Error: Task timed out after 1.00 seconds",
        }
        report = REPORT.search(answer.log)
        assert report and float(report[2]) >= 1000 and report[7] == "timeout", answer.log
        assert api.invoke(name, {"seconds": 0}).error is None

    def test_responses_by_size(self, make, api):
        name = make(Handler="probe.sized", MemorySize=512)
        assert len(api.invoke(name, {"bytes": RESPONSE_LIMIT}).body) == RESPONSE_LIMIT
        for size in (RESPONSE_LIMIT + 1, 7_340_032):
            error = api.invoke(name, {"bytes": size}).failed()
            assert error["errorType"] == "Function.ResponseSizeTooLarge"
            assert (
                error["errorMessage"] == "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
            )
        assert len(api.invoke(name, {"bytes": 10}).ok()) == 8

    def test_a_result_that_is_not_json(self, make, api):
        error = api.invoke(make(Handler="probe.unserialisable"), {}).failed()
        assert error["errorType"] == "Runtime.MarshalError"
        assert error["errorMessage"] == "Unable to marshal response: Object of type object is not JSON serializable"


class TestConfiguredRuntimes:
    """`[runtimes]` in the config names an interpreter, or a root folder that has one."""

    def test_an_interpreter(self, server_factory):
        path = next(
            path for path in ("/usr/bin/python3.11", os.path.realpath("/usr/bin/python3")) if os.path.exists(path)
        )
        runtime = next(f"python3.{minor}" for minor in range(14, 7, -1) if f"python3.{minor}" not in pythons())
        server = server_factory(config={"runtimes": {runtime: {"interpreter": path}}})
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"), Runtime=runtime, Handler="probe.surroundings")
        assert "python" + api.invoke(name, {}).ok()["version"] == os.path.basename(path)

    def test_a_root_folder(self, server_factory):
        runtime = python_for("user")
        server = server_factory(config={"runtimes": {runtime: {"root": "/"}}})
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"), Runtime=runtime, Handler="probe.surroundings")
        assert api.invoke(name, {}).ok()["version"] == runtime.removeprefix("python")


class TestNode:
    pytestmark = pytest.mark.skipif(not nodes(), reason="no Node.js on this machine")
    RUNTIME = (nodes() or ["nodejs20.x"])[0]

    @pytest.fixture
    def node(self, make):
        def create(handler, package=None, **parameters):
            return make(
                package or zip_fixture("probe.js"),
                Runtime=self.RUNTIME,
                Handler=handler,
                **{"MemorySize": 256, **parameters},
            )

        return create

    @pytest.mark.parametrize("runtime", nodes())
    def test_each_version(self, make, api, runtime):
        name = make(zip_fixture("probe.js"), Runtime=runtime, Handler="probe.counter", MemorySize=256)
        seen = api.invoke(name, {}).ok()
        assert seen["version"].startswith("v" + re.search(r"\d+", runtime)[0] + ".")
        assert api.invoke(name, {}).ok()["count"] == 2

    @pytest.mark.parametrize(
        "handler,want",
        [("echo", {"a": 1}), ("callback", {"late": {"a": 1}}), ("succeed", {"old": "style"}), ("nothing", None)],
    )
    def test_ways_to_answer(self, node, api, handler, want):
        assert api.invoke(node(f"probe.{handler}"), {"a": 1}).ok() == want

    def test_modules(self, node, api):
        seen = api.invoke(node("probe.handler", zip_fixture("probe.mjs")), {"a": 1}).ok()
        assert seen == {"started": "top-level await", "event": {"a": 1}, "file": "probe.mjs"}
        files = {
            "package.json": '{"type":"module"}',
            "sub/app.js": "export const run = async (e) => ({module: true, e});",
        }
        assert api.invoke(node("sub/app.run", zip_of(files)), 1).ok() == {"module": True, "e": 1}
        files = {
            "app.cjs": "exports.run = async () => require('./node_modules/dep').word;",
            "node_modules/dep/index.js": "exports.word = 'found';",
        }
        assert api.invoke(node("app.run", zip_of(files)), 1).ok() == "found"

    def test_context_and_surroundings(self, node, api):
        name = node("probe.context")
        answer = api.invoke(name, {})
        seen = answer.ok()
        assert 0 < seen.pop("remaining") <= 30_000
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", seen.pop("logStreamName"))
        assert seen == {
            "functionName": name,
            "functionVersion": "$LATEST",
            "invokedFunctionArn": arn_of(name),
            "memoryLimitInMB": "256",
            "awsRequestId": answer.headers["x-amzn-requestid"],
            "logGroupName": f"/aws/lambda/{name}",
        }
        seen = api.invoke(node("probe.surroundings"), {}).ok()
        assert seen["cwd"] == seen["dir"] == "/var/task" and seen["tmp"] == "yes"
        assert seen["env"]["AWS_EXECUTION_ENV"] == f"AWS_Lambda_{self.RUNTIME}"

    @pytest.mark.parametrize(
        "handler,kind,text",
        [
            ("throwing", "TypeError", "boom from node"),
            ("callbackError", "RangeError", "by callback"),
            ("fail", "Error", "old failure"),
        ],
    )
    def test_errors(self, node, api, handler, kind, text):
        error = api.invoke(node(f"probe.{handler}"), {}).failed()
        assert (error["errorType"], error["errorMessage"]) == (kind, text)
        assert error["trace"][0] == f"{kind}: {text}"

    def test_errors_that_nobody_catches(self, node, api):
        error = api.invoke(node("probe.rejected"), {}).failed()
        assert error["errorType"] == "Runtime.UnhandledPromiseRejection" and "nobody caught me" in error["errorMessage"]
        name = node("probe.uncaught")
        assert "out of the blue" in api.invoke(name, {}).failed()["errorMessage"]
        assert "out of the blue" in api.invoke(name, {}).failed()["errorMessage"]

    @pytest.mark.parametrize(
        "files,handler,kind",
        [
            ({"a.js": "require('no-such-module-at-all')"}, "a.handler", "Runtime.ImportModuleError"),
            ({"a.js": "exports.x = 1"}, "b.handler", "Runtime.ImportModuleError"),
            ({"a.js": "exports.x = 1"}, "a.handler", "Runtime.HandlerNotFound"),
            ({"a.js": "exports.handler = async ("}, "a.handler", "Runtime.UserCodeSyntaxError"),
            ({"a.js": "exports.x = 1"}, "nodot", "Runtime.MalformedHandlerName"),
            ({"a.js": "throw new RangeError('at load')"}, "a.handler", "RangeError"),
        ],
    )
    def test_init_errors(self, node, api, files, handler, kind):
        assert api.invoke(node(handler, zip_of(files)), {}).failed()["errorType"] == kind

    def test_exit_timeout_size(self, node, api):
        name = node("probe.leave")
        assert (
            api.invoke(name, {"code": 5}).failed()["errorMessage"].endswith("Runtime exited with error: exit status 5")
        )
        assert (
            api.invoke(name, {"code": 0}).failed()["errorMessage"].endswith("Runtime exited without providing a reason")
        )
        assert api.invoke(node("probe.hang", Timeout=1), {}).failed()["errorType"] == "Sandbox.Timedout"
        name = node("probe.sized", MemorySize=512)
        assert len(api.invoke(name, {"bytes": RESPONSE_LIMIT}).body) == RESPONSE_LIMIT
        assert api.invoke(name, {"bytes": RESPONSE_LIMIT + 1}).failed()["errorType"] == "Function.ResponseSizeTooLarge"

    def test_log_lines(self, node, api):
        answer = api.invoke(node("probe.talk"), {}, tail=True)
        identity = answer.headers["x-amzn-requestid"]
        stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
        for level, text in (("INFO", "a log line"), ("WARN", "a warning"), ("ERROR", "an error line")):
            assert re.search(rf"^{stamp}\t{identity}\t{level}\t{text}$", answer.log, re.MULTILINE), answer.log
        assert "\nraw text\n" in answer.log


class TestLogs:
    def test_start_end_report(self, make, api):
        name = make(Handler="probe.talk", MemorySize=192)
        first = api.invoke(name, {}, tail=True)
        identity = first.headers["x-amzn-requestid"]
        assert first.log.startswith(f"START RequestId: {identity} Version: $LATEST\n")
        assert f"\nEND RequestId: {identity}\nREPORT RequestId: {identity}\t" in first.log
        report = REPORT.search(first.log)
        assert report and report[6] is not None, first.log
        assert int(report[3]) >= float(report[2]) and report[4] == "192" and 0 < int(report[5]) <= 192
        assert "on stdout\n" in first.log and "on stderr\n" in first.log
        assert re.search(rf"^\[ERROR\]\t\S+Z\t{identity}\tthrough logging$", first.log, re.MULTILINE)
        second = REPORT.search(api.invoke(name, {}, tail=True).log)
        assert "\tCold Start: the version had no instance\t" in first.log and "(waited for a start)\t" in first.log
        assert second and "Cold Start" not in second[0] and "Queued" not in second[0], "of a used instance with a free slot there is nothing to tell"
        assert second[6] is None, "only the first invocation reports an Init duration"

    def test_the_tail_is_the_last_four_kb(self, make, api):
        answer = api.invoke(make(Handler="probe.talk"), {"lines": 2000}, tail=True)
        assert len(answer.log.encode()) == 4096
        assert "line 01999\n" in answer.log and "line 00000" not in answer.log and "REPORT RequestId" in answer.log

    def test_lines_reach_the_log(self, make, api):
        name = make(Handler="probe.talk")
        identity = api.invoke(name, {"lines": 3}).headers["x-amzn-requestid"]

        def all_there():
            lines = api.logs(name)
            return lines if any(line.startswith(f"REPORT RequestId: {identity}") for line in lines) else None

        lines = wait_until(all_there, "the REPORT line is in the log")
        assert lines[0] == f"START RequestId: {identity} Version: $LATEST"
        for text in ("on stdout", "on stderr", "line 00000", "line 00002", f"END RequestId: {identity}"):
            assert text in lines
        assert (
            api.send("GET", f"/tidegate/v1/functions/{name}/logs?limit=2")
            .json()["lines"][-1]["text"]
            .startswith("REPORT")
        )

    def test_log_files_are_bounded(self, server_factory):
        config = {"limits": {"log_file_bytes": 65536, "log_files": 2}}
        server = server_factory(config=config)
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"), Handler="probe.talk")
        for _ in range(5):
            api.invoke(name, {"lines": 3000}).ok()
        folder = os.path.join(server.data_dir, "logs", name)

        def settled():
            return any("REPORT" in line for line in api.logs(name, 50))

        wait_until(settled, "the log is written")
        sizes = {file: os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder)}
        assert len(sizes) <= 3 and all(size <= 65536 + 4096 for size in sizes.values()), sizes


class TestInstances:
    def test_are_reused_while_warm(self, make, api):
        name = make(Handler="probe.counter")
        seen = [api.invoke(name, {}).ok() for _ in range(5)]
        assert [one["count"] for one in seen] == [1, 2, 3, 4, 5]
        assert len({one["marker"] for one in seen}) == 1

    def test_parallel_invocations_get_their_own(self, make, api):
        name = make(Handler="probe.slow")
        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(lambda _: api.invoke(name, {"seconds": 1.5}).ok()["marker"], range(4)))
        assert len(set(seen)) == 4

    def test_end_after_an_idle_time(self, server_factory):
        server = server_factory(config={"limits": {"idle_ms": 300}})
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"), Handler="probe.counter")
        first = api.invoke(name, {}).ok()
        assert kernel.guests_below(server.pid)
        wait_until(lambda: not kernel.guests_below(server.pid), "the idle instance's processes end", 10)
        second = api.invoke(name, {}).ok()
        assert second["count"] == 1 and second["marker"] != first["marker"]

    def test_an_update_replaces_them(self, make, api):
        name = make(Handler="probe.counter")
        first = api.invoke(name, {}).ok()
        api.update(name, Description="another")
        assert api.invoke(name, {}).ok()["marker"] != first["marker"]

    def test_an_update_lets_running_invocations_finish(self, make, api):
        name, seconds = make(Handler="probe.overlapping"), f"2.{uuid.uuid4().int % 10**9:09}"
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(api.invoke, name, {"argument": seconds})
            wait_until(lambda: kernel.pids_with_argument(seconds), "the invocation began", 10)
            api.update(name, Timeout=25)
            assert running.result().ok() == "slept"

    def test_are_replaced_after_a_failure(self, make, api):
        name = make(Handler="probe.leave")
        for _ in range(3):
            assert api.invoke(name, {"code": 1}).failed()["errorType"] == "Runtime.ExitError"

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: CPU shares need a cgroup")
    def test_cpu_follows_memory(self, make, api):
        """128 MB buys 7 % of a CPU: a busy loop gets that share of the wall clock, give or take the scheduler."""
        source = (
            "import time\ndef echo(e, c):\n t, p = time.time(), time.process_time()\n"
            " while time.time() - t < 3: pass\n return (time.process_time() - p) / (time.time() - t)\n"
        )
        share = api.invoke(make(zip_of({"probe.py": source}), MemorySize=128), {}, tail=True).ok()
        assert share < 0.25


def test_fields_of_an_answer_are_bytes_of_the_function(make, api):
    """What the function returns arrives byte for byte as its own serialiser wrote it."""
    answer = api.invoke(make(zip_of({"probe.py": "def echo(e, c): return {'b': 1, 'a': [1.0, 'ü']}"})), {})
    assert json.loads(answer.body) == {"b": 1, "a": [1.0, "ü"]} and answer.body.index(b'"b"') < answer.body.index(
        b'"a"'
    )
