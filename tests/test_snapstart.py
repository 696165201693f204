"""SnapStart through boto3: a version is initialised once, and its instances are restored from that."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from glob import glob
from pathlib import Path

import pytest
from test_zygote import zygotes

from support import kernel
from support.clients import Api
from support.interpreters import nodes, python_for
from support.packages import fixture, zip_fixture, zip_of
from support.polling import wait_until

ON = {"ApplyOn": "PublishedVersions"}

SLOW = """
import os, random, secrets, ssl, sys, tempfile, time, uuid
time.sleep(2)
IMPORTED = time.time()
MARK = uuid.uuid4().hex
DRAWN = random.random()
ssl.RAND_bytes(16)
BIG = {n: str(n) for n in range(100000)}
STARTED_AS = os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]
COUNT = 0

def handler(event, context):
    global COUNT
    COUNT += 1
    time.sleep(event.get("sleep", 0) if event else 0)
    return {
        "imported": IMPORTED, "mark": MARK, "now": time.time(), "count": COUNT, "big": BIG[77777],
        "random": [random.random(), secrets.token_hex(8), uuid.uuid4().hex, ssl.RAND_bytes(8).hex(), os.urandom(8).hex(),
                   tempfile.mktemp()],
        "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], "started_as": STARTED_AS,
        "stream": context.log_stream_name, "env_stream": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
        "tmp": sorted(os.listdir("/tmp")), "pids": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "cwd": os.getcwd(),
    }
"""


def publish(api, name):
    """Publishes $LATEST and waits until the version is Active."""
    made = api.client.publish_version(FunctionName=name)
    assert made["State"] == "Pending"
    api.client.get_waiter("published_version_active").wait(
        FunctionName=name, Qualifier=made["Version"], WaiterConfig={"Delay": 0.2, "MaxAttempts": 150}
    )
    return made["Version"]


def settled(api, name, version):
    """A version's configuration once it is not Pending."""
    shown = api.client.get_function_configuration(FunctionName=name, Qualifier=version)
    return shown["State"] != "Pending" and shown


def snap_start(api, name, version="$LATEST"):
    """What is shown of SnapStart."""
    return api.client.get_function_configuration(FunctionName=name, Qualifier=version)["SnapStart"]


def log_of(api, name):
    """The lines of a function's log."""
    return [line["text"] for line in api.send("GET", f"/tidegate/v1/functions/{name}/logs").json()["lines"]]


def metrics_of(api):
    """The text of all metrics."""
    return api.send("GET", "/metrics").body.decode()


def parents_of(server):
    """The processes below a server, with their parents."""
    processes = kernel.all_processes()
    return {pid: processes[pid][0] for pid in kernel.tree_of(server.pid) if pid in processes}


@pytest.fixture
def snap(api):
    """Makes functions with SnapStart and publishes them."""
    made = []

    def make(source, handler="app.handler", **settings):
        files = source if isinstance(source, dict) else {"app.py": source}
        name = api.create(zip_of(files), Handler=handler, SnapStart=ON, **settings)
        made.append(name)
        return name

    yield make
    for name in made:
        api.delete(name)


def test_a_cold_start_finds_the_import_done(api, snap):
    name = snap(SLOW, MemorySize=512)
    begun = time.time()
    version = publish(api, name)
    published = time.time()
    assert snap_start(api, name, version) == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    assert snap_start(api, name) == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: api.invoke(name, {"sleep": 2}, tail=True, Qualifier=version), range(2)))
    one, other = (answer.ok() for answer in answers)
    # Two instances at the same time, and neither has imported anything.
    assert one["count"] == other["count"] == 1 and one["stream"] != other["stream"]
    assert begun < one["imported"] < published < min(one["now"], other["now"])
    assert one["imported"] == other["imported"] and one["mark"] == other["mark"]
    for seen in (one, other):
        assert seen["big"] == "77777" and seen["cwd"] == "/var/task"
        assert seen["type"] == seen["started_as"] == "snap-start"
        assert seen["stream"] == seen["env_stream"] and f"[{version}]" in seen["stream"]
    for answer in answers:
        assert re.search(r"^RESTORE_START\nRESTORE_REPORT Restore Duration: \d+\.\d\d ms\nSTART ", answer.log), answer.log
        report = r"\tRestore Duration: \d+\.\d\d ms\tBilled Restore Duration: \d+ ms\t"
        assert re.search(report, answer.log) and "Init Duration" not in answer.log
    # $LATEST and a warm instance know nothing of restores.
    warm = api.invoke(name, {}, tail=True, Qualifier=version)
    assert warm.ok()["count"] == 2 and "Restore" not in warm.log
    latest = api.invoke(name, {}, tail=True)
    assert latest.ok()["type"] == "on-demand" and "Init Duration" in latest.log and "Restore" not in latest.log
    assert latest.ok()["mark"] != one["mark"]


