"""One `tidegate serve` under test: started on a free port, asked for credentials, stopped, killed, looked at."""

import atexit
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from . import kernel
from .polling import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
UNPRIVILEGED_UID = 65534
# How a server runs that nobody said more about: as root if the tests do.
OWN_MODE = "root" if os.geteuid() == 0 else "user"
READY_SECONDS = 20
STOP_SECONDS = 45


def binary() -> str:
    """The program under test."""
    return os.environ.get("TIDEGATE_BIN") or str(ROOT / "target" / "debug" / "tidegate")


def is_release() -> bool:
    """Is the program under test an optimised one? Cargo's folder tells; a copy elsewhere counts as debug."""
    return "release" in Path(binary()).resolve().parts


def tied_to_us() -> list:
    """What stands before a command so that it ends with us, where the machine has the means."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def clean_environment(home: str | None = None) -> dict:
    """The environment of commands under test: nothing of AWS, nothing of Tidegate."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TIDEGATE_"))}
    kept["HOME"] = home or os.path.expanduser("~")
    return kept


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def toml_text(table: dict, path: str = "") -> str:
    """A nested dict of plain values as TOML."""

    def value(v):
        if isinstance(v, bool):
            return "true" if v else "false"
        if isinstance(v, str):
            return '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if isinstance(v, dict):
            return "{ " + ", ".join(f'"{key}" = {value(inner)}' for key, inner in v.items()) + " }"
        if isinstance(v, list):
            return "[" + ", ".join(value(item) for item in v) + "]"
        return str(v)

    lines = [f'"{key}" = {value(v)}' for key, v in table.items() if not isinstance(v, dict)]
    text = "\n".join(lines) + "\n"
    for key, inner in table.items():
        if isinstance(inner, dict):
            name = f'{path}"{key}"'
            text += f"[{name}]\n" + toml_text(inner, f"{name}.")
    return text


