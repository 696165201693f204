"""SIGKILL in the middle of everything, SIGTERM in the middle of an invocation, and a full disk."""

import base64
import os
import socket
import subprocess
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from support import ROLE, kernel
from support.clients import Api, free_name
from support.history import Client, Progress, read_state
from support.interpreters import python_for
from support.packages import digest_hex, zip_fixture, zip_of_random
from support.polling import wait_until

# What is unused waits some seconds; what was missed then goes with the round of once a minute.
GONE_SECONDS = 90
CLIENTS = 4
OPERATIONS = 50
KILLS = ["daemon", "tree", "daemon", "tree"]


def is_clean(server, tree, seconds=20):
    """Waits until nothing is left of a stopped server; shows what is, if something stays."""
    try:
        wait_until(lambda: not kernel.leftovers(server.data_dir, server.key, tree), "clean", seconds, 0.1)
    except AssertionError:
        assert kernel.leftovers(server.data_dir, server.key, tree) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["root", "user"])
def test_200_operations_survive_kills(server_factory, mode):
    server = server_factory(mode=mode)
    credentials, progress, up = server.credentials(), Progress(), threading.Event()
    up.set()
    clients = [Client(server, credentials, seed, OPERATIONS, progress, python_for(mode), up) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    total, trees = CLIENTS * OPERATIONS, {}
    for number, target in enumerate(KILLS, start=1):
        progress.wait_for(total * number // (len(KILLS) + 1), 120)
        server.remember_key()
        before = server.tree()
        trees.update(before)
        up.clear()
        server.kill_daemon() if target == "daemon" else server.kill_tree()
        server.start(port=server.port)
        up.set()
        wait_until(
            lambda tree=before: not kernel.alive(tree), f"all processes of the run before kill {number} are gone", 20
        )
    for client in clients:
        client.join(120)
        assert not client.is_alive(), "the client ended"
    check_state(Api(server.endpoint, credentials), server, clients)
    server.remember_key()
    trees.update(server.tree())
    print(f"{mode}: {sum(client.lost for client in clients)} of {total} operations lost their answer")
    assert server.stop() == 0
    is_clean(server, trees)


def check_state(api, server, clients):
    """Every acknowledged change is there, nothing is half made, and everything listed runs."""
    assert [problem for client in clients for problem in client.problems] == []
    errors = [error for client in clients for error in client.platform_errors]
    assert len(errors) <= CLIENTS * len(KILLS), "at each kill each client may meet one error of the platform: " + str(
        errors
    )
    want = {name: fact.states for client in clients for name, fact in client.facts.items()}
    listed = {
        item["FunctionName"]
        for page in api.client.get_paginator("list_functions").paginate()
        for item in page["Functions"]
    }
    assert listed <= set(want)
    for name, states in want.items():
        state = read_state(api, name)
        assert state in states, f"{name} is {state}, acceptable were {states}"
        assert (name in listed) == (state is not None)
        if state:
            api.wait_active(name)
            assert api.invoke(name, {}).ok() == {"variant": str(state[0]), "memory": str(state[1])}
    folder = os.path.join(server.data_dir, "packages")
    assert [entry for entry in os.listdir(folder) if entry.startswith("tmp")] == []
    for entry in os.listdir(folder):
        if entry.endswith(".zip"):
            with open(os.path.join(folder, entry), "rb") as file:
                assert digest_hex(file.read()) == entry.removesuffix(".zip")
    wait_until(lambda: not unreferenced(api, server, listed), "what nobody refers to goes", GONE_SECONDS, 0.2)


def unreferenced(api, server, listed) -> list:
    """Log folders and packages in the data folder that belong to none of the functions `listed`."""
    hashes = [api.client.get_function_configuration(FunctionName=name)["CodeSha256"] for name in listed]
    digests = {base64.b64decode(one).hex() for one in hashes}
    logs = set(os.listdir(os.path.join(server.data_dir, "logs"))) - listed
    packages = {entry.removesuffix(".zip") for entry in os.listdir(os.path.join(server.data_dir, "packages"))} - digests
    return [*logs, *packages]


@pytest.mark.parametrize("mode", ["root", "user"])
@pytest.mark.parametrize("how", ["daemon", "tree", "launcher", "term"])
def test_nothing_is_left(server_factory, mode, how):
    """After each way to end, and after the next start and stop, no process, cgroup, mount or link stays."""
    server = server_factory(mode=mode)
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Runtime=python_for(mode), Handler="probe.counter")
    api.invoke(name, {}).ok()
    server.remember_key()
    tree = server.tree()
    assert len(tree) >= 4, "launcher, daemon, an instance's init and its guest"
    if how == "daemon":
        assert server.kill_daemon() != 0
        is_clean(server, tree)
    elif how == "term":
        assert server.stop() == 0
        is_clean(server, tree)
    elif how == "launcher":
        os.kill(server.pid, 9)
        server.wait()
    else:
        server.kill_tree()
    wait_until(lambda: not kernel.alive(tree), "every process is gone", 20)
    server.start(port=server.port)
    assert api.invoke(name, {}).ok()["count"] == 1
    tree = {**tree, **server.tree()}
    assert server.stop() == 0
    is_clean(server, tree)


def test_sigterm_drains(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.overlapping")
    seconds = f"2.{uuid.uuid4().int % 10**9:09}"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.invoke, name, {"argument": seconds})
        wait_until(lambda: kernel.pids_with_argument(seconds), "the invocation runs")
        server.terminate()
        late = wait_until(lambda: refusal_of_new(api, name, running), "new invocations are refused", 10)
        print("a new invocation while draining:", late)
        answer = running.result()
    assert answer.status == 200 and answer.ok() == "slept"
    assert server.wait() == 0
    is_clean(server, {})


def refusal_of_new(api, name, running):
    """How a new invocation is refused; None while it is still taken."""
    assert not running.done(), "the running invocation ended before new ones were refused"
    try:
        raw = api.send(
            "POST",
            f"/2015-03-31/functions/{name}/invocations?Qualifier=%24LATEST",
            b"{}",
            {"X-Amz-Invocation-Type": "DryRun"},
        )
    except OSError as error:
        return type(error).__name__
    return raw.status if raw.status != 204 else None


def test_a_second_sigterm_and_a_bounded_drain(server_factory):
    """An invocation that outlasts the drain time does not keep the server."""
    server = server_factory(config={"limits": {"drain_ms": 500}})
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.overlapping", Timeout=60)
    seconds = f"50.{uuid.uuid4().int % 10**9:09}"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.invoke, name, {"argument": seconds})
        wait_until(lambda: kernel.pids_with_argument(seconds), "the invocation runs")
        started = time.monotonic()
        tree = server.tree()
        server.terminate()
        server.terminate()
        assert server.wait(20) == 0
        assert time.monotonic() - started < 15
        assert running.exception(30) is not None or running.result().error is not None
    is_clean(server, tree)