def test_random_numbers_are_each_instance_s_own(api, snap):
    name = snap(SLOW.replace("time.sleep(2)", ""), MemorySize=512)
    version = publish(api, name)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: api.invoke(name, {"sleep": 1}, Qualifier=version).ok(), range(3)))
    assert len({answer["stream"] for answer in answers}) == 3
    for drawn in zip(*(answer["random"] for answer in answers)):
        assert len(set(drawn)) == 3, drawn


APART = """
import os, subprocess, time
SHARED = {"list": []}
with open("/tmp/at-import", "w") as file:
    file.write("kept")
FOUND = open("/var/task/words.txt")
FOUND.readline()

def handler(event, context):
    mine = event["mine"]
    SHARED["list"].append(mine)
    open("/tmp/" + mine, "w").close()
    child = subprocess.Popen(["/bin/sleep", "30"])
    time.sleep(2)
    seen = {
        "list": SHARED["list"], "tmp": sorted(os.listdir("/tmp")), "kept": open("/tmp/at-import").read(),
        "processes": sorted(open("/proc/%s/comm" % p).read().strip() for p in os.listdir("/proc") if p.isdigit()),
        "word": FOUND.readline().strip(), "pid": os.getpid(),
    }
    child.kill()
    child.wait()
    print("written by " + mine)
    return seen
"""


def test_instances_are_apart(api, snap):
    name = snap({"app.py": APART, "words.txt": "one\ntwo\nthree\n"})
    version = publish(api, name)
    with ThreadPoolExecutor(2) as pool:
        invoke = lambda mine: api.invoke(name, {"mine": mine}, tail=True, Qualifier=version)
        answers = list(pool.map(invoke, ("a", "b")))
    for mine, answer in zip("ab", answers):
        seen = answer.ok()
        assert seen["list"] == [mine] and seen["tmp"] == sorted(["at-import", mine]) and seen["kept"] == "kept"
        assert seen["processes"] == ["init", "python", "sleep"] and seen["word"] == "two"
        assert f"written by {mine}" in answer.log and answer.log.count("written by") == 1


HOOKS = """
from snapshot_restore_py import register_after_restore, register_before_snapshot
CALLS = []

def note(*args, **named):
    CALLS.append([list(args), named])
    print("hook", *args)

register_before_snapshot(note, "before 1")
register_before_snapshot(note, "before 2", more=1)
register_after_restore(note, "after 1")

@register_after_restore
def last():
    import os
    note("after 2", os.environ["AWS_LAMBDA_LOG_STREAM_NAME"])

def handler(event, context):
    return [CALLS, context.log_stream_name]
"""


def test_hooks(api, snap):
    name = snap(HOOKS)
    version = publish(api, name)
    answer = api.invoke(name, {}, tail=True, Qualifier=version)
    calls, stream = answer.ok()
    before = [[["before 2"], {"more": 1}], [["before 1"], {}]]
    assert calls == [*before, [["after 1"], {}], [["after 2", stream], {}]]
    lines = answer.log.splitlines()
    assert lines[0] == "RESTORE_START" and lines[1:3] == ["hook after 1", f"hook after 2 {stream}"]
    assert lines[3].startswith("RESTORE_REPORT")
    # Without a snapshot no hook runs.
    assert api.invoke(name, {}).ok()[0] == []


