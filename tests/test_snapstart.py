"""SnapStart through boto3: a version is initialised once, and its instances are restored from that."""

import pytest

from support.packages import zip_of

SLOW = """
import os, random, secrets, ssl, sys, tempfile, time, uuid
time.sleep(2)
IMPORTED = time.time()
MARK = uuid.uuid4().hex
DRAWN = random.random()
ssl.RAND_bytes(16)
BIG = {n: str(n) for n in range(100000)}
STARTED_AS = os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]
COUNT = 0

def handler(event, context):
    global COUNT
    COUNT += 1
    time.sleep(event.get("sleep", 0) if event else 0)
    return {
        "imported": IMPORTED, "mark": MARK, "now": time.time(), "count": COUNT, "big": BIG[77777],
        "random": [random.random(), secrets.token_hex(8), uuid.uuid4().hex, ssl.RAND_bytes(8).hex(), os.urandom(8).hex(),
                   tempfile.mktemp()],
        "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], "started_as": STARTED_AS,
        "stream": context.log_stream_name, "env_stream": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
        "tmp": sorted(os.listdir("/tmp")), "pids": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "cwd": os.getcwd(),
    }
"""


def publish(api, name):
    """Publishes $LATEST and waits until the version is Active."""
    made = api.client.publish_version(FunctionName=name)
    assert made["State"] == "Pending"
    api.client.get_waiter("published_version_active").wait(
        FunctionName=name, Qualifier=made["Version"], WaiterConfig={"Delay": 0.2, "MaxAttempts": 150}
    )
    return made["Version"]


@pytest.fixture
def snap(api):
    """Makes functions with SnapStart and publishes them."""
    made = []

    def make(source, handler="app.handler", **settings):
        files = source if isinstance(source, dict) else {"app.py": source}
        name = api.create(zip_of(files), Handler=handler, SnapStart={"ApplyOn": "PublishedVersions"}, **settings)
        made.append(name)
        return name

    yield make
    for name in made:
        api.delete(name)


def test_a_cold_start_finds_the_import_done(api, snap):
    name = snap(SLOW, MemorySize=512)
    version = publish(api, name)
    shown = api.client.get_function_configuration(FunctionName=name, Qualifier=version)
    assert shown["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    latest = api.client.get_function_configuration(FunctionName=name)
    assert latest["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    answer = api.invoke(name, {}, Qualifier=version)
    print(answer.log)
    print(answer.ok())