def lines_on_disk(server, name) -> list:
    """The lines of a function's log files, readable without a server."""
    folder = os.path.join(server.data_dir, "logs", name)
    found = []
    for entry in sorted(os.listdir(folder)):
        with open(os.path.join(folder, entry), encoding="utf-8", errors="replace") as file:
            found += file.read().splitlines()
    return found


def is_refused(status) -> bool:
    """Is this, from `Api.try_invoke`, how a server that ends refuses? (Not taken, or no longer listening.)"""
    return status in (429, 503) or isinstance(status, str)


def test_sigterm_waits_for_an_invocation_whose_client_has_left(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.overlapping")
    warm = api.create(zip_fixture("probe.py"))
    api.invoke(warm, 1).ok()
    seconds = f"4.{uuid.uuid4().int % 10**9:09}"
    api.leave(name, {"argument": seconds}, lambda: kernel.pids_with_argument(seconds))
    server.terminate()
    late = wait_until(lambda: is_refused(status := api.try_invoke(warm)) and status, "new invocations are refused", 10)
    print("a new invocation while draining:", late)
    assert kernel.pids_with_argument(seconds), "the abandoned invocation still runs while new ones are refused"
    assert server.wait() == 0
    text = "\n".join(lines_on_disk(server, name))
    assert f"awake after {seconds}" in text, text
    assert "END RequestId" in text and "REPORT RequestId" in text, text
    is_clean(server, {})


def test_a_second_sigterm_ends_at_once(server_factory):
    """Told once it waits for what runs; told again, more than a second later, it does not."""
    server = server_factory(config={"limits": {"drain_ms": 100_000}})
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.overlapping", Timeout=100)
    seconds = f"90.{uuid.uuid4().int % 10**9:09}"
    api.leave(name, {"argument": seconds}, lambda: kernel.pids_with_argument(seconds))
    tree = server.tree()
    server.terminate()
    wait_until(lambda: is_refused(api.try_invoke(name, {"argument": "0"})), "new invocations are refused", 10)
    time.sleep(2)  # The span that tells a second wish from an echo of the first.
    assert server.process.poll() is None and kernel.pids_with_argument(seconds), "it waits for what runs"
    server.terminate()
    assert server.wait(10) == 0
    is_clean(server, tree)


def test_sigterm_does_not_wait_for_a_silent_store(server_factory):
    """The S3 endpoint takes connections and never answers; the drain time bounds that too."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(20)
        s3 = {
            "endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
            "path_style": True,
        }
        server = server_factory(config={"limits": {"drain_ms": 1000}, "s3": s3})
        api = Api(server.endpoint, server.credentials())
        body = {"FunctionName": free_name(), "Runtime": "python3.11", "Handler": "a.b", "Role": ROLE}
        body["Code"] = {"S3Bucket": "bucket", "S3Key": "key.zip"}
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(api.send_json, "POST", "/2015-03-31/functions", body)
            connection, _ = silent.accept()
            with connection:
                server.terminate()
                assert server.wait(8) == 0
                assert asked.exception(20) is not None or asked.result().status >= 400
    is_clean(server, {})


class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path):
        """A data folder on a file system of 24 MB."""
        if os.geteuid() != 0:
            pytest.skip("needs root: it mounts a small file system")
        folder = tmp_path / "disk"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], check=True, timeout=10)
        os.makedirs(folder / "data")
        yield str(folder / "data")
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)

    def test_a_create_that_finds_no_room_changes_nothing(self, server_factory, small_disk):
        server = server_factory(data_dir=small_disk)
        api = Api(server.endpoint, server.credentials())
        small = api.create(zip_fixture("probe.py"))
        packages = os.path.join(small_disk, "packages")
        before = set(os.listdir(packages))
        for _ in range(2):
            name = free_name()
            refusal = api.refused(
                "create_function",
                FunctionName=name,
                Runtime="python3.11",
                Handler="probe.echo",
                Role=ROLE,
                Code={"ZipFile": zip_of_random(16_000_000)},
            )
            assert refusal.status >= 400 and refusal.message, refusal
            api.check(api.refused("get_function", FunctionName=name), 404, "ResourceNotFoundException")
            assert set(os.listdir(packages)) == before
        assert api.invoke(small, {"still": "here"}).ok() == {"still": "here"}
        another = api.create(zip_fixture("probe.py"))
        assert api.invoke(another, 1).ok() == 1

    def test_a_disk_without_any_room(self, server_factory, small_disk):
        """Nothing can be written: changes are refused, warm invocations go on, and the room coming back heals it."""
        server = server_factory(data_dir=small_disk)
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"))
        assert api.invoke(name, "warm").ok() == "warm"
        filler = os.path.join(os.path.dirname(small_disk), "filler")
        with open(filler, "wb", buffering=0) as file:
            with pytest.raises(OSError):
                while True:
                    file.write(b"\0" * 65536)
        raw = api.send_json("PUT", f"/2015-03-31/functions/{name}/configuration", {"Description": "d" * 200})
        refused = api.send_json("POST", "/2015-03-31/functions", {"FunctionName": "x"})
        assert raw.status in (200, 500, 503, 507) and refused.status >= 400
        assert api.invoke(name, 7).ok() == 7
        os.unlink(filler)
        wait_until(
            lambda: api.client.get_function_configuration(FunctionName=name)["LastUpdateStatus"] == "Successful",
            "the update ends",
            30,
        )
        api.update(name, Description="room again")
        assert requests.get(f"{server.endpoint}/healthz", timeout=5).status_code == 200
