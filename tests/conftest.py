"""Fixtures of the end-to-end suites. They drive a real server through real clients.

Run them with `pytest tests`; TIDEGATE_BIN names the program under test (default `target/debug/tidegate`).
"""

import os

import pytest

from support.clients import Api
from support.packages import zip_fixture
from support.server import OWN_MODE, Server, binary


def pytest_configure(config):
    """Without a program there is nothing to test; say so once instead of in every test."""
    if not os.access(binary(), os.X_OK) and not config.option.collectonly:
        suites = [argument for argument in config.args if "shims" not in argument]
        if suites:
            raise pytest.UsageError(f"{binary()} is not there; build it or set TIDEGATE_BIN")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the servers under test wrote to stderr."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in Server.live:
            report.sections.append((f"stderr of the server on port {server.port}", server.log()))


def _need(mode: str) -> None:
    """Servers of mode "user" are for everybody; those of mode "root" only for root."""
    assert mode in ("root", "user")
    if mode == "root" and os.geteuid() != 0:
        pytest.skip("needs root: it starts a server as root")


@pytest.fixture(scope="session")
def server():
    """One server with default settings, run as whoever runs the tests, for all that need nothing special."""
    running = Server().start()
    yield running
    running.close()


@pytest.fixture(scope="session")
def api(server):
    """A client of the shared server."""
    return Api(server.endpoint, server.credentials())


@pytest.fixture
def server_factory():
    """Makes servers of one's own: `server_factory(mode=…, config=…, flags=…, data_dir=…, start=True)`."""
    made = []

    def make(mode=OWN_MODE, start=True, **settings):
        _need(mode)
        one = Server(mode, **settings)
        made.append(one)
        return one.start() if start else one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def make(api):
    """Creates functions on the shared server and deletes them at the end: `make(package, **parameters)`."""
    names = []

    def create(package=None, on=None, **parameters):
        client = on or api
        name = client.create(package or zip_fixture("probe.py"), **parameters)
        names.append((client, name))
        return name

    yield create
    for client, name in names:
        client.delete(name)


@pytest.fixture(scope="module")
def probe(api):
    """A plain Python function that a module's tests may invoke but not change."""
    name = api.create(zip_fixture("probe.py"))
    yield name
    api.delete(name)
