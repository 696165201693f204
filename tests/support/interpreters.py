"""Which managed runtimes this machine can run, found by the same rule as the server's."""

import glob
import os
import re
import subprocess
from functools import lru_cache

SUPPORTED_PYTHON = range(8, 15)
SUPPORTED_NODE = (18, 20, 22, 24)


def _is_elf(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _folders(home: str | None) -> list:
    patterns = [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/usr/local/bin", "/opt/*/bin"]
    if home:
        patterns += [f"{home}/.pyenv/versions/*/bin", f"{home}/.nvm/versions/node/*/bin"]
    return [folder for pattern in patterns if pattern for folder in sorted(glob.glob(pattern))]


@lru_cache(maxsize=2)
def present(system_only: bool = os.geteuid() != 0) -> tuple:
    """The runtimes this machine has, as the API spells them; `system_only`: without those below /root and at home."""
    home = None if system_only else os.path.expanduser("~")
    found = set()
    for folder in _folders(home):
        if system_only and (folder.startswith("/root") or not os.path.isdir(folder)):
            continue
        for path in glob.glob(f"{folder}/python3.*"):
            minor = re.fullmatch(r"python3\.(\d+)", os.path.basename(path))
            if minor and int(minor[1]) in SUPPORTED_PYTHON and _is_elf(path):
                found.add(f"python3.{minor[1]}")
        node = f"{folder}/node"
        if os.access(node, os.X_OK) and _is_elf(os.path.realpath(node)):
            answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10, check=False)
            major = re.match(r"v(\d+)\.", answer.stdout)
            if major and int(major[1]) in SUPPORTED_NODE:
                found.add(f"nodejs{major[1]}.x")
    return tuple(sorted(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)]))


def pythons() -> list:
    """The Python runtimes of this machine."""
    return [name for name in present() if name.startswith("python")]


def nodes() -> list:
    """The Node.js runtimes of this machine."""
    return [name for name in present() if name.startswith("nodejs")]


def python_for(mode: str) -> str:
    """One Python runtime that a server of this mode ("root" or "user") can reach."""
    candidates = [name for name in present(mode == "user") if name.startswith("python")]
    preferred = [name for name in candidates if name in ("python3.11", "python3.12", "python3.13")]
    return (preferred or candidates or ["python3.11"])[0]


def missing() -> str | None:
    """A runtime that the API knows, Tidegate can run, and this machine lacks."""
    known = [f"python3.{minor}" for minor in SUPPORTED_PYTHON] + [f"nodejs{major}.x" for major in SUPPORTED_NODE]
    return next((name for name in reversed(known) if name not in present()), None)


# What functions are made with that need no special runtime; whatever the server's mode, it can reach it.
PYTHON = python_for("user" if os.geteuid() != 0 else "root")
