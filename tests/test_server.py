"""The program itself: its flags, its config, its footprint, its other commands."""

import json
import os
import re
import socket
import subprocess
import uuid
from pathlib import Path

import pytest
import requests

from support import kernel
from support.clients import Api, free_name
from support.packages import zip_fixture, zip_of
from support.polling import wait_until
from support.server import OWN_MODE, ROOT, Server, free_port, is_release

# In kB; the promise is 40 MB for an idle server.
IDLE_KB_MAX = 40_000
# The promise: ready in under 100 ms. Others use this machine too, so the best of a few starts counts.
READY_S_MAX = 0.1
STARTS = 8
EXAMPLES = ROOT / "examples" / "functions"


def is_at_rest(server) -> bool:
    """Only the launcher, its cloner, its makers of networks and of file systems, and the daemon are there, and none of them runs."""
    processes = kernel.all_processes()
    tree = server.tree()
    return len(tree) <= 5 and all(processes[pid][1] == "S" for pid in tree if pid in processes)


class TestConfig:
    def test_unknown_keys_are_refused_all_at_once(self, server_factory):
        config = {"lisen": "x", "limits": {"idle_mss": 1, "zip_byte": 2, "idle_ms": "soon"}, "nosuch": {"a": 1}}
        server = server_factory(config=config, start=False)
        answer = server.run(
            "serve", "--listen", f"127.0.0.1:{free_port()}", "--data-dir", server.data_dir, *server.flags, timeout=20
        )
        assert answer.returncode not in (0, None) and answer.returncode > 0
        for word in ("lisen", "idle_mss", "zip_byte", "nosuch", "idle_ms"):
            assert word in answer.stderr, answer.stderr
        assert "panicked" not in answer.stderr

    def test_a_missing_or_broken_file(self, server_factory, tmp_path):
        server = server_factory(start=False)
        broken = tmp_path / "broken.toml"
        broken.write_text("[limits\nidle_ms = 1")
        for path in (tmp_path / "none.toml", broken):
            answer = server.run(
                "serve",
                "--listen",
                f"127.0.0.1:{free_port()}",
                "--data-dir",
                server.data_dir,
                "--config",
                str(path),
                timeout=20,
            )
            assert answer.returncode > 0 and path.name in answer.stderr, answer.stderr

    @pytest.mark.parametrize(
        "flags",
        [
            ["--listen", "nonsense"],
            ["--no-such-flag"],
            ["--account-id", "12"],
            ["--region", "!"],
            ["--listen", "127.0.0.1:99999"],
        ],
    )
    def test_bad_flags(self, server_factory, flags):
        server = server_factory(start=False)
        listen = [] if "--listen" in flags else ["--listen", f"127.0.0.1:{free_port()}"]
        answer = server.run("serve", *listen, "--data-dir", server.data_dir, *flags, timeout=20)
        assert answer.returncode > 0 and flags[0] in answer.stderr + " --listen", answer.stderr
        assert answer.stderr.strip() and "panicked" not in answer.stderr

    def test_flags_win_over_the_file(self, server_factory):
        server = server_factory(
            config={"region": "eu-west-1", "account_id": "123456789012"}, flags=["--region", "us-east-1"]
        )
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"))
        arn = api.client.get_function_configuration(FunctionName=name)["FunctionArn"]
        assert arn == f"arn:aws:lambda:us-east-1:123456789012:function:{name}"


