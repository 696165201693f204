"""What a deleted function leaves in the data folder: nothing, and nothing of it comes back."""

import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import kernel
from support.clients import Api, free_name
from support.packages import digest_hex, fixture, zip_fixture, zip_of
from support.polling import wait_until

# Packages wait some seconds for invocations under way; what was missed then goes with the round of once a minute.
GONE_SECONDS = 90


def left_of(server, name: str, package: bytes) -> list:
    """What the data folder still has of a function and its package."""
    digest = digest_hex(package)
    paths = [f"logs/{name}", f"packages/{digest}", f"packages/{digest}.zip"]
    return [path for path in paths if os.path.lexists(os.path.join(server.data_dir, path))]


def sleeping(api, name: str, pool, seconds: int):
    """An invocation that now runs and will print when it is over; and what finds its process."""
    argument = f"{seconds}.{uuid.uuid4().int % 10**9:09}"
    running = pool.submit(api.invoke, name, {"argument": argument})
    wait_until(lambda: kernel.pids_with_argument(argument), "the invocation runs", 20)
    return running, argument


class TestLogs:
    def test_a_deleted_function_s_log_does_not_come_back(self, api, make):
        """Deleted in the middle of an invocation; a new function of that name begins with an empty log."""
        package = zip_fixture("probe.py")
        name = make(package, Handler="probe.overlapping")
        with ThreadPoolExecutor(1) as pool:
            running, argument = sleeping(api, name, pool, 2)
            api.delete(name)
            running.result()
        api.create(package, name=name)
        answer = api.invoke(name, {"new": 1})
        assert answer.ok() == {"new": 1}
        new = answer.headers["x-amzn-requestid"]
        lines = wait_until(lambda: seen(api, name, f"REPORT RequestId: {new}"), "the new function's log", 20)
        assert [line for line in lines if "RequestId" in line and new not in line] == []
        assert [line for line in lines if argument in line] == []

    def test_lines_of_the_deleted_do_not_mix_with_the_new(self, api, make):
        """The deleted function still runs when the new one of its name is already there."""
        package = zip_fixture("probe.py")
        name = make(package, Handler="probe.overlapping")
        with ThreadPoolExecutor(1) as pool:
            running, argument = sleeping(api, name, pool, 4)
            api.delete(name)
            api.create(package, name=name)
            running.result()
        answer = api.invoke(name, {"new": 1})
        new = answer.headers["x-amzn-requestid"]
        lines = wait_until(lambda: seen(api, name, f"REPORT RequestId: {new}"), "the new function's log", 20)
        assert [line for line in lines if argument in line] == []
        assert [line for line in lines if "RequestId" in line and new not in line] == []


def seen(api, name, text):
    """The lines of a log once one begins with `text`."""
    lines = api.logs(name)
    return lines if any(line.startswith(text) for line in lines) else None


@pytest.mark.slow
def test_nothing_stays_of_deleted_functions(server, api):
    """Logs and packages go by themselves, also of a function that was deleted while it ran."""
    gone = []
    with ThreadPoolExecutor(1) as pool:
        for running in (False, True):
            package = zip_of({"probe.py": f"MARK = '{uuid.uuid4()}'\n" + fixture("probe.py")})
            name = api.create(package, Handler="probe.overlapping")
            if running:
                under_way, _ = sleeping(api, name, pool, 2)
            else:
                api.invoke(name, {"argument": "0"}).ok()
            assert left_of(server, name, package)
            api.delete(name)
            gone.append((name, package))
        under_way.result()
    wait_until(lambda: not any(left_of(server, *one) for one in gone), "logs and packages go", GONE_SECONDS, 0.2)


def test_a_start_sweeps_what_nobody_refers_to(server_factory):
    """What an earlier run could no longer remove goes at the next start; what is used stays."""
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    package, ghost = zip_fixture("probe.py"), free_name("ghost")
    name = api.create(package)
    api.invoke(name, 1).ok()
    assert server.stop() == 0
    stale = zip_of({"app.py": f"# {uuid.uuid4()}"})
    for kind, used_name, new_name in (
        ("logs", name, ghost),
        ("packages", digest_hex(package), digest_hex(stale)),
    ):
        # A copy has the owner and the mode that the server itself gives.
        folder = os.path.join(server.data_dir, kind)
        copy_as_is(os.path.join(folder, used_name), os.path.join(folder, new_name))
    with open(os.path.join(server.data_dir, "packages", digest_hex(stale) + ".zip"), "wb") as file:
        file.write(stale)
    assert len(left_of(server, ghost, stale)) == 3
    server.start(port=server.port)
    wait_until(lambda: not left_of(server, ghost, stale), "what nobody refers to goes", 20)
    assert len(left_of(server, name, package)) == 3
    assert api.invoke(name, 2).ok() == 2
    assert any("RequestId" in line for line in api.logs(name)), "the log of a function that exists stays"


def copy_as_is(source: str, target: str) -> None:
    """Copies a folder with owners and modes."""
    shutil.copytree(source, target)
    for folder, folders, files in os.walk(source):
        beside = os.path.join(target, os.path.relpath(folder, source))
        for entry in (".", *folders, *files):
            found = os.stat(os.path.join(folder, entry))
            os.chown(os.path.join(beside, entry), found.st_uid, found.st_gid)
