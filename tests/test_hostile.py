"""Functions that try to escape, to reach others or to use everything up; on a server run as root and on one without.

After each, a neighbour still answers and the hostile function itself works on its next invocation.
"""

import json
import os
import random
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import kernel
from support.clients import Api
from support.hosts import (
    INTERNET_ADDRESS,
    INTERNET_GATEWAY,
    RESOLVED,
    Internet,
    Listener,
    has_memory_cgroup,
    own_addresses,
)
from support.interpreters import python_for
from support.packages import hostile_package, zip_fixture, zip_of
from support.polling import wait_until
from support.server import Server

MB = 1_048_576
MODES = ["root", "user"]
# What launcher and daemon may use while a function writes as much as it can.
SERVER_KB_MAX = 200_000


class Place:
    """A server of one mode with a hostile function, a neighbour and a function with a secret file."""

    def __init__(self, mode: str):
        self.mode = mode
        self.server = Server(mode).start()
        self.api = Api(self.server.endpoint, self.server.credentials())
        self.python = python_for(mode)
        self.secret = f"secret-{uuid.uuid4().hex}.txt"
        self.hostile = self.create(hostile_package(), Handler="hostile.handler", MemorySize=256, Timeout=20)
        self.neighbour = self.create(zip_fixture("probe.py"), Handler="probe.counter")
        self.other = self.create(zip_of({"probe.py": "def echo(e, c): return 1", self.secret: "secret"}))
        self.api.invoke(self.neighbour, {}).ok()
        self.api.invoke(self.other, {}).ok()

    def create(self, package, **parameters):
        return self.api.create(package, Runtime=self.python, **parameters)

    def attack(self, do: str, tail=False, on=None, **event):
        return self.api.invoke(on or self.hostile, {"do": do, **event}, tail=tail)

    def is_well(self):
        """The neighbour answers, and so does the hostile function when it behaves."""
        assert self.api.invoke(self.neighbour, {}).ok()["count"] >= 1
        assert self.attack("fine").ok() == "fine"

    def close(self):
        """Stops the server; whatever its functions did, it must still be able to."""
        code = self.server.stop()
        self.server.close()
        assert code == 0, "the server stops in order"


@pytest.fixture(scope="module", params=MODES)
def place(request):
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("needs root: it starts a server as root")
    one = Place(request.param)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def everybody_is_well_afterwards(request):
    yield
    if "place" in request.fixturenames:
        request.getfixturevalue("place").is_well()


@pytest.fixture
def listener():
    one = Listener()
    yield one
    one.close()


class TestFiles:
    def test_host_files_cannot_be_read(self, place):
        place.api.invoke(place.neighbour, {}).ok()
        paths = [
            place.server.data_dir,
            place.server.scratch,
            os.path.join(place.server.data_dir, "registry.db"),
            os.path.join(place.server.data_dir, "credentials.json"),
            "/tmp/tgvenv",
            os.path.dirname(os.path.abspath(__file__)),
        ]
        assert place.attack("read_host_files", paths=paths).ok() == []

    def test_the_root_is_made_of_the_runtime_alone(self, place):
        seen = place.attack("root_folder").ok()
        system = {
            "bin",
            "dev",
            "etc",
            "lib",
            "lib32",
            "lib64",
            "libx32",
            "opt",
            "proc",
            "sbin",
            "sys",
            "tmp",
            "usr",
            "var",
        }
        assert set(seen["/"]) <= system | {"home", "root"} and seen["homes"] == []
        assert set(seen["/var"]) <= {"lang", "runtime", "task", "tmp", "rapid"}
        assert "local" not in seen["/usr"] and "src" not in seen["/usr"]
        assert "sbx_user1051" in seen["passwd"] and "/root" not in seen["passwd"].replace("root:/root", "")
        with open("/etc/passwd", encoding="utf-8") as file:
            host_users = {line.split(":")[0] for line in file} - {"root", "nobody"}
        assert not host_users & {line.split(":")[0] for line in seen["passwd"].splitlines()}

    def test_no_command_line_names_the_host_s_folders(self, place):
        """(The mount table does: the kernel shows where a bind mount comes from. Nothing can be done with the name.)"""
        text = " ".join(place.attack("root_folder").ok()["cmdlines"])
        assert place.server.data_dir not in text and "/.pyenv" not in text

    def test_other_functions_code_cannot_be_found(self, place):
        assert place.attack("find_file", name=place.secret).ok() == []

    def test_nothing_outside_tmp_can_be_written(self, place):
        assert place.attack("write_outside").ok() == []

    def test_links_do_not_lead_out(self, place):
        assert place.attack("links_in_tmp", paths=[place.server.data_dir, place.server.log_path]).ok() == []

    def test_magic_links_of_proc(self, place):
        assert place.attack("magic_links").ok() == []

    def test_tmp_is_not_shared(self, place):
        marker = f"marker-{uuid.uuid4().hex}"
        assert place.attack("empty_tmp").ok() == "works"
        assert not os.path.exists(f"/tmp/{marker}")
        assert place.api.invoke(place.neighbour, {}).ok()["count"] >= 1
        assert place.attack("find_file", name="instance").ok() == []


