"""A long, steady, mixed load with churn and kills; at its end nothing may have failed and nothing may have grown.

`python -m support.soak --minutes 20 --output FILE`, which `cargo xtask soak` starts. `tests/test_soak.py` runs the same
for a few seconds.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import census, kernel
from .clients import Api, free_name
from .interpreters import nodes, python_for
from .packages import fixture, zip_of
from .polling import wait_until
from .server import OWN_MODE, ROOT, Server, binary

# Short, so that instances come and go all the time.
# The journal of invocations is bounded, but takes half an hour of this load to fill: a small one is full before the first
# count.
CONFIG = {"limits": {"idle_ms": 2_000, "explained": 256}}
SNAP_START = {"SnapStart": {"ApplyOn": "PublishedVersions"}, "Publish": True}
CLIENTS = 12
CHURNERS = 2
PROBLEMS_KEPT = 50
# A guest of this age is not in the making any more: it has been reported as started.
MADE_S = 0.3
# Of the server's own log, from its end, to look for what it complained of.
LOG_LINES = 100_000
# Nothing waits longer for the end of one client than this: the longest invocation, and some.
JOIN_SECONDS = 120


@dataclass
class Kind:
    """A function of the mix: what is deployed, what is sent, and which error, if any, is right."""

    name: str
    package: bytes
    weight: int
    settings: dict
    expected: dict | None = None
    errors: tuple = ()
    extra: dict = field(default_factory=dict)

    def event(self, draw: random.Random) -> dict:
        """The next event."""
        return {"number": draw.randrange(1_000_000), "name": "Ada", **self.extra}

    def is_right(self, event: dict, body) -> bool:
        """Is this the answer of a success?"""
        if self.expected is not None:
            return all(body.get(key) == value for key, value in self.expected.items())
        return body.get("echo") == event["number"]


def kinds(python: str) -> list:
    """The mix, as far as this machine has the interpreters."""
    package = zip_of({"mixed.py": fixture("mixed.py")})
    base = {"Runtime": python, "Timeout": 30}
    limit = {"extra": {"seconds": 0.8}}
    found = [
        Kind("python", package, 30, {**base, "Handler": "mixed.good"}),
        Kind("failing", package, 8, {**base, "Handler": "mixed.failing"}, errors=("ValueError",)),
        Kind("leaving", package, 4, {**base, "Handler": "mixed.leaving"}, errors=("Runtime.ExitError",)),
        Kind("restored", package, 12, {**base, "Handler": "mixed.good", **SNAP_START}),
        Kind("slow", package, 12, {**base, "Handler": "mixed.slow"}, **limit),
        Kind(
            "late",
            package,
            2,
            {**base, "Handler": "mixed.slow", "Timeout": 1},
            errors=("Sandbox.Timedout",),
            extra={"seconds": 5},
        ),
        Kind(
            "greedy",
            package,
            2,
            {**base, "Handler": "mixed.greedy", "MemorySize": 128},
            errors=("MemoryError", "Runtime.ExitError", "Runtime.OutOfMemory"),
        ),
    ]
    if nodes():
        package = zip_of({"mixed.mjs": fixture("mixed.mjs")})
        base = {"Runtime": nodes()[0], "Timeout": 30, "MemorySize": 256}
        found.append(Kind("nodejs", package, 20, {**base, "Handler": "mixed.good"}))
        found.append(Kind("nodejs-failing", package, 4, {**base, "Handler": "mixed.failing"}, errors=("TypeError",)))
    programs = [Path(binary()).parent, ROOT / "target/release", ROOT / "target/debug"]
    native = next((path for folder in programs if (path := folder / "native_bootstrap").is_file()), None)
    if native:
        package = zip_of({"bootstrap": native.read_bytes()}, executable=("bootstrap",))
        base = {"Runtime": "provided.al2023", "Handler": "bootstrap", "Timeout": 30}
        found.append(Kind("native", package, 30, base, expected={"greeting": "Hello, Ada"}))
    return found


class Tally:
    """What came of the requests; shared by all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = Counter()
        self.problems = []
        self.kills = 0
        self.latencies = {}

    def add(self, kind: str, what: str, took_s: float | None = None) -> None:
        """Counts one request of a kind."""
        with self.lock:
            self.counts[kind, what] += 1
            if took_s is not None:
                self.latencies.setdefault(kind, []).append(took_s)

    def problem(self, text: str) -> None:
        """Keeps what should not have happened."""
        with self.lock:
            self.counts["", "problem"] += 1
            if len(self.problems) < PROBLEMS_KEPT:
                self.problems.append(f"{time.strftime('%H:%M:%S')} {text}")

    def total(self, what: str) -> int:
        """How many requests of all kinds ended so."""
        with self.lock:
            return sum(number for (_, ended), number in self.counts.items() if ended == what)


