"""What becomes of functions when a process is killed that their guests come from: a zygote, or the cloner."""

import os
import signal

from support import kernel
from support.clients import Api
from support.packages import zip_fixture
from support.polling import wait_until


def zygotes(server) -> list:
    """The zygotes of a server: interpreters that are in its own pid namespace."""
    home = kernel.namespace(server.pid, "pid")

    def is_zygote(pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return b"zygote.py" in file.read() and kernel.namespace(pid, "pid") == home
        except OSError:
            return False

    return [pid for pid in kernel.tree_of(server.pid) if is_zygote(pid)]


def has_forked(server) -> bool:
    """Whether a guest that runs a function is a child of a zygote."""
    processes = kernel.all_processes()
    return any(processes[pid][0] in zygotes(server) for pid in kernel.guests_below(server.pid) if pid in processes)


def fresh(api, name, turn):
    """An answer of a new instance."""
    api.update(name, Description=f"turn {turn}")
    answer = api.invoke(name, {}).ok()
    assert answer["count"] == 1
    return answer


def test_a_killed_zygote_takes_nobody_along(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.counter")
    turns = iter(range(1000))
    wait_until(lambda: fresh(api, name, next(turns)) and has_forked(server), "a guest comes from a zygote", 30)
    before = api.invoke(name, {}).ok()
    (zygote,) = zygotes(server)
    os.kill(zygote, signal.SIGKILL)
    after = api.invoke(name, {}).ok()
    assert (after["marker"], after["count"]) == (before["marker"], before["count"] + 1)
    # Whether the new zygote is up yet or not: there is an instance.
    fresh(api, name, next(turns))
    wait_until(lambda: zygote not in zygotes(server) and zygotes(server), "another zygote comes", 30)
    wait_until(lambda: fresh(api, name, next(turns)) and has_forked(server), "guests come from it", 30)


def test_the_end_of_an_orphan_is_known(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.leave")
    other = api.create(zip_fixture("probe.py"), Handler="probe.counter")
    turns = iter(range(1000))
    wait_until(lambda: fresh(api, other, next(turns)) and has_forked(server), "a guest comes from a zygote", 30)
    for zygote in zygotes(server):
        os.kill(zygote, signal.SIGKILL)
    for pid in kernel.guests_below(server.pid):
        os.kill(pid, signal.SIGKILL)
    assert api.invoke(name, {"code": 3}).failed()["errorMessage"].endswith("exit status 3")
    assert api.invoke(other, {}).ok()["count"] == 1


def test_a_killed_cloner_is_replaced(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_fixture("probe.py"), Handler="probe.counter")
    turns = iter(range(1000))
    before = api.invoke(name, {}).ok()

    def cloner():
        return [pid for pid in kernel.tree_of(server.pid) if kernel.command_name(pid) == "cloner"]

    (killed,) = cloner()
    os.kill(killed, signal.SIGKILL)
    after = api.invoke(name, {}).ok()
    assert (after["marker"], after["count"]) == (before["marker"], before["count"] + 1)
    # More than are in stock.
    for _ in range(6):
        fresh(api, name, next(turns))
    (other,) = cloner()
    assert other != killed