class TestProcesses:
    def test_identity(self, place):
        seen = place.attack("identity").ok()
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(seen[name], 16) == 0, seen
        assert seen["NoNewPrivs"] == "1" and seen["Seccomp"] == "2"
        assert "0" not in seen["Uid"].split() and "0" not in seen["Gid"].split()
        assert seen["Groups"] in ("", "65534") and seen["hostname"] != os.uname().nodename
        assert len(seen["uid_map"].splitlines()) == 1 and seen["uid_map"].split()[2] == "1"
        assert seen["nofile"][1] == 1024 and seen["core"] == [0, 0]

    def test_instances_have_uids_of_their_own(self, place):
        if place.mode == "user":
            pytest.skip("without root all instances share the server's uid; tidegate doctor says so")
        uids = set()
        for pid in kernel.tree_of(place.server.pid):
            if kernel.namespace(pid, "pid") != kernel.namespace(place.server.pid, "pid"):
                uids.add(os.stat(f"/proc/{pid}").st_uid)
        assert len(uids - {0}) >= 2 and place.server.pid not in uids

    def test_host_processes_are_invisible(self, place):
        seen = place.attack("processes").ok()
        assert len(seen) <= 3 and max(seen) < 300, seen

    def test_others_cannot_be_killed(self, place):
        before = place.api.invoke(place.neighbour, {}).ok()
        pids = [pid for pid in kernel.all_processes() if pid > 300]
        assert place.attack("kill_others", pids=pids).ok() == []
        after = place.api.invoke(place.neighbour, {}).ok()
        assert (after["marker"], after["count"]) == (before["marker"], before["count"] + 1)

    def test_system_calls_of_the_kernel_s_back_doors(self, place):
        assert place.attack("forbidden_calls").ok() == []

    def test_namespaces_by_clone(self, place):
        assert place.attack("new_namespace_by_clone").ok() == []

    def test_set_uid_programs(self, place):
        assert place.attack("set_uid_programs").ok() == []

    def test_descriptors(self, place):
        seen = place.attack("descriptors").ok()
        assert set(seen) <= {"0", "1", "2", "3"} | {name for name, target in seen.items() if target.endswith("/fd")}, (
            seen
        )
        assert seen["0"] == "/dev/null"
        inherited = place.attack("inherited_descriptors").ok()
        assert set(inherited) <= {"0", "1", "2", "3"} and len(inherited) <= 4

    def test_only_its_own_environment_is_readable(self, place):
        words = [place.server.data_dir, "AWS_SECRET_ACCESS_KEY=" + place.api.credentials.secret_key, "TIDEGATE"]
        assert place.attack("big_environment", words=words).ok()["host_words"] == []