class Soak:
    """One soak on a server of its own."""

    def __init__(self, seconds: float, rate: float, seed: int, kill_every_s: float = 2.0, kill_any: bool = False):
        self.seconds, self.rate, self.seed = seconds, rate, seed
        self.kill_every_s, self.kill_any = kill_every_s, kill_any
        self.server = Server(config=CONFIG)
        self.tally = Tally()
        self.running = threading.Event()
        self.over = threading.Event()
        self.busy = Counter()
        self.counts = []
        self.complaints = []

    def run(self) -> dict:
        """Runs it all; the report says what is wrong under `wrong`."""
        self.server.start()
        try:
            self.api = Api(self.server.endpoint, self.server.credentials())
            self.kinds = kinds(python_for(OWN_MODE))
            self.names = {kind.name: self._create(kind) for kind in self.kinds}
            self.api.invoke(self.names["python"], {"number": 1}).ok()
            self.server.remember_key()
            self._drive()
            tree = self.server.tree()
            stopped = self.server.stop()
            left = self._left(tree)
            log = self.server.log(LOG_LINES).splitlines()
            self.complaints = [line for line in log if " ERROR " in line or " WARN " in line][-PROBLEMS_KEPT:]
        finally:
            self.server.close()
        return self._report(stopped, left)

    def _create(self, kind: Kind) -> str:
        """What a kind is invoked by: its function, or the version of it that is published."""
        name = self.api.create(kind.package, **kind.settings)
        if not kind.settings.get("Publish"):
            return name
        self._published(name)
        return f"{name}:1"

    def _published(self, name: str) -> None:
        def state():
            return self.api.client.get_function_configuration(FunctionName=name, Qualifier="1")["State"]

        wait_until(lambda: state() != "Pending", f"version 1 of {name} is settled", 60, 0.1)
        assert state() == "Active"

    def _left(self, tree) -> list:
        def look():
            return kernel.leftovers(self.server.data_dir, self.server.key, tree)

        try:
            wait_until(lambda: not look(), "clean", 20, 0.1)
        except AssertionError:
            return look()
        return []

    def _drive(self) -> None:
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        threads += [threading.Thread(target=self._churner, args=(number,)) for number in range(CHURNERS)]
        threads.append(threading.Thread(target=self._killer))
        for thread in threads:
            thread.daemon = True
            thread.start()
        begun = time.monotonic()
        # The first count is at minute 2, the last at the end, and a few in between if there is time for it.
        first = min(120.0, self.seconds / 4)
        steps = max(1, min(5, int((self.seconds - first) / 15)))
        moments = [first + (self.seconds - first) * step / steps for step in range(steps + 1)]
        self.running.set()
        for moment in moments:
            self.over.wait(max(0.0, begun + moment - time.monotonic()))
            self._count(round(time.monotonic() - begun))
        self.over.set()
        self.running.set()
        for thread in threads:
            thread.join(JOIN_SECONDS)
            if thread.is_alive():
                self.tally.problem(f"{thread.name} did not end")

    def _count(self, at_s: int) -> None:
        """Lets the load cease, counts, and lets it go on."""
        self.running.clear()
        try:
            wait_until(lambda: not +self.busy, "the clients have ceased", JOIN_SECONDS, 0.05)
        except AssertionError as error:
            self.tally.problem(str(error))
        count = census.take_at_rest(self.server)
        self.counts.append((at_s, count))
        print(f"{at_s:>6} s  requests {self._requests()}  {count.shown()}", flush=True)
        self.running.set()

    def _requests(self) -> int:
        return sum(self.tally.total(what) for what in ("right", "throttled", "killed"))

    def _turns(self, who: str, period_s: float):
        """Yields at a steady pace until the soak is over; not while the load has ceased."""
        due = time.monotonic()
        while not self.over.is_set():
            self.running.wait()
            self.busy[who] = 1
            if not self.running.is_set():
                # The load ceased in between.
                self.busy[who] = 0
                continue
            if not self.over.is_set():
                yield
            self.busy[who] = 0
            due = max(due + period_s, time.monotonic() - period_s)
            self.over.wait(max(0.0, due - time.monotonic()))
        self.busy[who] = 0

    def _client(self, number: int) -> None:
        draw = random.Random(f"{self.seed} client {number}")
        weights = [kind.weight for kind in self.kinds]
        for _ in self._turns(f"client {number}", CLIENTS / self.rate):
            kind = draw.choices(self.kinds, weights)[0]
            event = kind.event(draw)
            self._invoke(kind, self.names[kind.name], event)

    def _invoke(self, kind: Kind, name: str, event: dict) -> None:
        begun = time.monotonic()
        try:
            path = f"/2015-03-31/functions/{name}/invocations"
            answer = self.api.send("POST", path, json.dumps(event, separators=(",", ":")).encode())
            body = answer.json()
        except Exception as error:  # a client thread must not end: whatever it was is a problem
            self.tally.problem(f"{kind.name}: {type(error).__name__}: {error}")
            return
        what = self._judge(kind, event, answer, body)
        if what == "wrong":
            self.tally.problem(f"{kind.name}: {answer.status} to {event} {answer.body[:500]!r}")
        self.tally.add(kind.name, what, time.monotonic() - begun)

    def _judge(self, kind: Kind, event: dict, answer, body) -> str:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if answer.status == 429:
            return "throttled"
        if answer.status != 200:
            return "wrong"
        if "x-amz-function-error" not in headers:
            return "right" if not kind.errors and kind.is_right(event, body) else "wrong"
        if body.get("errorType") in kind.errors:
            return "right"
        killed = body.get("errorType") == "Runtime.ExitError" and "signal: killed" in body.get("errorMessage", "")
        return "killed" if killed else "wrong"

    def _churner(self, number: int) -> None:
        """Creates, invokes, updates, invokes and deletes functions of its own."""
        runtime = python_for(OWN_MODE)
        for _ in self._turns(f"churner {number}", 1.0):
            name = free_name(f"churn-{number}")
            try:
                self._life(name, runtime)
                self.tally.add("churn", "right")
            except Exception as error:  # as above
                self.tally.problem(f"churn of {name}: {type(error).__name__}: {error}")
                self.api.delete(name)

    def _life(self, name: str, runtime: str) -> None:
        def code(version):
            return zip_of({"app.py": f"def handler(event, context):\n    return {{'version': {version}}}\n"})

        self.api.create(code(1), name=name, Runtime=runtime, Handler="app.handler")
        self._version(name, 1)
        self.api.update(name, code(2))
        self._version(name, 2)
        self.api.update(name, MemorySize=256, SnapStart=SNAP_START["SnapStart"])
        self._version(name, 2)
        self.api.client.publish_version(FunctionName=name)
        self._published(name)
        self._version(f"{name}:1", 2)
        self.api.client.delete_function(FunctionName=name)

    def _version(self, name: str, version: int) -> None:
        """Invokes until it is not met by a kill; a kill is no fault of the platform's."""
        for _ in range(5):
            answer = self.api.invoke(name, {})
            if answer.error is None:
                assert answer.value == {"version": version}, answer
                return
            assert "signal: killed" in answer.value.get("errorMessage", ""), answer
            self.tally.add("churn", "killed")
        raise AssertionError(f"{name} was killed five times in a row")

    def _killer(self) -> None:
        """SIGKILL for one process after the other that lives in a sandbox."""
        draw = random.Random(f"{self.seed} killer")
        for _ in self._turns("killer", self.kill_every_s):
            victims = self._victims()
            if victims:
                try:
                    os.kill(draw.choice(victims), signal.SIGKILL)
                    self.tally.kills += 1
                except ProcessLookupError:
                    pass

    def _victims(self) -> list:
        """Guests, zygotes, and the first processes of their sandboxes; with `kill_any` also what is just being made."""
        home = kernel.namespace(self.server.pid, "pid")
        tree = dict(sorted(kernel.tree_of(self.server.pid).items()))
        places = {pid: kernel.namespace(pid, "pid") for pid in tree}
        sandboxed = [pid for pid in tree if places[pid] not in (home, None)]
        if self.kill_any:
            return sandboxed
        # What is still being made runs the program of the server itself.
        program = _program(self.server.pid)
        made = {places[pid] for pid in sandboxed if _program(pid) not in (program, None) and _age_s(tree[pid]) > MADE_S}
        return [pid for pid in sandboxed if places[pid] in made]

    def _report(self, stopped, left: list) -> dict:
        tally, wrong = self.tally, []
        if tally.total("wrong") or tally.problems:
            wrong.append(f"{tally.total('problem')} requests failed by the platform's fault")
        if tally.total("killed") > tally.kills:
            wrong.append(f"{tally.total('killed')} answers say killed, but only {tally.kills} processes were")
        first, last = self.counts[0][1], self.counts[-1][1]
        wrong += census.grown(first, last)
        if stopped != 0:
            wrong.append(f"the server ended with {stopped}")
        wrong += [f"left behind: {thing}" for thing in left]
        by_kind = {}
        for (kind, what), number in sorted(tally.counts.items()):
            if kind:
                by_kind.setdefault(kind, {})[what] = number
        for kind, latencies in tally.latencies.items():
            latencies.sort()
            by_kind[kind]["p50_ms"] = round(latencies[len(latencies) // 2] * 1e3, 1)
            by_kind[kind]["p99_ms"] = round(latencies[len(latencies) * 99 // 100] * 1e3, 1)
        return {
            "seconds": self.seconds,
            "seed": self.seed,
            "kinds": by_kind,
            "kills": tally.kills,
            "counts": [{"at_s": at_s, **count.shown()} for at_s, count in self.counts],
            "problems": tally.problems,
            "complaints": self.complaints,
            "wrong": wrong,
        }


def _age_s(start_ticks: int) -> float:
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0]) - start_ticks / os.sysconf("SC_CLK_TCK")


def _program(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def table(report: dict) -> str:
    """The report for people."""
    lines = [f"{'function':<16}{'right':>9}{'killed':>8}{'throttled':>11}{'wrong':>7}{'p50 ms':>9}{'p99 ms':>9}"]
    for kind, found in report["kinds"].items():
        numbers = [found.get(what, 0) for what in ("right", "killed", "throttled", "wrong")]
        times = [found.get(name, "-") for name in ("p50_ms", "p99_ms")]
        lines.append("{:<16}{:>9}{:>8}{:>11}{:>7}{:>9}{:>9}".format(kind, *numbers, *times))
    lines += ["", f"{report['kills']} processes killed from outside", ""]
    counts = report["counts"]
    lines.append(f"{'at rest, after':<22}" + "".join(f"{count['at_s']:>7} s" for count in counts))
    for name in census.TOLERANCE:
        lines.append(f"{name:<22}" + "".join(f"{count[name]:>9}" for count in counts))
    if report["problems"]:
        lines += ["", "the server's warnings and errors:", *report["complaints"]]
    lines += ["", *report["problems"], *(f"WRONG: {text}" for text in report["wrong"])]
    lines.append("" if report["wrong"] else "nothing failed by the platform's fault, and nothing grew")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="cargo xtask soak")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rate", type=float, default=40, help="invocations per second")
    parser.add_argument("--kill-every", type=float, default=2, metavar="SECONDS")
    parser.add_argument("--kill-any", action="store_true", help="also sandboxes that are just being made")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    print(f"{arguments.minutes} minutes, seed {arguments.seed}, {binary()}", flush=True)
    kills = (arguments.kill_every, arguments.kill_any)
    report = Soak(arguments.minutes * 60, arguments.rate, arguments.seed, *kills).run()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    print(f"\nthe same as JSON: {arguments.output}")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
