"""Starts shims on every interpreter of this machine."""

import pytest
from guest import RUNTIMES, Guest
from interpreters import NODES, PYTHONS


@pytest.fixture(params=sorted(PYTHONS))
def python(request):
    """Path of an interpreter."""
    return PYTHONS[request.param]


@pytest.fixture(params=sorted(NODES))
def node(request):
    """Path of an interpreter."""
    return NODES[request.param]


@pytest.fixture
def task_root(tmp_path):
    """A function's folder."""
    root = tmp_path / "task"
    root.mkdir()
    return root


def _starter(command, task_root, suffix):
    guests = []

    def start(source=None, handler="app.handler", files=None, **environment):
        """Starts the shim on `source` as the module `app`, and on `files` (name to text)."""
        if source is not None:
            (task_root / ("app" + suffix)).write_text(source)
        for name, text in (files or {}).items():
            (task_root / name).parent.mkdir(parents=True, exist_ok=True)
            (task_root / name).write_text(text)
        guest = Guest(command, task_root, handler, environment)
        guests.append(guest)
        return guest

    yield start
    for guest in guests:
        guest.__exit__()


@pytest.fixture
def py(python, task_root):
    """Starts the Python shim."""
    yield from _starter([python, str(RUNTIMES / "python/bootstrap.py")], task_root, ".py")


@pytest.fixture
def js(node, task_root):
    """Starts the Node.js shim."""
    yield from _starter([node, str(RUNTIMES / "nodejs/bootstrap.mjs")], task_root, ".js")