class TestNetwork:
    def test_odd_sockets(self, place):
        assert place.attack("odd_sockets").ok() == []

    def test_the_host_cannot_be_reached(self, place, listener):
        gateways = place.attack("gateways").ok()["gateways"]
        hosts = ["127.0.0.1", "127.0.0.53", "::1", "0.0.0.0", *own_addresses(), *gateways]
        targets = [[host, port] for host in hosts for port in (listener.port, place.server.port, 22)]
        assert place.attack("connect", targets=targets, timeout=0.2).ok() == []
        place.attack("datagrams", targets=[t for t in targets if ":" not in t[0]], text="hello").ok()
        assert place.attack("abstract_socket", name=listener.name).ok() == []
        assert listener.visitors() == []

    def test_link_local_addresses_cannot_be_reached(self, place):
        targets = [["169.254.169.254", 80], ["169.254.100.1", 9001], ["169.254.170.2", 80], ["fe80::1", 80]]
        assert place.attack("connect", targets=targets).ok() == []

    def test_other_instances_cannot_be_reached(self, place):
        package = hostile_package()
        other = place.create(package, Handler="hostile.handler", MemorySize=256, Timeout=20)
        try:
            found = place.attack("listen", on=other, port=8080).ok()
            outside = [address for name, address in found.items() if name != "lo"]
            if place.mode == "root" and shutil.which("nft"):
                assert outside, "in root mode with nft an instance has an address of its own"
            targets = [[address, port] for address in [*outside, "127.0.0.1"] for port in (8080, 9001)]
            assert place.attack("connect", targets=targets).ok() == []
        finally:
            place.api.delete(other)