def test_a_hook_after_the_restore_that_fails(api, snap):
    name = snap(HOOKS + "\nregister_after_restore(lambda: 1 / 0)\n")
    version = publish(api, name)
    refusal = api.refused("invoke", FunctionName=name, Qualifier=version)
    api.check(refusal, 400, "SnapStartException", re.compile("hook after the restore"))
    assert any("ZeroDivisionError" in line for line in log_of(api, name))


def test_a_version_cannot_be_invoked_before_its_snapshot(api, snap):
    name = snap(SLOW, MemorySize=512)
    version = api.client.publish_version(FunctionName=name)["Version"]
    refusal = api.refused("invoke", FunctionName=name, Qualifier=version)
    api.check(refusal, 409, "SnapStartNotReadyException", re.compile("^Lambda is initializing your function"))
    assert wait_until(lambda: settled(api, name, version), "it is settled", 30)["State"] == "Active"
    api.invoke(name, {}, Qualifier=version).ok()


def test_a_restore_that_takes_too_long(server_factory):
    server = server_factory(config={"limits": {"init_ms": 1500}})
    api = Api(server.endpoint, server.credentials())
    slow = "import time\nfrom snapshot_restore_py import *\nregister_after_restore(lambda: time.sleep(30))\n"
    name = api.create(zip_of({"app.py": slow + "def handler(e, c): return 1"}), Handler="app.handler", SnapStart=ON)
    version = publish(api, name)
    refusal = api.refused("invoke", FunctionName=name, Qualifier=version)
    api.check(refusal, 408, "SnapStartTimeoutException", re.compile("time limit"))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise ValueError('at import')", "ValueError"),
        ("import not_there", "Runtime.ImportModuleError"),
        ("import os; os._exit(3)", "Runtime.ExitError"),
        ("import sys; sys.exit(0)", "Runtime.ExitError"),
        ("import os; os.abort()", "Runtime.ExitError"),
        (
            "from snapshot_restore_py import *\ndef fail(): raise KeyError('k')\nregister_before_snapshot(fail)",
            "Runtime.BeforeSnapshotError",
        ),
    ],
)
def test_an_init_that_fails_fails_the_version(api, snap, source, error):
    name = snap("def handler(event, context): return 1\n")
    good = publish(api, name)
    api.update(name, zip_of({"app.py": source + "\ndef handler(event, context): return 2\n"}))
    version = api.client.publish_version(FunctionName=name)["Version"]
    shown = wait_until(lambda: settled(api, name, version), "the version has failed", 30)
    assert (shown["State"], shown["StateReasonCode"]) == ("Failed", "FunctionError.RuntimeInitError")
    assert f"snapshot was taken: {error};" in shown["StateReason"]
    assert shown["SnapStart"]["OptimizationStatus"] == "Off"
    assert api.refused("invoke", FunctionName=name, Qualifier=version).code == "ResourceConflictException"
    assert api.invoke(name, {}, Qualifier=good).ok() == 1


CANNOT = {
    "Init leaves threads running": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "Init leaves processes running": "import subprocess\nsubprocess.Popen(['/bin/sleep', '600'])",
    "Init leaves a file open that cannot be opened again": "import os\nPIPE = os.pipe()",
    "Init leaves memory that is shared or whose file is gone": "import mmap\nSHARED = mmap.mmap(-1, 4096)",
    "Init leaves too much in /tmp": "open('/tmp/big', 'wb').write(bytes(40 << 20))",
}


@pytest.mark.parametrize("why", CANNOT)
def test_what_cannot_be_restored_initialises_and_says_so(api, snap, why):
    name = snap(CANNOT[why] + "\nimport os\ndef handler(event, context): return os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']")
    version = publish(api, name)
    assert snap_start(api, name, version)["OptimizationStatus"] == "Off"
    assert any("SnapStart: no snapshot was taken" in line for line in log_of(api, name))
    answer = api.invoke(name, {}, tail=True, Qualifier=version)
    assert answer.ok() == "on-demand"
    assert f"\tWithout Snapshot: {why}\t" in answer.log and "Init Duration" in answer.log
    told = api.send("GET", f"/tidegate/v1/explain/{answer.headers['x-amzn-requestid']}").json()
    assert told["cold_start"]["without_snapshot"] == why and not told["cold_start"]["restored"]


