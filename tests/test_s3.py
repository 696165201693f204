"""Code from an S3-compatible store: moto's server stands for it."""

import os
import subprocess
import sys

import boto3
import pytest
from botocore.config import Config

from support import ROLE
from support.clients import Api, free_name
from support.packages import code_sha256, zip_of
from support.polling import wait_until
from support.server import clean_environment, free_port, tied_to_us

BUCKET = "packages"


@pytest.fixture(scope="module")
def s3():
    """A moto server with one bucket; yields (endpoint, S3 client)."""
    program = os.path.join(os.path.dirname(sys.executable), "moto_server")
    port = free_port()
    process = subprocess.Popen(
        [*tied_to_us(), program, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    endpoint = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )

    def bucket_made():
        try:
            return client.create_bucket(Bucket=BUCKET)
        except Exception:  # The server may still be starting; the wait has an end.
            assert process.poll() is None, "moto_server ended"
            return None

    try:
        wait_until(bucket_made, "moto answers", 60, 0.2)
        yield endpoint, client
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def s3_api(s3, server_factory):
    """A client of a server that fetches from moto."""
    server = server_factory(
        config={
            "s3": {
                "endpoint": s3[0],
                "region": "us-east-1",
                "access_key_id": "test",
                "secret_access_key": "test",
                "path_style": True,
            }
        }
    )
    return Api(server.endpoint, server.credentials())


def create(api, name, **code):
    return api.client.create_function(
        FunctionName=name, Runtime="python3.11", Handler="app.handler", Role=ROLE, Code=code
    )


def test_create_and_update(s3, s3_api):
    one, two = (
        zip_of({"app.py": "def handler(e, c): return 'one'"}),
        zip_of({"app.py": "def handler(e, c): return 'two'"}),
    )
    s3[1].put_object(Bucket=BUCKET, Key="one.zip", Body=one)
    s3[1].put_object(Bucket=BUCKET, Key="a folder/two+ü.zip", Body=two)
    name = free_name()
    assert create(s3_api, name, S3Bucket=BUCKET, S3Key="one.zip")["CodeSha256"] == code_sha256(one)
    s3_api.wait_active(name)
    assert s3_api.invoke(name).ok() == "one"
    answer = s3_api.client.update_function_code(FunctionName=name, S3Bucket=BUCKET, S3Key="a folder/two+ü.zip")
    assert answer["CodeSha256"] == code_sha256(two)
    s3_api.wait_active(name)
    assert s3_api.invoke(name).ok() == "two"


def test_versions_of_objects(s3, s3_api):
    client = s3[1]
    client.create_bucket(Bucket="versioned")
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    old = client.put_object(Bucket="versioned", Key="f.zip", Body=zip_of({"app.py": "def handler(e, c): return 'old'"}))
    client.put_object(Bucket="versioned", Key="f.zip", Body=zip_of({"app.py": "def handler(e, c): return 'new'"}))
    name = free_name()
    create(s3_api, name, S3Bucket="versioned", S3Key="f.zip", S3ObjectVersion=old["VersionId"])
    s3_api.wait_active(name)
    assert s3_api.invoke(name).ok() == "old"


def test_missing_bucket_and_key(s3, s3_api):
    cases = [
        (
            {"S3Bucket": "no-such-bucket", "S3Key": "x.zip"},
            "Error occurred while GetObject. S3 Error Code: NoSuchBucket. "
            "S3 Error Message: The specified bucket does not exist",
        ),
        (
            {"S3Bucket": BUCKET, "S3Key": "no-such-key.zip"},
            "Error occurred while GetObject. S3 Error Code: NoSuchKey. "
            "S3 Error Message: The specified key does not exist.",
        ),
    ]
    for code, text in cases:
        refusal = s3_api.refused(
            "create_function",
            FunctionName=free_name(),
            Runtime="python3.11",
            Handler="app.handler",
            Role=ROLE,
            Code=code,
        )
        s3_api.check(refusal, 400, "InvalidParameterValueException", text)


def test_an_object_that_is_no_zip(s3, s3_api):
    s3[1].put_object(Bucket=BUCKET, Key="text.zip", Body=b"no zip at all")
    refusal = s3_api.refused(
        "create_function",
        FunctionName=free_name(),
        Runtime="python3.11",
        Handler="app.handler",
        Role=ROLE,
        Code={"S3Bucket": BUCKET, "S3Key": "text.zip"},
    )
    text = "Could not unzip uploaded file. Please check your file, then try to upload again."
    s3_api.check(refusal, 400, "InvalidParameterValueException", text)


def test_without_a_store_the_answer_is_clear(api):
    refusal = api.refused(
        "create_function",
        FunctionName=free_name(),
        Runtime="python3.11",
        Handler="app.handler",
        Role=ROLE,
        Code={"S3Bucket": BUCKET, "S3Key": "one.zip"},
    )
    assert refusal.status == 400 and "S3" in refusal.message, refusal


def test_a_store_that_is_down(server_factory):
    config = {
        "s3": {
            "endpoint": f"http://127.0.0.1:{free_port()}",
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
            "path_style": True,
        }
    }
    server = server_factory(config=config)
    api = Api(server.endpoint, server.credentials())
    refusal = api.refused(
        "create_function",
        FunctionName=free_name(),
        Runtime="python3.11",
        Handler="app.handler",
        Role=ROLE,
        Code={"S3Bucket": BUCKET, "S3Key": "one.zip"},
    )
    assert refusal.status in (400, 500, 502, 503) and refusal.message, refusal
    assert api.client.list_functions()["Functions"] == []