class TestExhaustion:
    @pytest.fixture
    def strong(self, place):
        """The hostile function with a whole CPU and room for a thousand processes."""
        name = place.create(hostile_package(), Handler="hostile.handler", MemorySize=1769, Timeout=60)
        yield name
        place.api.delete(name)

    def test_fork_bomb(self, place, strong):
        seen = place.attack("fork_bomb", on=strong).ok()
        assert seen["stopped"] == "EAGAIN" and seen["children"] <= 1024, seen
        assert place.attack("fine", on=strong).ok() == "fine"

    def test_fork_bomb_left_running(self, place, strong):
        seen = place.attack("fork_bomb", on=strong, leave=True).ok()
        assert seen["stopped"] == "EAGAIN"
        assert place.api.invoke(place.neighbour, {}).ok()["count"] >= 1
        place.attack("leave", on=strong).failed()
        wait_until(lambda: len(place.server.tree()) < 100, "the children are gone", 20, 0.2)

    @pytest.mark.slow
    def test_relentless_fork_bomb(self, place):
        place.api.update(place.hostile, Timeout=3)
        try:
            with ThreadPoolExecutor(1) as pool:
                bomb = pool.submit(place.attack, "relentless_fork_bomb")
                while not bomb.done():
                    assert place.api.invoke(place.neighbour, {}).ok()["count"] >= 1
                assert bomb.result().failed()["errorType"] in ("Sandbox.Timedout", "Runtime.ExitError")
            wait_until(lambda: len(place.server.tree()) < 100, "the bomb's processes are gone", 20, 0.2)
        finally:
            place.api.update(place.hostile, Timeout=20)

    def test_threads(self, place):
        answer = place.attack("threads")
        if answer.error is None:
            assert answer.value <= 1024

    def test_memory(self, place):
        with ThreadPoolExecutor(1) as pool:
            hog = pool.submit(place.attack, "eat_memory", True)
            neighbours = 0
            while not hog.done():
                place.api.invoke(place.neighbour, {}).ok()
                neighbours += 1
            answer = hog.result()
        error = answer.failed()
        assert neighbours >= 1
        if place.mode == "root" and has_memory_cgroup():
            assert error["errorType"] == "Runtime.ExitError" and "signal: killed" in error["errorMessage"], error
            used = int(re.search(r"Max Memory Used: (\d+) MB", answer.log)[1])
            assert 200 <= used <= 256
        else:
            assert error["errorType"] in ("MemoryError", "Runtime.ExitError"), error

    def test_memory_in_children(self, place):
        if place.mode == "user" or not has_memory_cgroup():
            pytest.skip("needs a memory cgroup: without one the limit is per process")
        answer = place.attack("eat_memory_in_children", bytes=256 * MB)
        if answer.error is None:
            assert any(answer.value), "four halves of the memory do not fit into one whole"

    def test_shared_memory(self, place):
        answer = place.attack("eat_shared_memory", bytes=512 * MB)
        if answer.error is None:
            assert answer.value["taken"] <= 256 * MB and answer.value["stopped"] == "ENOSPC"
        else:
            assert answer.failed()["errorType"] == "Runtime.ExitError"

    def test_endless_loop(self, place):
        place.api.update(place.hostile, Timeout=1)
        try:
            for attack in ("loop_for_ever", "ignore_signals", "stop_self"):
                assert place.attack(attack).failed()["errorType"] == "Sandbox.Timedout", attack
        finally:
            place.api.update(place.hostile, Timeout=20)

    @pytest.mark.slow
    def test_full_tmp(self, place):
        seen = place.attack("fill_tmp", most=700 * MB).ok()
        assert seen["stopped"] == "ENOSPC" and 480 * MB <= seen["taken"] <= 540 * MB, seen
        assert place.attack("fine").ok() == "fine"
        assert place.attack("empty_tmp").ok() == "works"

    @pytest.mark.slow
    def test_many_inodes(self, place):
        assert place.attack("many_inodes").ok() > 1000
        place.attack("leave").failed()

    def test_open_files(self, place):
        seen = place.attack("many_files").ok()
        assert seen["stopped"] == "EMFILE" and seen["files"] <= 1024, seen

    @pytest.mark.slow
    def test_a_hundred_megabytes_of_logs(self, place):
        assert place.attack("much_log", bytes=100 * MB).ok() == "written"
        folder = os.path.join(place.server.data_dir, "logs", place.hostile)

        def size(name):
            try:
                return os.path.getsize(os.path.join(folder, name))
            except FileNotFoundError:
                return 0  # the oldest has just given way

        def written():
            return sum(size(name) for name in os.listdir(folder))

        assert written() <= 5 * 10_485_760 + MB
        assert kernel.pss_kb([place.server.pid, place.server.daemon_pid()]) < SERVER_KB_MAX

    @pytest.mark.slow
    @pytest.mark.parametrize("line", ["\n", "x\n"])
    def test_short_lines_without_end(self, place, strong, line):
        """The smallest lines cost the server most; what it cannot keep it drops, and says so."""
        pids = [place.server.pid, place.server.daemon_pid()]
        before, most_kb, neighbours = place.server.log_bytes(), 0, 0
        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(place.attack, "short_lines", on=strong, line=line, seconds=4)
            while not writer.done():
                assert place.api.invoke(place.neighbour, {}).ok()["count"] >= 1
                neighbours += 1
                most_kb = max(most_kb, kernel.pss_kb(pids))
        print(f"{writer.result().ok()} lines, at most {most_kb} kB, {neighbours} answers of the neighbour")
        assert 0 < most_kb < SERVER_KB_MAX and neighbours >= 3
        wait_until(lambda: "lines were dropped" in place.server.log_since(before), "dropped lines are reported", 20)

    def test_an_endless_line(self, place):
        assert place.attack("one_endless_line", bytes=20 * MB).ok() == "written"
        assert all(len(line.encode()) <= 262_144 for line in place.api.logs(place.hostile, 20))

    def test_binary_and_forged_log_lines(self, place):
        answer = place.attack("binary_log", tail=True)
        assert answer.ok() == "written" and answer.log

    def test_closed_output(self, place):
        assert place.attack("close_output").ok() == "still here"
        assert place.attack("fine").ok() == "fine"
        place.attack("leave").failed()


GARBAGE = [
    "random",
    "huge length",
    "zero length",
    "short frame",
    "header past the end",
    "header not JSON",
    "header not an object",
    "unknown kind",
    "invocation sent back",
    "ready again",
    "someone else's answer",
    "bytes that are no text",
]