FORKABLE = """
import os, queue, threading
WORK, DONE, THREADS = queue.Queue(), queue.Queue(), []

def work():
    while (item := WORK.get()) is not None:
        DONE.put(item * 2)

def begin():
    THREADS[:] = [threading.Thread(target=work, daemon=True)]
    THREADS[0].start()

def end():
    if THREADS:
        WORK.put(None)
        THREADS.pop().join()

begin()
os.register_at_fork(before=end)

def handler(event, context):
    if not THREADS:
        begin()
    WORK.put(21)
    return [DONE.get(timeout=5), os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], threading.active_count()]
"""


def test_threads_that_end_before_a_fork_are_no_obstacle(api, snap):
    """As those of OpenBLAS, and thus of `numpy`, do."""
    name = snap(FORKABLE)
    version = publish(api, name)
    assert snap_start(api, name, version)["OptimizationStatus"] == "On"
    assert api.invoke(name, {}, Qualifier=version).ok() == [42, "snap-start", 2]


LIVELY = """
import ctypes, gc, signal, socket, subprocess, sys, threading, asyncio, multiprocessing, sqlite3, decimal, logging
LIBRARY = ctypes.CDLL("/var/task/extra.so")
HEARD = []
signal.signal(signal.SIGUSR1, lambda number, frame: HEARD.append(number))
LOST = socket.socket()
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)
logging.getLogger().setLevel(logging.INFO)
DEEP = sys.getrecursionlimit()

def deep(n):
    return 0 if n == 0 else 1 + deep(n - 1)

async def task(n):
    await asyncio.sleep(0.01)
    return n

async def gather():
    return await asyncio.gather(*(task(n) for n in range(5)))

def handler(event, context):
    import os, random
    ran = []
    thread = threading.Thread(target=lambda: ran.append(threading.get_native_id()))
    thread.start(); thread.join()
    signal.raise_signal(signal.SIGUSR1)
    pid = os.fork()
    if not pid:
        os._exit(7)
    try:
        LOST.send(b"x")
        lost = None
    except OSError as error:
        lost = type(error).__name__
    logging.info("said by logging")
    blocks = [bytearray(100_000) for _ in range(500)]
    return {
        "thread": ran[0] != threading.get_native_id(), "heard": HEARD, "child": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]),
        "lost": lost, "sub": subprocess.run(["echo", "sub"], capture_output=True, text=True).stdout, "callback": CALLBACK(41),
        "async": asyncio.run(gather()), "sql": sqlite3.connect("/tmp/x.db").execute("select 6 * 7").fetchone()[0],
        "deep": deep(DEEP - 100), "blocks": len(blocks), "gc": gc.collect() >= 0, "main": threading.main_thread() is threading.current_thread(),
        "native": threading.main_thread().native_id == os.getpid(), "counter": LIBRARY is not None,
        "decimal": str(decimal.Decimal(1) / 3)[:6],
    }
"""


def test_a_restored_process_is_a_whole_one(api, snap):
    library = Path(next(Path(path) for path in glob("/usr/lib/x86_64-linux-gnu/libz.so.1*") if not os.path.islink(path)))
    name = snap({"app.py": LIVELY, "extra.so": library.read_bytes()}, MemorySize=512)
    version = publish(api, name)
    assert snap_start(api, name, version)["OptimizationStatus"] == "On"
    answer = api.invoke(name, {}, tail=True, Qualifier=version)
    assert answer.ok() == {
        "thread": True, "heard": [10], "child": 7, "lost": "BrokenPipeError", "sub": "sub\n", "callback": 42,
        "async": [0, 1, 2, 3, 4], "sql": 42, "deep": 900, "blocks": 500, "gc": True, "main": True, "native": True,
        "counter": True, "decimal": "0.3333",
    }  # fmt: skip
    assert "said by logging" in answer.log and "Restore Duration" in answer.log
    for _ in range(20):
        api.invoke(name, {}, Qualifier=version).ok()


