"""Provisioned concurrency that changes by itself, and warming up: Tidegate's own API and its commands."""

import json
import re
import threading
import time

import pytest

from support.packages import zip_of
from support.polling import wait_until

CODE = """
import os, time
BORN = time.time()
def handler(event, context):
    time.sleep((event or {}).get('seconds', 0))
    return {'age': time.time() - BORN, 'type': os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']}
"""
PACKAGE = zip_of({"app.py": CODE})


@pytest.fixture
def name(api):
    """A function with version 1 and the alias `live` on it."""
    one = api.create(PACKAGE, Handler="app.handler")
    api.client.publish_version(FunctionName=one)
    api.client.create_alias(FunctionName=one, Name="live", FunctionVersion="1")
    yield one
    api.delete(one)


@pytest.fixture
def tidegate(server):
    """Runs a command of ours against the shared server."""
    keys = server.credentials()

    def run(*words):
        return server.run(*words, "--endpoint-url", server.endpoint, env=keys)

    return run


def path(name, what="scaling", qualifier="live"):
    """Where the resource is."""
    return f"/tidegate/v1/functions/{name}/{what}" + (f"?Qualifier={qualifier}" if qualifier else "")


def put(api, name, **wanted):
    """Sets the scaling."""
    raw = api.send_json("PUT", path(name), wanted)
    assert raw.status == 200, raw
    return raw.json()


def provisioned(api, name):
    """What is asked for and what is there."""
    found = api.client.list_provisioned_concurrency_configs(FunctionName=name)["ProvisionedConcurrencyConfigs"]
    counts = [
        (one["RequestedProvisionedConcurrentExecutions"], one["AvailableProvisionedConcurrentExecutions"])
        for one in found
    ]
    return counts[0] if counts else (0, 0)


class TestScaling:
    def test_a_window_that_is_open(self, api, name):
        """One that opens every minute for longer than a minute is always open."""
        window = {"cron": "* * * * *", "duration_s": 120, "count": 2}
        answer = put(api, name, max=5, windows=[window])
        assert answer["windows"] == [{**window, "time_zone": "UTC"}] and answer["now"]["min"] == 2
        wait_until(lambda: provisioned(api, name) == (2, 2), "two are provisioned", 30)
        assert api.invoke(name, Qualifier="live").ok()["type"] == "provisioned-concurrency"
        # Without it there is nothing to keep.
        put(api, name, max=5)
        wait_until(lambda: provisioned(api, name) == (0, 0), "none is provisioned", 30)

    def test_the_use_is_followed(self, api, name):
        put(api, name, min=1, max=4, utilisation=0.5, cool_down_s=3)
        wait_until(lambda: provisioned(api, name) == (1, 1), "the least is provisioned", 30)
        stop = threading.Event()

        def load():
            while not stop.is_set():
                assert api.invoke(name, {"seconds": 0.5}, Qualifier="live").ok()

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: provisioned(api, name) == (4, 4), "twice as many as are in use", 40)
            assert api.send("GET", path(name)).json()["now"]["in_use"] <= 4
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        wait_until(lambda: provisioned(api, name)[0] == 1, "the least again after the calm", 40)
        assert api.send("GET", path(name)).json()["now"]["because"] == "calm"

    def test_end(self, api, name):
        put(api, name, min=1, max=1)
        wait_until(lambda: provisioned(api, name) == (1, 1), "one is provisioned", 30)
        assert api.send("DELETE", path(name)).status == 204
        assert api.send("DELETE", path(name)).status == 204
        refusal = api.refused_raw("GET", path(name))
        api.check(refusal, 404, "ResourceNotFoundException")
        assert provisioned(api, name)[0] == 1, "what is provisioned stays"

    @pytest.mark.parametrize(
        "wanted,text",
        [
            ({}, "missing field `max`"),
            ({"max": 1, "min": 2}, "no less than min"),
            ({"max": 1, "utilisation": 2}, "utilisation"),
            ({"max": 1, "windows": [{"cron": "0 8 * *", "duration_s": 60, "count": 1}]}, "no cron expression"),
            (
                {"max": 1, "windows": [{"cron": "0 8 * * *", "time_zone": "Mars", "duration_s": 60, "count": 1}]},
                "no IANA time zone",
            ),
        ],
    )
    def test_refusals(self, api, name, wanted, text):
        refusal = api.refused_raw("PUT", path(name), json.dumps(wanted).encode())
        api.check(refusal, 400, "InvalidParameterValueException", re.compile(text))

    def test_what_is_missing(self, api, name):
        for qualifier, status in (("none", 404), ("9", 404), ("%24LATEST", 400), (None, 400)):
            refusal = api.refused_raw("PUT", path(name, qualifier=qualifier), b'{"max": 1}')
            assert refusal.status == status, refusal

    def test_commands(self, api, name, tidegate):
        of = (name, "--qualifier", "live")
        window = "0 8 * * MON-FRI;10h;2;Europe/Berlin"
        answer = tidegate("scaling", "set", *of, "--min", "1", "--max", "3", "--utilisation", "0.7", "--window", window)
        assert answer.returncode == 0, answer.stderr
        assert f"{name}:live: 1 to 3 provisioned" in answer.stdout and "Europe/Berlin" in answer.stdout
        wait_until(lambda: provisioned(api, name)[0] >= 1, "the least is provisioned", 30)
        answer = tidegate("scaling", "get", *of, "--output", "json")
        assert json.loads(answer.stdout)["utilisation"] == 0.7
        assert tidegate("scaling", "delete", *of).returncode == 0
        answer = tidegate("scaling", "get", *of)
        assert answer.returncode == 3 and "Nothing scales" in answer.stderr
        answer = tidegate("scaling", "set", *of, "--max", "3", "--window", "0 8 * * *")
        assert answer.returncode == 2 and "CRON;DURATION;COUNT" in answer.stderr


class TestWarmUp:
    def test_instances_are_there_before_invocations(self, api, name):
        raw = api.send_json("POST", path(name, "warm-up", None), {"Count": 2})
        assert raw.status == 202 and raw.json() == {"count": 2}
        time.sleep(2)
        answer = api.invoke(name).ok()
        assert answer["age"] > 0.5 and answer["type"] == "on-demand"
        # Nothing of it is provisioned concurrency.
        assert provisioned(api, name) == (0, 0)

    def test_refusals(self, api, name):
        for count in (0, 1_000_000):
            refusal = api.refused_raw("POST", path(name, "warm-up"), json.dumps({"count": count}).encode())
            api.check(refusal, 400, "InvalidParameterValueException", re.compile("count must be from 1"))
        refusal = api.refused_raw("POST", path(name, "warm-up", "none"), b'{"count": 1}')
        assert refusal.status == 404, refusal
        refusal = api.refused_raw("POST", path("doesnotexist", "warm-up", None), b'{"count": 1}')
        assert refusal.status == 404, refusal

    def test_command(self, api, name, tidegate):
        answer = tidegate("warm-up", name, "--qualifier", "live", "--count", "1")
        assert answer.returncode == 0 and "warms up for 1" in answer.stdout, answer.stderr
        time.sleep(2)
        assert api.invoke(name, Qualifier="live").ok()["age"] > 0.5