class TestChannel:
    @pytest.mark.parametrize("kind", GARBAGE)
    def test_garbage(self, place, kind):
        """Either the daemon finds the frame harmless, or the function has failed; never the platform."""
        answer = place.attack("garbage_on_channel", kind=kind)
        assert answer.status == 200
        if answer.error:
            assert answer.failed()["errorType"].startswith(("Runtime.", "Function.")), answer.body
        else:
            assert answer.value == "sent"

    def test_garbage_ends_the_instance_at_once(self, place):
        answer = place.attack("garbage_on_channel", kind="huge length", stay=15)
        assert answer.failed()["errorType"].startswith("Runtime.")

    def test_half_a_frame_and_a_flood(self, place):
        place.api.update(place.hostile, Timeout=2)
        try:
            assert place.attack("half_a_frame").failed()["errorType"] in ("Sandbox.Timedout", "Runtime.ExitError")
            error = place.attack("flood_channel").failed()["errorType"]
            assert error == "Sandbox.Timedout" or error.startswith("Runtime."), error
        finally:
            place.api.update(place.hostile, Timeout=20)

    def test_a_closed_channel(self, place):
        for stay in (0, 10):
            assert place.attack("close_channel", stay=stay).failed()["errorType"].startswith("Runtime.")

    def test_an_exit_in_the_middle(self, place):
        for code in (0, 1, 255):
            assert place.attack("leave", code=code).failed()["errorType"] == "Runtime.ExitError"

    @pytest.fixture
    def custom(self, place):
        name = place.api.create(zip_fixture("bootstrap"), Runtime="provided.al2023", MemorySize=256, Timeout=5)
        yield name
        place.api.delete(name)

    def test_garbage_on_the_runtime_api(self, place, custom):
        seen = place.api.invoke(custom, {"do": "garbage"}).ok()
        assert all("500" not in one.split("\r\n")[0] for one in seen), seen
        assert place.api.invoke(custom, {"fine": 1}).ok() == {"fine": 1}

    def test_a_flood_of_connections_on_the_runtime_api(self, place, custom):
        answer = place.api.invoke(custom, {"do": "flood"})
        place.is_well()
        assert answer.status == 200
        place.api.invoke(custom, {"do": "exit", "code": 1})
        assert place.api.invoke(custom, {"fine": 1}).ok() == {"fine": 1}

    def test_a_raw_answer_of_garbage(self, place, custom):
        assert place.api.invoke(custom, {"do": "raw answer", "raw": "\0\x01{[" * 1000}).status == 200


class TestRuntimeApiFlood:
    INSTANCES = 16
    # The server may hold 64 bodies of 6 MB for all guests together; all that these send is more than twice as much.
    KB_MAX = 500_000

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", MODES)
    def test_unfinished_bodies_in_every_phase(self, server_factory, mode):
        """Many guests hold many connections, each short of one byte; the server was given 1,024 open files."""
        server = server_factory(mode=mode, open_files=1024)
        api = Api(server.endpoint, server.credentials())
        neighbour = api.create(zip_fixture("probe.py"), Runtime=python_for(mode))
        api.invoke(neighbour, 1).ok()
        flood = {"connections": 64, "whole": 10, "seconds": 2}
        custom = {"Runtime": "provided.al2023", "MemorySize": 256, "Timeout": 60}
        hostile = api.create(zip_fixture("bootstrap"), **custom)
        in_init = api.create(
            zip_fixture("bootstrap"), **custom, Environment={"Variables": {"FLOOD_INIT": json.dumps(flood)}}
        )
        answers, most_kb = 0, 0
        pids = [server.pid, server.daemon_pid()]
        with ThreadPoolExecutor(self.INSTANCES) as pool:
            floods = [
                pool.submit(api.invoke, name, {"do": "flood bodies", **flood})
                for name in [in_init] * 4 + [hostile] * (self.INSTANCES - 4)
            ]
            while not all(one.done() for one in floods):
                assert server.healthy() and api.invoke(neighbour, answers).ok() == answers
                assert api.client.list_functions()["Functions"]
                answers += 1
                most_kb = max(most_kb, kernel.pss_kb(pids))
        held = [one.result().value.get("connections") for one in floods]
        print(f"{mode}: connections {held}, at most {most_kb} kB, {answers} rounds of the neighbour")
        assert 0 < most_kb < self.KB_MAX and answers >= 3
        assert sum(1 for count in held if count) >= self.INSTANCES // 2, "most floods ran to their end"
        assert api.invoke(hostile, {"fine": 1}).ok() == {"fine": 1}
        assert server.stop() == 0


