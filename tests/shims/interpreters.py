"""Finds the interpreters on this machine that the shims support."""

import glob
import shutil
import subprocess

PYTHON_MINORS = range(8, 15)


def _pythons():
    """A CPython of each minor version from 3.8 on: "3.N" to its path."""
    names = ["python3.%d" % minor for minor in PYTHON_MINORS]
    candidates = [shutil.which(name, path="/usr/bin:/usr/local/bin") for name in names]
    candidates += sorted(glob.glob("/root/.pyenv/versions/3.*/bin/python3"))
    found = {}
    for path in filter(None, candidates):
        ask = "import sys; print(sys.version_info[1])"
        minor = int(subprocess.run([path, "-c", ask], capture_output=True, text=True, check=True).stdout)
        if minor in PYTHON_MINORS:
            found.setdefault("3.%02d" % minor, path)
    return found


def _nodes():
    """Every Node.js from 18 on: version to path."""
    found = {}
    for path in filter(None, [shutil.which("node"), *glob.glob("/opt/node*/bin/node")]):
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        if int(version.lstrip("v").split(".")[0]) >= 18:
            found[version] = path
    return found


PYTHONS = _pythons()
NODES = _nodes()
