"""Nothing of one function shows in a later one, in sandboxes that were made ahead and forked from zygotes."""

import pytest

from support.clients import Api
from support.interpreters import nodes
from support.packages import zip_of

SECRET = "the-secret-of-the-first-tenant"

FIRST = """
import os, random, socket, subprocess, threading, time
SECRET = "".join(["the-secret-", "of-the-first-tenant"])
HOLD = [SECRET * 1000 for _ in range(100)]
def handler(event, context):
    for place in ("/tmp/left", "/dev/shm/left"):
        with open(place, "w") as file:
            file.write(SECRET)
    os.environ["LEFT"] = SECRET
    server = socket.socket(); server.bind(("0.0.0.0", 4242)); server.listen()
    client = socket.socket(); client.connect(("127.0.0.1", 4242))
    subprocess.Popen(["/bin/sleep", "600"])
    random.seed(7)
    HOLD.append((server, client))
    return random.random()
"""

SECOND = """
import os, random, uuid
MARK = "".join(["the-secret-", "of-the-first-tenant"]).encode()
def memory():
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as mem:
        for line in maps:
            fields = line.split()
            if "r" not in fields[1] or line.rstrip().endswith("]") and "heap" not in line and "stack" not in line:
                continue
            start, end = (int(x, 16) for x in fields[0].split("-"))
            try:
                mem.seek(start)
                # The mark itself is in this process, put together a few times; a tenant that held it had thousands.
                found += mem.read(end - start).count(MARK)
            except (OSError, ValueError, OverflowError):
                pass
    return found
def table(name):
    try:
        return len(open("/proc/net/" + name).read().splitlines()) - 1
    except OSError:
        return 0
def handler(event, context):
    return {
        "tmp": os.listdir("/tmp"), "shm": os.listdir("/dev/shm"),
        "environment": [name for name, value in os.environ.items() if "secret" in value or name == "LEFT"],
        "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "sockets": table("tcp") + table("udp") + table("tcp6"), "unix": table("unix"),
        "files": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
        "random": random.random(), "uuid": str(uuid.uuid4()), "memory": memory(),
        "threads": len(os.listdir("/proc/self/task")),
    }
"""


@pytest.fixture
def api(server_factory):
    server = server_factory(config={"limits": {"idle_ms": 1}})
    return Api(server.endpoint, server.credentials())


def test_a_later_tenant_finds_nothing(api):
    seen = []
    for _ in range(4):
        first = api.create(zip_of({"app.py": FIRST}), Handler="app.handler")
        assert 0 < api.invoke(first, {}).ok() < 1
        api.delete(first)
        second = api.create(zip_of({"app.py": SECOND}), Handler="app.handler")
        seen.append(api.invoke(second, {}).ok())
        api.delete(second)
    for found in seen:
        assert found["tmp"] == [] and found["shm"] == [] and found["environment"] == [], found
        assert len(found["processes"]) == 2 and found["processes"][0] == 1, found
        assert found["sockets"] == 0 and found["files"] == [0, 1, 2, 3] and found["threads"] == 1, found
        assert found["memory"] < 100, found
    assert len({found["random"] for found in seen}) == 4 and len({found["uuid"] for found in seen}) == 4


NODE = """
import { readdirSync } from "node:fs";
import { randomUUID } from "node:crypto";
export const handler = async () => ({
  tmp: readdirSync("/tmp"), shm: readdirSync("/dev/shm"), random: Math.random(), uuid: randomUUID(),
  cwd: process.cwd(), waits: process.env.TIDEGATE_WAITS ?? null, mine: process.env.MINE,
});
"""


def test_node_started_ahead_has_the_functions_environment_and_nothing_else(api):
    if not nodes():
        pytest.skip("this machine has no Node.js")
    runtime = nodes()[0]
    seen = []
    for turn in range(4):
        name = api.create(
            zip_of({"index.mjs": NODE}),
            Handler="index.handler",
            Runtime=runtime,
            Environment={"Variables": {"MINE": str(turn)}},
        )
        seen.append(api.invoke(name, {}).ok())
        api.delete(name)
    for turn, found in enumerate(seen):
        assert found["tmp"] == [] and found["shm"] == [] and found["waits"] is None, found
        assert found["cwd"] == "/var/task" and found["mine"] == str(turn), found
    assert len({found["random"] for found in seen}) == 4 and len({found["uuid"] for found in seen}) == 4


# SO_NETNS_COOKIE of asm-generic/socket.h: a number that no two network namespaces ever share.
PARTS = """
import os, socket
def parts():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        network = int.from_bytes(s.getsockopt(socket.SOL_SOCKET, 71, 8), "little")
    top = os.stat("/tmp")
    return {"network": network, "tmp_changed": [top.st_ctime_ns, top.st_mtime_ns], "tmp": os.listdir("/tmp")}
def handler(event, context):
    found = parts()
    use()
    return found
"""

USES = {
    "nothing": "def use(): pass",
    "datagram to itself": """
def use():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0)); s.sendto(b"x", s.getsockname())
""",
    "datagram to the outside": """
def use():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("192.0.2.1", 9))
""",
    "folder that goes again": """
def use():
    os.mkdir("/tmp/x"); os.rmdir("/tmp/x")
""",
    "file without a name": """
def use():
    fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR); os.write(fd, bytes(8 << 20)); os.fsync(fd)
""",
}


def tenant(api, use):
    name = api.create(zip_of({"app.py": PARTS + USES[use]}), Handler="app.handler")
    found = api.invoke(name, {}).ok()
    api.delete(name)
    return found


def test_only_what_nobody_has_touched_serves_another(api):
    quiet = []
    # Some are kept in hand, so that the first comes back only after a few others.
    for _ in range(60):
        quiet.append(tenant(api, "nothing"))
        if len({found["network"] for found in quiet}) < len(quiet):
            break
    networks = [found["network"] for found in quiet]
    assert len(set(networks)) < len(networks), "no network namespace has served twice"
    used = {}
    for _ in range(6):
        for use in USES:
            found = tenant(api, use)
            assert found["tmp"] == [] and found["tmp_changed"] == quiet[0]["tmp_changed"], (use, found)
            assert found["network"] not in used, (use, used[found["network"]])
            if use.startswith("datagram"):
                used[found["network"]] = use
    assert len(used) == 12
