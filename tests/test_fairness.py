"""One function's flood beside another function, on a machine that is too small for both."""

import threading
import time

import pytest

from support.clients import Api
from support.packages import zip_of

SLEEPER = """
import time

def handler(event, context):
    time.sleep(event.get("seconds", 0))
    return "slept"
"""


class Flood:
    """Threads that invoke one function again and again."""

    def __init__(self, api, name: str, threads: int, event: dict):
        self.over = threading.Event()
        self.answers = []
        self.threads = [threading.Thread(target=self.run, args=(api, name, event)) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, api, name, event):
        while not self.over.is_set():
            self.answers.append(api.try_invoke(name, event))

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(30)


@pytest.fixture
def small(server_factory):
    """Room for four instances."""
    server = server_factory(config={"limits": {"instances": 4}})
    return Api(server.endpoint, server.credentials())


class TestRoom:
    def test_a_flood_leaves_room_for_another_function(self, small):
        flooding, other = (small.create(zip_of({"s.py": SLEEPER}), Handler="s.handler") for _ in range(2))
        assert small.invoke(flooding, {}).ok() == "slept"
        flood = Flood(small, flooding, 16, {"seconds": 0.3})
        try:
            time.sleep(2)
            begun = time.monotonic()
            assert small.invoke(other, {}).ok() == "slept"
            first = time.monotonic() - begun
            # It has an instance now, and keeps one as long as it is used.
            begun = time.monotonic()
            for _ in range(20):
                assert small.invoke(other, {}).ok() == "slept"
            more = time.monotonic() - begun
        finally:
            flood.end()
        assert first < 4, "a yielded instance comes within a few of the flood's invocations"
        assert more < 4, "and then it is there"
        assert flood.answers.count(200) > 20, "the flood goes on meanwhile"
        assert set(flood.answers) <= {200, 429}
