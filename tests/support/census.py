"""Counts what a server holds: memory, processes, files, mounts, cgroups, networks. For finding what only grows."""

import glob
import os
import time
from dataclasses import asdict, dataclass

from . import kernel


@dataclass
class Census:
    """One count. Sandboxed processes are guests and zygotes; `own` are launcher, daemon and what else they keep."""

    daemon_kb: int
    launcher_kb: int
    own_processes: int
    sandboxed_processes: int
    daemon_threads: int
    files: int
    mounts: int
    cgroups: int
    networks: int

    def shown(self) -> dict:
        """The figures by name."""
        return asdict(self)


# How much more than before is no growth: a part, and a number. Pools breathe, and allocators keep what they had.
TOLERANCE = {
    "daemon_kb": (0.25, 8_192),
    "launcher_kb": (0.25, 4_096),
    "own_processes": (0.0, 2),
    # The stock of sandboxes follows demand.
    "sandboxed_processes": (0.25, 24),
    "daemon_threads": (0.0, 8),
    "files": (0.10, 24),
    "mounts": (0.25, 200),
    "cgroups": (0.25, 60),
    "networks": (0.25, 30),
}
# What the launcher holds open for each process in a sandbox, at most.
FILES_PER_SANDBOXED_PROCESS = 10


def take(server) -> Census:
    """Counts now."""
    tree = kernel.tree_of(server.pid)
    home = kernel.namespace(server.pid, "pid")
    daemon = kernel.daemon_of(server.pid)
    own = [pid for pid in tree if kernel.namespace(pid, "pid") == home]
    return Census(
        daemon_kb=_anonymous_kb(daemon),
        launcher_kb=_anonymous_kb(server.pid),
        own_processes=len(own),
        sandboxed_processes=len(tree) - len(own),
        daemon_threads=kernel.threads(daemon) if daemon else 0,
        files=sum(len(_files(pid)) for pid in own),
        mounts=_mounts(tree),
        cgroups=_cgroups(server.key),
        networks=_networks(tree, own, server.key),
    )


def take_at_rest(server, seconds: float = 60, still_s: float = 2) -> Census:
    """Counts once nothing has been started or ended for a while; load must have ceased before."""
    deadline, since, before = time.monotonic() + seconds, time.monotonic(), None
    while time.monotonic() < deadline:
        tree = kernel.tree_of(server.pid)
        if tree != before:
            before, since = tree, time.monotonic()
        if time.monotonic() - since >= still_s:
            break
        time.sleep(0.1)
    return take(server)


def grown(first: Census, last: Census) -> list:
    """What is more in `last` than it may be, in words."""
    found = []
    more = max(0, last.sandboxed_processes - first.sandboxed_processes)
    for name, (part, number) in TOLERANCE.items():
        before, after = getattr(first, name), getattr(last, name)
        if name == "files":
            number += FILES_PER_SANDBOXED_PROCESS * more
        if after > before * (1 + part) + number:
            found.append(f"{name} grew from {before} to {after}")
    return found


def _anonymous_kb(pid: int | None) -> int:
    """Memory that is no file's. Pages of the program itself would count less while another server runs it too."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    except OSError:
        return 0


def _files(pid: int) -> list:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def _mounts(tree) -> int:
    """Lines of the mount tables of all mount namespaces of the tree, each namespace once."""
    seen, lines = set(), 0
    for pid in tree:
        identity = kernel.namespace(pid, "mnt")
        if identity and identity not in seen:
            seen.add(identity)
            try:
                with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
                    lines += sum(1 for _ in file)
            except OSError:
                continue
    return lines


def _cgroups(key: str | None) -> int:
    if not key:
        return 0
    roots = glob.glob(f"/sys/fs/cgroup/*/tidegate/{key}") + glob.glob(f"/sys/fs/cgroup/tidegate/{key}")
    return sum(1 for root in roots for _ in os.walk(root))


def _networks(tree, own, key: str | None) -> int:
    """Network namespaces that processes are in or hold open, and host ends of links."""
    found = {kernel.namespace(pid, "net") for pid in tree}
    for pid in own:
        for number in _files(pid):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{number}")
            except OSError:
                continue
            if target.startswith("net:"):
                found.add(target)
    links = [name for name in os.listdir("/sys/class/net") if key and name.startswith(f"tg{key[:4]}")]
    return len(found - {None}) + len(links)
