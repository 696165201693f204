"""What idle instances cost: frozen after a while, woken by the next invocation."""

import time
import uuid

import pytest

from support import kernel
from support.clients import Api
from support.packages import zip_of
from support.polling import wait_until

BUSY = """
import subprocess

def handler(event, context):
    if event.get("mark"):
        # Burns CPU time in the background for as long as it may run.
        subprocess.Popen(["/bin/sh", "-c", "while :; do :; done", event["mark"]])
    return "ran"
"""


def has_freezer(server) -> bool:
    """Does this server freeze? An unprivileged one has no control groups here."""
    return server.mode == "root" and "idle instances may use CPU time" not in server.log()


class TestFreezing:
    def test_a_busy_loop_left_behind_stops_and_goes_on(self, server_factory):
        server = server_factory(config={"limits": {"freeze_after_ms": 300}})
        if not has_freezer(server):
            pytest.skip("no freezer")
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_of({"busy.py": BUSY}), Handler="busy.handler", MemorySize=1769)
        mark = f"mark-{uuid.uuid4()}"
        assert api.invoke(name, {"mark": mark}).ok() == "ran"
        pids = wait_until(lambda: kernel.pids_with_argument(mark), "the loop runs", 10)
        wait_until(lambda: not self.burns(pids), "the loop stands still", 10)
        assert kernel.pids_with_argument(mark) == pids, "frozen, not killed"
        assert api.invoke(name, {}).ok() == "ran", "the next invocation thaws it"
        wait_until(lambda: self.burns(pids), "the loop goes on", 10)
        wait_until(lambda: not self.burns(pids), "and is frozen again", 10)
        # Stopping a frozen instance ends all its processes.
        api.delete(name)
        wait_until(lambda: not kernel.pids_with_argument(mark), "the frozen loop is gone", 10)

    def test_never_if_so_configured(self, server_factory):
        server = server_factory(config={"limits": {"freeze_after_ms": 0}})
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_of({"busy.py": BUSY}), Handler="busy.handler", MemorySize=1769)
        mark = f"mark-{uuid.uuid4()}"
        assert api.invoke(name, {"mark": mark}).ok() == "ran"
        pids = wait_until(lambda: kernel.pids_with_argument(mark), "the loop runs", 10)
        for _ in range(4):
            wait_until(lambda: self.burns(pids), "the loop goes on", 10)

    @staticmethod
    def burns(pids) -> bool:
        """Whether the processes get any CPU time within half a second."""
        before = kernel.cpu_ticks(pids)
        time.sleep(0.5)
        return kernel.cpu_ticks(pids) > before
