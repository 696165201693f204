"""Looks into /proc, /sys and the network for what a server has running, and for what it left behind."""

import glob
import os
import re
import signal
import subprocess
from pathlib import Path


def _stat(pid: int) -> tuple | None:
    """Parent, state and start time of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), fields[0], int(fields[19])


def all_processes() -> dict:
    """Every process of the machine: pid to (parent, state, start time)."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))):
            found[int(entry)] = stat
    return found


def guests_below(root: int) -> list:
    """The processes below `root` that run a function; those that wait for one are elsewhere."""

    def place(pid):
        try:
            return os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            return None

    return [pid for pid in tree_of(root) if place(pid) == "/var/task"]


def tree_of(root: int) -> dict:
    """The processes below and including `root`: pid to start time."""
    processes = all_processes()
    if root not in processes:
        return {}
    tree = {root: processes[root][2]}
    grown = True
    while grown:
        grown = False
        for pid, (parent, _, start) in processes.items():
            if parent in tree and pid not in tree:
                tree[pid] = start
                grown = True
    return tree


def alive(tree: dict) -> list:
    """Those of an earlier `tree_of` that still run; the start time tells a reused pid. Zombies do not count."""
    processes = all_processes()
    return [
        pid
        for pid, start in tree.items()
        if pid in processes and processes[pid][2] == start and processes[pid][1] not in "ZX"
    ]


def kill_all(tree: dict) -> None:
    """SIGKILL for each of the tree that is still the same process."""
    for pid in alive(tree):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def namespace(pid: int, kind: str) -> str | None:
    """The identity of a namespace of a process."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


def command_name(pid: int) -> str | None:
    """What the process calls itself; `None` if it is gone."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return None


def threads(pid: int) -> int:
    """How many threads a process has."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def daemon_of(launcher: int) -> int | None:
    """The daemon: the launcher's child that has many threads and lives in the launcher's own pid namespace."""
    home = namespace(launcher, "pid")
    for pid, (parent, state, _) in all_processes().items():
        if parent == launcher and state not in "ZX" and namespace(pid, "pid") == home and threads(pid) > 1:
            return pid
    return None


def pss_kb(tree) -> int:
    """The proportional memory of processes, in kB."""
    total = 0
    for pid in tree:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:
            continue
        total += int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[1])
    return total


def cpu_ticks(tree) -> int:
    """User and system time of processes, in clock ticks."""
    total = 0
    for pid in tree:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        fields = text[text.rindex(")") + 2 :].split()
        total += int(fields[11]) + int(fields[12])
    return total


def pids_with_argument(text: str) -> list:
    """Processes whose command line holds `text`."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        pid = int(path.split("/")[2])
        try:
            command = Path(path).read_bytes()
        except OSError:
            continue
        if text.encode() in command and pid != os.getpid():
            found.append(pid)
    return found


def cgroup_key(launcher: int) -> str | None:
    """The key under which a server's instances keep their cgroups, read from a live instance."""
    for pid in tree_of(launcher):
        try:
            text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
        except OSError:
            continue
        found = re.search(r"/tidegate/([^/\s]+)/", text)
        if found:
            return found[1]
    return None


def _mounts_naming(words: list) -> list:
    """Lines of the mount tables of all mount namespaces that hold one of `words`."""
    seen, found = set(), []
    for path in glob.glob("/proc/[0-9]*/mountinfo"):
        pid = int(path.split("/")[2])
        identity = namespace(pid, "mnt")
        if identity in seen:
            continue
        seen.add(identity)
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found += [f"pid {pid}: {line}" for line in lines if any(word in line for word in words)]
    return found


def _loop_devices_naming(words: list) -> list:
    found = []
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if any(word in text for word in words):
            found.append(f"{path}: {text}")
    return found


def _links(key: str) -> list:
    """Host ends of the instances' network links."""
    return [name for name in os.listdir("/sys/class/net") if name.startswith(f"tg{key[:4]}")]


def _nft_tables(key: str) -> list:
    try:
        answer = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return []
    return [line for line in answer.stdout.splitlines() if f"tidegate_{key}" in line]


def leftovers(data_dir: str, key: str | None, tree: dict) -> list:
    """What a stopped server left on this machine; empty is clean. `tree`: its processes of an earlier moment."""
    words = [data_dir] + ([f"/run/tidegate/{key}"] if key else [])
    found = [f"process {pid} of the earlier tree" for pid in alive(tree)]
    found += [f"process {pid} names the data folder" for pid in pids_with_argument(data_dir)]
    found += [f"mount: {line}" for line in _mounts_naming(words)]
    found += [f"loop device: {line}" for line in _loop_devices_naming(words)]
    if key:
        groups = glob.glob(f"/sys/fs/cgroup/*/tidegate/{key}") + glob.glob(f"/sys/fs/cgroup/tidegate/{key}")
        found += [f"cgroup: {path}" for path in groups]
        found += [f"link: {name}" for name in _links(key)]
        found += [f"nft: {line}" for line in _nft_tables(key)]
        if os.path.exists(f"/run/tidegate/{key}"):
            found.append(f"folder: /run/tidegate/{key}")
    return found