class TestLife:
    def test_two_servers_on_one_folder(self, server_factory):
        first = server_factory()
        answer = first.run("serve", "--listen", f"127.0.0.1:{free_port()}", "--data-dir", first.data_dir, timeout=20)
        assert answer.returncode > 0 and first.data_dir in answer.stderr, answer.stderr
        assert first.healthy()
        api = Api(first.endpoint, first.credentials())
        assert api.invoke(api.create(zip_fixture("probe.py")), 1).ok() == 1

    def test_an_address_in_use(self, server_factory):
        server = server_factory(start=False)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            answer = server.run("serve", "--listen", address, "--data-dir", server.data_dir, timeout=20)
        assert answer.returncode > 0 and address in answer.stderr, answer.stderr

    @pytest.mark.parametrize("mode", ["root", "user"])
    def test_ready_and_idle(self, server_factory, mode):
        server = server_factory(mode=mode)
        print(f"{mode}: ready after {server.ready_s * 1000:.0f} ms")
        api = Api(server.endpoint, server.credentials())
        api.client.list_functions()
        wait_until(lambda: is_at_rest(server), "the search for interpreters has ended", 30)
        used = kernel.pss_kb(server.tree())
        print(f"{mode}: idle, {used} kB in {len(server.tree())} processes")
        assert used < IDLE_KB_MAX

    @pytest.mark.skipif(not is_release(), reason="a promise of the release binary; TIDEGATE_BIN names another one")
    @pytest.mark.parametrize("mode", ["root", "user"])
    def test_ready_in_under_100_ms(self, server_factory, mode):
        """From the command to the first answer of /healthz, on an empty data folder."""
        needed_s = []
        while not needed_s or (min(needed_s) >= READY_S_MAX and len(needed_s) < STARTS):
            server = server_factory(mode=mode)
            needed_s.append(server.ready_s)
            server.close()
        print(f"{mode}: ready after", *(f"{seconds * 1000:.0f} ms" for seconds in needed_s))
        assert min(needed_s) < READY_S_MAX, needed_s

    def test_idle_uses_no_cpu(self, server_factory):
        """Over two seconds in which nothing happens the tree gets at most two clock ticks."""
        import time

        server = server_factory()
        wait_until(lambda: is_at_rest(server), "the search for interpreters has ended", 30)
        before = kernel.cpu_ticks(server.tree())
        time.sleep(2)  # The measured span itself, not a wait for something.
        assert kernel.cpu_ticks(server.tree()) - before <= 2

    def test_the_daemon_holds_no_privilege(self, server_factory):
        server = server_factory()
        status = Path(f"/proc/{server.daemon_pid()}/status").read_text(encoding="utf-8")
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert re.search(rf"^{name}:\t0+$", status, re.MULTILINE), status
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        uids = re.search(r"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", status, re.MULTILINE).groups()
        assert "0" not in uids and len(set(uids)) == 1

    def test_metrics_and_health(self, server):
        assert requests.get(f"{server.endpoint}/healthz", timeout=5).text.strip() == "ok"
        text = requests.get(f"{server.endpoint}/metrics", timeout=5).text
        assert text.rstrip().endswith("# EOF") and "# TYPE" in text

    def test_http_that_is_none(self, server, api):
        """Nonsense on the public port ends that connection and nothing else."""
        for data in (
            b"\0\1\2\3",
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
            b"POST /2015-03-31/functions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            b"POST /2015-03-31/functions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as one:
                one.settimeout(10)
                try:
                    one.sendall(data)
                    one.shutdown(socket.SHUT_WR)
                    answer = one.recv(1000)
                except OSError:
                    answer = b""
                assert b" 200 " not in answer.split(b"\r\n")[0] and b" 500 " not in answer.split(b"\r\n")[0]
        assert api.client.list_functions()["ResponseMetadata"]["HTTPStatusCode"] == 200

    def test_a_client_that_goes_away(self, api, make):
        """An invocation whose caller hangs up does not spoil the instance for the next one."""
        name = make(Handler="probe.overlapping")
        seconds = f"1.{uuid.uuid4().int % 10**9:09}"
        api.leave(name, {"argument": seconds}, lambda: kernel.pids_with_argument(seconds))
        for _ in range(3):
            assert api.invoke(name, {"argument": "0"}).ok() == "slept"


class TestDoctor:
    @pytest.mark.parametrize("mode", ["root", "user"])
    def test_lines(self, server_factory, mode):
        server = server_factory(mode=mode, start=False)
        answer = server.run("doctor", timeout=60)
        assert answer.returncode in (0, 1), answer.stderr
        text = answer.stdout.lower()
        for word in (
            "memory limit",
            "cpu limit",
            "process limit",
            "seccomp",
            "landlock",
            "network",
            "/tmp",
            "python3.11",
        ):
            assert word in text, f"{word} is not in:\n{answer.stdout}"
        assert len(answer.stdout.splitlines()) >= 8

    def test_is_readable_for_programs(self, server_factory):
        server = server_factory(start=False)
        answer = server.run("doctor", "--output", "json", timeout=60)
        assert isinstance(json.loads(answer.stdout), (list, dict))


class TestCommands:
    """`deploy`, `invoke`, `list`, `logs`, `delete`: the public API from a terminal."""

    @pytest.fixture
    def tidegate(self, server, tmp_path):
        environment = {**server.environment(), **server.credentials(), "HOME": str(tmp_path)}

        def run(*arguments, stdin=None):
            return subprocess.run(
                [server.program, *arguments],
                capture_output=True,
                text=True,
                timeout=60,
                env=environment,
                cwd=tmp_path,
                input=stdin,
                check=False,
            )

        return run

    @pytest.mark.parametrize("example", ["hello-python", "hello-nodejs", "hello-bootstrap"])
    def test_examples_end_to_end(self, tidegate, api, example):
        name = free_name(example)
        try:
            answer = tidegate("deploy", str(EXAMPLES / example), "--name", name)
            assert answer.returncode == 0, answer.stderr
            answer = tidegate("invoke", name, "--payload", '{"name": "tide"}', "--tail")
            assert answer.returncode == 0, answer.stderr
            assert "REPORT RequestId" in answer.stderr and json.loads(answer.stdout) is not None
            answer = tidegate("list", "--output", "json")
            assert answer.returncode == 0 and name in answer.stdout
            json.loads(answer.stdout)
            wait_until(lambda: "REPORT" in tidegate("logs", name).stdout, "the log shows the invocation", 20, 0.2)
            again = tidegate("deploy", str(EXAMPLES / example), "--name", name)
            assert again.returncode == 0, again.stderr
            answer = tidegate("delete", name, "--yes")
            assert answer.returncode == 0, answer.stderr
            api.check(api.refused("get_function", FunctionName=name), 404, "ResourceNotFoundException")
        finally:
            api.delete(name)

    def test_payload_from_file_and_stdin(self, tidegate, probe, tmp_path):
        (tmp_path / "event.json").write_text('{"from": "file"}')
        assert json.loads(tidegate("invoke", probe, "--payload-file", "event.json").stdout) == {"from": "file"}
        assert json.loads(tidegate("invoke", probe, "-", stdin='{"from": "stdin"}').stdout) == {"from": "stdin"}
        assert json.loads(tidegate("invoke", probe, '{"from": "argument"}').stdout) == {"from": "argument"}

    def test_exit_codes(self, tidegate, make, server):
        name = make(Handler="probe.raising")
        failed = tidegate("invoke", name, "--payload", '{"text": "boom"}')
        assert failed.returncode == 1 and json.loads(failed.stdout)["errorMessage"] == "boom"
        assert tidegate("invoke").returncode == 2
        missing = tidegate("invoke", "doesnotexist", "--payload", "{}")
        assert missing.returncode == 3 and "error:" in missing.stderr and "Function not found" in missing.stderr
        environment = {
            **server.environment(),
            "AWS_ENDPOINT_URL_LAMBDA": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        gone = subprocess.run(
            [server.program, "invoke", name, "--payload", "{}"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )
        assert gone.returncode == 4 and "help:" in gone.stderr

    def test_settings_by_flags(self, tidegate, api, tmp_path):
        folder, name = tmp_path / "fn", free_name()
        folder.mkdir()
        (folder / "app.py").write_text(
            "import os\ndef handler(e, c): return [os.environ['COLOUR'], c.memory_limit_in_mb]\n"
        )
        try:
            answer = tidegate(
                "deploy",
                str(folder),
                "--name",
                name,
                "--runtime",
                "python3.11",
                "--handler",
                "app.handler",
                "--memory",
                "192",
                "--timeout",
                "9",
                "--env",
                "COLOUR=blue",
                "--network",
                "none",
                "--concurrency",
                "8",
                "--queue-ms",
                "250",
                "--queue-length",
                "20",
            )
            assert answer.returncode == 0, answer.stderr
            assert api.invoke(name, {}).ok() in (["blue", "192"], ["blue", 192])
            assert api.settings(name) == {
                "network": "none",
                "concurrency": 8,
                "queue_ms": 250,
                "queue_length": 20,
            }
            assert api.client.get_function_configuration(FunctionName=name)["Timeout"] == 9
        finally:
            api.delete(name)

    def test_a_bad_project_file(self, tidegate, tmp_path):
        folder = tmp_path / "bad"
        folder.mkdir()
        (folder / "app.py").write_text("x = 1")
        (folder / "tidegate.toml").write_text('nmae = "x"\nmemroy_mb = 1\n')
        answer = tidegate("deploy", str(folder))
        assert answer.returncode != 0 and "nmae" in answer.stderr and "memroy_mb" in answer.stderr, answer.stderr

    def test_no_colours_in_a_pipe(self, tidegate):
        answer = tidegate("list")
        assert answer.returncode == 0 and "\x1b[" not in answer.stdout + answer.stderr


def test_credentials_look_where_serve_keeps_them(server_factory):
    """Without `--data-dir` both mean `./tidegate-data`."""
    server = server_factory(start=False)
    server.data_dir = os.path.join(server.scratch, "tidegate-data")
    server.start()
    answer = server.run("credentials", cwd=server.scratch)
    assert answer.returncode == 0, answer.stderr
    assert server.credentials()["AWS_SECRET_ACCESS_KEY"] in answer.stdout


def test_help_and_version(server_factory):
    server: Server = server_factory(start=False)
    answer = server.run("--help")
    assert answer.returncode == 0
    for command in ("serve", "credentials", "doctor", "deploy", "invoke", "list", "logs", "delete"):
        assert re.search(rf"^\s+{command}\b", answer.stdout, re.MULTILINE), answer.stdout
    assert server.run("--version").returncode == 0
    assert server.run("no-such-command").returncode == 2
    assert os.path.basename(server.program).startswith("tidegate")


def _subnet_number(data_dir: str) -> int:
    """Which of the 64 subnets a data folder stands for: FNV-1a, as in `sandbox::config`."""
    hashed = 0xCBF29CE484222325
    for byte in data_dir.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) % 2**64
    return int("%08x" % ((hashed ^ (hashed >> 32)) % 2**32), 16) >> 24 & 63


ADDRESS = """
import socket
def handler(event, context):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.1", 9))
        return s.getsockname()[0]
"""


@pytest.mark.skipif(OWN_MODE != "root", reason="only root connects guests")
def test_servers_whose_folders_stand_for_one_subnet_take_two(server_factory, tmp_path):
    folders: dict = {}
    for number in range(1000):
        alike = folders.setdefault(_subnet_number(str(tmp_path / str(number))), [])
        alike.append(str(tmp_path / str(number)))
        if len(alike) == 3:
            break
    subnets = []
    for folder in alike:
        server = server_factory(data_dir=folder)
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_of({"app.py": ADDRESS}), Handler="app.handler")
        subnets.append(api.invoke(name).ok().split(".")[:2])
    assert subnets[0] != subnets[1] != subnets[2] != subnets[0], subnets
    assert all(first == "100" and 64 <= int(second) < 128 for first, second in subnets)