class Server:
    """A server and its data folder. `mode` is "root" or "user"; root may start both, an ordinary user the latter.

    `open_files` is the soft limit that it is started with. `ca` is the file of the authority behind its certificate, if it
    speaks TLS.
    """

    live: list = []

    def __init__(
        self,
        mode: str = OWN_MODE,
        config: dict | None = None,
        flags: tuple = (),
        data_dir: str | None = None,
        open_files: int | None = None,
        ca: str | None = None,
    ):
        self.mode = mode
        self.ca = ca
        self.open_files = open_files
        self.flags = list(flags)
        self.scratch = tempfile.mkdtemp(prefix="tidegate-test-")
        os.chmod(self.scratch, 0o755)
        self.data_dir = data_dir or os.path.join(self.scratch, "data")
        self.program = binary()
        if mode == "user" and os.geteuid() == 0:
            self._hand_over()
        if config is not None:
            path = os.path.join(self.scratch, "tidegate.toml")
            Path(path).write_text(toml_text(config), encoding="utf-8")
            os.chmod(path, 0o644)
            self.flags += ["--config", path]
        self.log_path = os.path.join(self.scratch, "stderr.log")
        self.process = None
        self.port = None
        self.key = None

    def _hand_over(self):
        """Lets the unprivileged user have a data folder and a program it can read."""
        self.program = os.path.join(self.scratch, "tidegate")
        shutil.copy2(binary(), self.program)
        os.chmod(self.program, 0o755)
        os.makedirs(self.data_dir, exist_ok=True)
        os.chown(self.data_dir, UNPRIVILEGED_UID, UNPRIVILEGED_UID)

    def prefix(self) -> list:
        """What stands before a command so that it runs as the server's user and ends with us."""
        limit = ["sh", "-c", 'ulimit -S -n "$0" && exec "$@"', str(self.open_files)] if self.open_files else []
        if self.mode == "user" and os.geteuid() == 0:
            uid = str(UNPRIVILEGED_UID)
            other = ["--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps=-all"]
            return [*limit, "setpriv", *other, "--pdeathsig", "KILL"]
        return [*limit, *tied_to_us()]

    def command(self) -> list:
        """The full command line of `serve`."""
        serve = [self.program, "serve", "--listen", f"127.0.0.1:{self.port}", "--data-dir", self.data_dir]
        return self.prefix() + serve + self.flags

    def environment(self) -> dict:
        """The environment of the server and of commands run as its user."""
        return clean_environment("/nonexistent" if self.mode == "user" else None)

    def start(self, port: int | None = None) -> "Server":
        """Starts it and waits until it is ready; tries another port if ours was taken meanwhile."""
        for _ in range(3):
            self.port = port or free_port()
            if self._start_once():
                return self
        raise AssertionError(f"the server did not start:\n{self.log()}")

    def _start_once(self) -> bool:
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
                cwd="/",
            )
        Server.live.append(self)
        started = time.monotonic()
        wait_until(lambda: self.process.poll() is not None or self.healthy(), "ready or ended", READY_SECONDS, 0.005)
        self.ready_s = time.monotonic() - started
        if self.process.poll() is None:
            return True
        Server.live.remove(self)
        taken = re.search(r"address.*in use", self.log(), re.IGNORECASE)
        if not taken:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
        return False

    def healthy(self) -> bool:
        """Does /healthz answer 200?"""
        try:
            trust = ssl.create_default_context(cafile=self.ca) if self.ca else None
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=5, context=trust) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    @property
    def endpoint(self) -> str:
        """Where clients find it."""
        return f"{'https' if self.ca else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The top process, which is the launcher."""
        return self.process.pid

    def daemon_pid(self) -> int:
        """The unprivileged daemon."""
        return wait_until(lambda: kernel.daemon_of(self.pid), "the daemon among the launcher's children")

    def tree(self) -> dict:
        """All its processes: pid to start time."""
        return kernel.tree_of(self.pid)

    def remember_key(self) -> str | None:
        """Learns the key of its cgroups while an instance lives; None where there are no cgroups."""
        self.key = self.key or kernel.cgroup_key(self.pid)
        return self.key

    def credentials(self) -> dict:
        """What `tidegate credentials` prints, as environment variables."""
        answer = self.run("credentials", "--data-dir", self.data_dir)
        assert answer.returncode == 0, answer.stderr
        words = [
            word for line in answer.stdout.splitlines() if line.startswith("export ") for word in shlex.split(line)[1:]
        ]
        found = dict(word.split("=", 1) for word in words)
        assert "AWS_ACCESS_KEY_ID" in found and "AWS_SECRET_ACCESS_KEY" in found, answer.stdout
        return found

    def run(self, *arguments, timeout: float = 60, env: dict | None = None, **kwargs) -> subprocess.CompletedProcess:
        """Runs another command of the same program as the same user."""
        environment = {**self.environment(), **(env or {})}
        return subprocess.run(
            [*self.prefix(), self.program, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
            **kwargs,
        )

    def log(self, lines: int = 80) -> str:
        """The end of what it wrote to its own stderr."""
        try:
            text = Path(self.log_path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def log_bytes(self) -> int:
        """How much that is by now; a place to read on from."""
        return os.path.getsize(self.log_path)

    def log_since(self, offset: int) -> str:
        """What it has written to its own stderr behind an earlier `log_bytes`."""
        with open(self.log_path, "rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Waits for the end of the top process and returns its exit code (negative: the signal)."""
        code = self.process.wait(seconds)
        if self in Server.live:
            Server.live.remove(self)
        return code

    def stop(self) -> int | None:
        """SIGTERM and wait; SIGKILL for what does not listen."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else None
        tree = self.tree()
        self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            kernel.kill_all({**tree, **self.tree()})
            return self.wait()

    def kill_daemon(self) -> int:
        """SIGKILL for the daemon only; waits for the launcher's own end."""
        os.kill(self.daemon_pid(), signal.SIGKILL)
        return self.wait()

    def kill_tree(self) -> None:
        """SIGKILL for everything, the launcher first."""
        tree = self.tree()
        self.process.kill()
        kernel.kill_all(tree)
        self.wait()

    def close(self) -> None:
        """Stops it and removes its folder."""
        self.stop()
        shutil.rmtree(self.scratch, ignore_errors=True)


@atexit.register
def _stop_all() -> None:
    for server in list(Server.live):
        if server.process and server.process.poll() is None:
            kernel.kill_all(server.tree())