def test_several_invocations_at_a_time(api, snap):
    source = "import time\nAT = time.time()\ndef handler(event, context):\n    print('of', event)\n    time.sleep(1)\n    return [AT, context.log_stream_name]\n"
    name = snap(source)
    api.settings(name, {"concurrency": 4})
    api.wait_active(name)
    version = publish(api, name)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: api.invoke(name, n, tail=True, Qualifier=version), range(4)))
    assert len({answer.ok()[1] for answer in answers}) == 1 and len({answer.ok()[0] for answer in answers}) == 1
    for number, answer in enumerate(answers):
        assert f"of {number}\n" in answer.log and answer.log.count("of ") == 1


def images(server) -> int:
    """How many images the daemon keeps."""
    folder = f"/proc/{server.daemon_pid()}/fd"
    links = (os.readlink(os.path.join(folder, name)) for name in os.listdir(folder) if name.isdigit())
    return sum(link.startswith("/memfd:image") for link in links)


def test_a_snapshot_goes_with_its_version(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    name = api.create(zip_of({"app.py": "def handler(e, c): return 1"}), Handler="app.handler", SnapStart=ON)
    version = publish(api, name)
    assert images(server) == 1
    assert "Restore Duration" in api.invoke(name, {}, tail=True, Qualifier=version).log
    api.client.delete_function(FunctionName=name, Qualifier=version)
    wait_until(lambda: images(server) == 0, "the image is gone", 10)
    wait_until(lambda: not kernel.guests_below(server.pid), "no guest is left", 10)
    api.update(name, zip_of({"app.py": "def handler(e, c): return 2"}))
    publish(api, name)
    assert images(server) == 1
    api.delete(name)
    wait_until(lambda: images(server) == 0, "the image is gone with the function", 10)
    assert server.stop() == 0


def restored(api, name, version, turns):
    """Whether a new instance of the version is restored; makes one by holding the others."""
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(api.invoke, name, {"sleep": 0.5}, Qualifier=version)
        answer = api.invoke(name, {"sleep": 0.5}, tail=True, Qualifier=version)
        assert held.result().ok()["count"] >= 1 and answer.ok()["count"] >= 1
    return "Restore Duration" in answer.log


def test_a_killed_zygote_costs_the_snapshot_only(server_factory):
    server = server_factory(config={"limits": {"idle_ms": 200}})
    api = Api(server.endpoint, server.credentials())
    source = SLOW.replace("time.sleep(2)", "")
    name = api.create(zip_of({"app.py": source}), Handler="app.handler", MemorySize=512, SnapStart=ON)
    version = publish(api, name)
    first = api.invoke(name, {}, tail=True, Qualifier=version)
    assert "Restore Duration" in first.log
    (zygote,) = zygotes(server)
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: zygote not in zygotes(server) and zygotes(server), "another zygote comes", 30)
    # Instances initialise until a snapshot of the new zygote's is there; each answers.
    def again():
        time.sleep(0.3)
        answer = api.invoke(name, {}, tail=True, Qualifier=version)
        return "Restore Duration" in answer.log and answer.ok()

    fresh = wait_until(again, "an instance is restored again", 60)
    assert fresh["mark"] != first.ok()["mark"] and images(server) == 1


def test_an_init_instead_of_a_restore_fails_as_an_init(server_factory):
    """Where no zygote is up an interpreter of its own initialises; its failure is not one of the restore."""
    server = server_factory(config={"limits": {"idle_ms": 200}})
    api = Api(server.endpoint, server.credentials())
    source = "import os\nassert os.environ['AWS_LAMBDA_INITIALIZATION_TYPE'] == 'snap-start'\ndef handler(e, c): return 1\n"
    name = api.create(zip_of({"app.py": source}), Handler="app.handler", SnapStart=ON)
    version = publish(api, name)
    assert api.invoke(name, {}, Qualifier=version).ok() == 1

    def failure():
        # Long enough for the instance before to end, and until no zygote is there for a while.
        for _ in range(20):
            for zygote in zygotes(server):
                with suppress(ProcessLookupError):
                    os.kill(zygote, signal.SIGKILL)
            time.sleep(0.02)
        answer = api.invoke(name, {}, Qualifier=version)
        return answer.error and answer.failed()

    failed = wait_until(failure, "an instance initialises", 60)
    assert failed["errorType"] == "AssertionError"