class TestBackground:
    @pytest.mark.parametrize("end", ["exit", "update"])
    def test_a_daemon_does_not_survive_its_instance(self, place, end):
        argument = f"9{random.SystemRandom().randrange(10**8):08}"
        assert place.attack("daemonize", argument=argument).ok() == "left behind"
        wait_until(lambda: kernel.pids_with_argument(argument), "the process left behind exists")
        if end == "exit":
            place.attack("leave").failed()
        else:
            place.api.update(place.hostile, Description=argument)
            assert place.attack("fine").ok() == "fine"
        wait_until(lambda: not kernel.pids_with_argument(argument), "the process left behind is gone", 15)

    def test_a_daemon_does_not_survive_the_server(self, server_factory):
        server = server_factory()
        api = Api(server.endpoint, server.credentials())
        name = api.create(hostile_package(), Handler="hostile.handler", Runtime=python_for(server.mode))
        argument = f"8{random.SystemRandom().randrange(10**8):08}"
        assert api.invoke(name, {"do": "daemonize", "argument": argument}).ok() == "left behind"
        wait_until(lambda: kernel.pids_with_argument(argument), "the process left behind runs", 10)
        server.kill_tree()
        wait_until(lambda: not kernel.pids_with_argument(argument), "the process left behind is gone", 15)


@pytest.fixture
def internet():
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a network namespace")
    if not shutil.which("nft"):
        pytest.skip("nft is not installed, so functions have no network here")
    with Internet() as one:
        yield one


class TestOutbound:
    def test_through_nat(self, internet, make, api):
        name = make(Handler="probe.fetch")
        seen = api.invoke(name, {"url": internet.url}).ok()
        assert seen == {"body": "198.51.100.1"}, "the host's own address is what the other side sees"

    def test_switched_off(self, internet, make, api):
        name = make(Handler="probe.fetch")
        assert api.settings(name)["network"] == "nat"
        api.settings(name, {"network": "none"})
        wait_until(lambda: api.settings(name)["network"] == "none", "the setting is read back")
        api.wait_active(name)
        assert "error" in api.invoke(name, {"url": internet.url}).ok()
        api.settings(name, {"network": "nat"})
        api.wait_active(name)
        assert "body" in api.invoke(name, {"url": internet.url}).ok()

    def test_nothing_comes_in(self, internet, listener, make, api):
        """The host behind the link knows a route to the instances and still cannot reach them."""
        name = make(hostile_package(), Handler="hostile.handler")
        found = api.invoke(name, {"do": "listen", "port": 8080}).ok()
        address = next(address for link, address in found.items() if link != "lo")
        assert not internet.connects_to(address, 8080)
        assert internet.connects_to(INTERNET_GATEWAY, listener.port), "the check itself can tell reached from refused"

    def test_names_are_resolved(self, internet, server_factory):
        """By the name server that the config names, through the one address that the guests see."""
        server = server_factory(config={"network": {"nameservers": [INTERNET_ADDRESS]}})
        api = Api(server.endpoint, server.credentials())
        name = api.create(zip_fixture("probe.py"), Handler="probe.resolve")
        assert api.invoke(name, {"name": "tide.test"}).ok() == {"addresses": [RESOLVED]}
        assert "127.0.0.1" in api.invoke(name, {"name": "localhost"}).ok()["addresses"]