def test_a_new_server_takes_the_snapshot_again(server_factory):
    server = server_factory(config={"limits": {"idle_ms": 200}})
    api = Api(server.endpoint, server.credentials())
    source = SLOW.replace("time.sleep(2)", "")
    name = api.create(zip_of({"app.py": source}), Handler="app.handler", MemorySize=512, SnapStart=ON)
    version = publish(api, name)
    assert server.stop() == 0
    server.start()
    api = Api(server.endpoint, server.credentials())
    first = api.invoke(name, {}, tail=True, Qualifier=version)
    assert first.ok()["type"] == "on-demand" and "no snapshot has been taken yet" in first.log

    def again():
        time.sleep(0.3)
        answer = api.invoke(name, {}, tail=True, Qualifier=version)
        return "Restore Duration" in answer.log and answer.ok()

    assert wait_until(again, "an instance is restored again", 60)["type"] == "snap-start"


def test_a_guest_that_is_killed_while_it_initialises_is_replaced(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    source = "import time, uuid\ntime.sleep(3)\nMARK = uuid.uuid4().hex\ndef handler(e, c): return MARK\n"
    name = api.create(zip_of({"app.py": source}), Handler="app.handler", SnapStart=ON)
    version = api.client.publish_version(FunctionName=name)["Version"]
    # The process that initialises is the third of its sandbox; the guest that stays as it was is its parent.
    parents = lambda: [pid for pid, parent in parents_of(server).items() if parent in kernel.guests_below(server.pid)]
    (child,) = wait_until(parents, "Init is under way", 10)
    os.kill(child, signal.SIGKILL)
    shown = wait_until(lambda: settled(api, name, version), "the version is settled", 30)
    assert (shown["State"], shown["SnapStart"]["OptimizationStatus"]) == ("Active", "On")
    assert "Restore Duration" in api.invoke(name, {}, tail=True, Qualifier=version).log


HOSTILE = """
import escapes
ATTEMPTS = {ATTEMPTS!r}
def all_of():
    found = {{}}
    for attempt, event in ATTEMPTS.items():
        found[attempt] = getattr(escapes, attempt)(event, None)
    return found
# The guest that the platform has beside this process is of the same sandbox: to kill it would only fail this Init.
KILL = ATTEMPTS.pop("kill_others")
AT_IMPORT = all_of()
def handler(event, context):
    ATTEMPTS["kill_others"] = KILL
    return {{"import": AT_IMPORT, "restored": all_of(), "descriptors": escapes.descriptors(event, context)}}
"""


def test_init_and_restored_instances_are_locked_in(server_factory):
    """What an ordinary instance is refused is refused to the one that is written down, and to those made of it."""
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    secret = "secret-of-another.txt"
    other = api.create(zip_of({"probe.py": "def echo(e, c): return 1", secret: "secret"}))
    api.invoke(other, {}).ok()
    attempts = {
        "read_host_files": {"paths": [server.data_dir, os.path.dirname(os.path.abspath(__file__))]},
        "find_file": {"name": secret},
        "write_outside": {},
        "magic_links": {},
        "kill_others": {"pids": [server.pid, server.daemon_pid()]},
        "forbidden_calls": {},
        "new_namespace_by_clone": {},
        "set_uid_programs": {},
        "odd_sockets": {},
    }
    files = {"app.py": HOSTILE.format(ATTEMPTS=attempts), "escapes.py": fixture("escapes.py")}
    name = api.create(zip_of(files), Handler="app.handler", MemorySize=512, SnapStart=ON)
    version = publish(api, name)
    answer = api.invoke(name, {}, tail=True, Qualifier=version)
    assert "Restore Duration" in answer.log, answer.log
    seen = answer.ok()
    for when in ("import", "restored"):
        assert {attempt: found for attempt, found in seen[when].items() if found} == {}, when
    assert sorted(seen["descriptors"]) == ["0", "1", "2", "3"], "neither the image nor anything else is left open"
    assert api.invoke(other, {}).ok() == 1
    assert server.stop() == 0


def test_init_runs_once_although_no_zygote_is_up_yet(server_factory):
    server = server_factory()
    api = Api(server.endpoint, server.credentials())
    package = zip_of({"app.py": "print('Init has begun')\ndef handler(e, c): return 1\n"})
    name = api.create(package, wait=False, Handler="app.handler", SnapStart=ON, Publish=True)
    shown = wait_until(lambda: settled(api, name, "1"), "the version is settled", 30)
    assert (shown["State"], shown["SnapStart"]["OptimizationStatus"]) == ("Active", "On")
    assert "Restore Duration" in api.invoke(name, {}, tail=True, Qualifier="1").log
    lines = wait_until(lambda: [line for line in log_of(api, name) if "INIT" in line or "Init" in line], "the log", 10)
    assert lines[0] == "Init has begun" and lines.count("Init has begun") == 1, lines


def test_other_runtimes_are_kept_and_initialise(api, make):
    name = make(zip_fixture("probe.mjs"), Runtime=nodes()[0], Handler="probe.handler", SnapStart=ON)
    version = publish(api, name)
    assert snap_start(api, name, version) == {**ON, "OptimizationStatus": "Off"}
    answer = api.invoke(name, {"a": 1}, tail=True, Qualifier=version)
    assert "\tWithout Snapshot: no snapshots are taken of this runtime\t" in answer.log


def test_a_variable_that_is_read_at_start_goes_without(api, snap):
    name = snap("def handler(event, context): return 1", Environment={"Variables": {"PYTHONHASHSEED": "0"}})
    version = publish(api, name)
    assert snap_start(api, name, version)["OptimizationStatus"] == "Off"
    answer = api.invoke(name, {}, tail=True, Qualifier=version)
    assert "\tWithout Snapshot: the environment has variables that only a starting interpreter reads\t" in answer.log


def test_without_zygotes_a_version_is_active_at_once(server_factory):
    """An ordinary user without control groups has no zygotes, and thus no snapshots."""
    server = server_factory(mode="user")
    api = Api(server.endpoint, server.credentials())
    package = zip_of({"app.py": "def handler(e, c): return 1"})
    name = api.create(package, Runtime=python_for("user"), Handler="app.handler", SnapStart=ON)
    version = publish(api, name)
    assert api.invoke(name, {}, Qualifier=version).ok() == 1
    abilities = json.loads(server.run("doctor", "--output", "json").stdout)
    (limited,) = (one["grade"] == "full" for one in abilities if one["name"] == "memory limit")
    assert snap_start(api, name, version)["OptimizationStatus"] == ("On" if limited else "Off")


def test_explain_and_metrics(api, server, snap):
    name = snap("def handler(event, context): return 1")
    version = publish(api, name)
    answer = api.invoke(name, {}, Qualifier=version)
    request = answer.headers["x-amzn-requestid"]
    told = api.send("GET", f"/tidegate/v1/explain/{request}").json()["cold_start"]
    assert told["restored"] and "without_snapshot" not in told and told["init_us"] > 0
    keys = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": "us-east-1", **server.credentials()}
    text = server.run("explain", request, env=keys).stdout
    assert re.search(r"cold start: .*; sandbox [\d.]+ ms, restored from a snapshot in [\d.]+ ms", text), text
    metrics = metrics_of(api)
    assert 'tidegate_worker_restores_total{reason="restored"}' in metrics
    assert 'tidegate_worker_snapshots_total{reason="taken"}' in metrics


NASTY = {
    "kills the guest that takes the snapshot": ("import os\nos.kill(2, 9)\nimport time\ntime.sleep(60)", "Runtime.ExitError"),
    "eats memory": ("hog = []\nwhile True:\n    hog.append(bytearray(b'x' * 10_000_000))", "Runtime.OutOfMemory"),
    "writes to every descriptor": (
        "import os\nfor fd in range(4, 256):\n    try:\n        os.write(fd, bytes([255]) * 9_000 + b'\\n')\n    except OSError:\n        pass\n",
        None,
    ),
    "tells lies of itself": (
        "import os\nfor fd in range(4, 256):\n    try:\n        os.write(fd, b'{\"frame\": 1, \"break\": -1, \"actions\": 7}\\n')\n    except OSError:\n        pass\n",
        None,
    ),
}


@pytest.mark.parametrize("how", NASTY)
def test_a_nasty_init_harms_itself_alone(api, snap, how):
    source, error = NASTY[how]
    neighbour = snap("def handler(event, context): return 1\n")
    version = publish(api, neighbour)
    name = snap(source + "\ndef handler(event, context): return 2\n", Timeout=10)
    published = api.client.publish_version(FunctionName=name)["Version"]
    shown = wait_until(lambda: settled(api, name, published), "it is settled", 60)
    if error:
        assert shown["State"] == "Failed" and error in shown["StateReason"], shown
    else:
        assert (shown["State"], shown["SnapStart"]["OptimizationStatus"]) == ("Active", "Off")
        assert api.invoke(name, {}, Qualifier=published).ok() == 2
    answer = api.invoke(neighbour, {}, tail=True, Qualifier=version)
    assert answer.ok() == 1 and "Restore Duration" in answer.log


def test_a_guest_that_ends_in_its_restore_is_given_up_after_a_few(server_factory):
    server = server_factory(config={"limits": {"idle_ms": 200}})
    api = Api(server.endpoint, server.credentials())
    source = "import os\nfrom snapshot_restore_py import *\nregister_after_restore(os._exit, 5)\ndef handler(e, c): return 1\n"
    name = api.create(zip_of({"app.py": source}), Handler="app.handler", SnapStart=ON)
    version = publish(api, name)
    assert snap_start(api, name, version)["OptimizationStatus"] == "On"

    def given_up():
        answer = api.invoke(name, {}, tail=True, Qualifier=version)
        assert answer.ok() == 1 and "Restore Duration" not in answer.log
        time.sleep(0.5)
        return images(server) == 0

    wait_until(given_up, "no further snapshot is taken", 60)
    for _ in range(3):
        assert given_up(), "it stays so"
    lost = re.search(r'tidegate_worker_restores_total\{reason="the snapshot could not be restored"\} (\d+)', metrics_of(api))
    assert int(lost[1]) == 3


RESTORE = """
import os, sys, tempfile
sys.path.insert(0, sys.argv[1])
from _tidegate import image, snapstart
image.reserve()
def of(content):
    file = tempfile.TemporaryFile()
    file.write(content)
    file.flush()
    return [os.dup(file.fileno())]
header = b'{"zygote": "x"}'
strange = len(header).to_bytes(8, "little") + header
whole = lambda data: data + image._TRAILER.pack(0, len(data), image._MAGIC)
assert snapstart.restore([]) == "broken"
assert snapstart.restore(of(b"")) == "broken"
assert snapstart.restore(of(b"x" * 4096)) == "broken"
assert snapstart.restore(of(whole((2).to_bytes(8, "little") + b"[]"))) == "broken"
assert snapstart.restore(of(whole((2).to_bytes(8, "little") + b"{}"))) == "broken"
assert snapstart.restore(of(whole((2).to_bytes(8, "little") + b"{{"))) == "broken"
assert snapstart.restore(of(whole(strange))) == "zygote"
"""


def test_an_image_that_cannot_be_used_is_broken_and_not_the_machine():
    """The daemon counts the images that are, and has a few more taken."""
    folder = Path(__file__).parents[1] / "runtimes" / "python"
    subprocess.run([sys.executable, "-I", "-c", RESTORE, str(folder)], check=True, timeout=30)


def test_an_image_as_large_as_the_function(api, snap):
    source = "import os\nBIG = os.urandom(300 << 20)\ndef handler(event, context): return [len(BIG), BIG[-3] == BIG[299 << 20]]\n"
    name = snap(source, MemorySize=512)
    version = publish(api, name)
    assert snap_start(api, name, version)["OptimizationStatus"] == "On"
    answer = api.invoke(name, {}, tail=True, Qualifier=version)
    assert answer.ok()[0] == 300 << 20 and "Restore Duration" in answer.log
