"""Signature Version 4: who is let in, and how the others are told."""

import base64
import datetime
import json
import re
import subprocess
from pathlib import Path

import botocore.auth
import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support import ROLE, arn_of
from support.clients import Api, refusal_of, send
from support.packages import zip_fixture
from support.server import Server, free_port

LIST = "/2015-03-31/functions"
MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
    "Key and signing method. Consult the service documentation for details."
)
# Headers that a browser sends for pages of others, or for a name that leads back to this machine.
FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://evil.example", "Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example"},
    {"Host": "evil.example:9000", "Origin": "http://evil.example:9000", "Sec-Fetch-Site": "same-origin"},
    {"Host": "localhost.evil.example"},
]


@pytest.fixture
def clock(monkeypatch):
    """Moves the clock of the signing client: `clock(seconds)`."""
    real = botocore.auth.get_current_datetime

    def move(seconds):
        def shifted(*arguments, **names):
            return real(*arguments, **names) + datetime.timedelta(seconds=seconds)

        monkeypatch.setattr(botocore.auth, "get_current_datetime", shifted)

    return move


def check(api, raw, code, message):
    api.check(refusal_of(raw), 403, code, message, kind=None)


def presigned(api, path, expires_s, credentials=None) -> str:
    """The path and query of a presigned GET."""
    request = AWSRequest(method="GET", url=api.endpoint + path)
    SigV4QueryAuth(credentials or api.credentials, "lambda", api.region, expires=expires_s).add_auth(request)
    return request.prepare().url[len(api.endpoint) :]


class TestHeaders:
    def test_good(self, api):
        assert api.send("GET", LIST).status == 200

    def test_no_credentials(self, api, server):
        for method, path in (
            ("GET", LIST),
            ("POST", LIST),
            ("GET", "/tidegate/v1/functions/f/settings"),
            ("POST", f"{LIST}/f/invocations"),
        ):
            check(
                api,
                send(server.endpoint, method, path),
                "MissingAuthenticationTokenException",
                "Missing Authentication Token",
            )

    def test_malformed_authorization(self, api, server):
        for value in (
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=x",
            "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=, Signature=1",
        ):
            refusal = refusal_of(send(server.endpoint, "GET", LIST, headers={"Authorization": value}))
            assert refusal.status == 403, (value, refusal)
            assert refusal.code in (
                "IncompleteSignatureException",
                "MissingAuthenticationTokenException",
                "InvalidSignatureException",
                "UnrecognizedClientException",
            ), refusal

    def test_unknown_key(self, api):
        raw = api.send("GET", LIST, credentials=Credentials("AKIANOSUCHKEY0000000", api.credentials.secret_key))
        check(api, raw, "UnrecognizedClientException", "The security token included in the request is invalid.")

    def test_wrong_secret(self, api):
        raw = api.send("GET", LIST, credentials=Credentials(api.credentials.access_key, "x" * 40))
        check(api, raw, "InvalidSignatureException", MISMATCH)

    def test_session_token_that_nobody_issued(self, api):
        keys = Credentials(api.credentials.access_key, api.credentials.secret_key, "no such token")
        check(
            api,
            api.send("GET", LIST, credentials=keys),
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        )

    def test_session_token_of_a_configured_key(self, server_factory):
        key, secret, token = "ASIACONFIGURED000000", "configured-secret-access-key", "the/token+of=a-session"
        table = {"access_key_id": key, "secret_access_key": secret, "session_token": token}
        server = server_factory(config={"credentials": [table]})
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        api = Api(server.endpoint, dict(zip(names, (key, secret, token))))
        assert api.client.list_functions()["Functions"] == []
        for wrong in (None, "another-token"):
            raw = api.send("GET", LIST, credentials=Credentials(key, secret, wrong))
            check(
                api, raw, "UnrecognizedClientException", "The security token included in the request is invalid."
            )

    def test_wrong_region(self, api):
        check(
            api,
            api.send("GET", LIST, region="eu-north-1"),
            "InvalidSignatureException",
            re.compile("Credential should be scoped to a valid region"),
        )

    def test_wrong_service(self, api):
        check(
            api,
            api.send("GET", LIST, service="s3"),
            "InvalidSignatureException",
            re.compile("Credential should be scoped to correct service: 'lambda'"),
        )

    def test_clock_behind(self, api, clock):
        clock(-600)
        check(
            api,
            api.send("GET", LIST),
            "InvalidSignatureException",
            re.compile(r"^Signature expired: \d{8}T\d{6}Z is now earlier than \d{8}T\d{6}Z \(\d{8}T\d{6}Z - 5 min\.\)"),
        )

    def test_clock_ahead(self, api, clock):
        clock(600)
        check(
            api,
            api.send("GET", LIST),
            "InvalidSignatureException",
            re.compile(
                r"^Signature not yet current: \d{8}T\d{6}Z is still later than \d{8}T\d{6}Z \(\d{8}T\d{6}Z \+ 5 min\.\)"
            ),
        )

    @pytest.mark.parametrize("seconds", [-240, 240])
    def test_a_clock_within_the_window(self, api, clock, seconds):
        clock(seconds)
        assert api.send("GET", LIST).status == 200

    def test_whatever_is_changed_after_signing(self, api, server, probe):
        path = f"{LIST}/{probe}/invocations"
        body = b'{"a": 1}'
        headers = api.sign("POST", path, body, {"X-Amz-Log-Type": "None"})
        assert send(server.endpoint, "POST", path, body, headers).status == 200
        changed = {
            "body": (path, b'{"a": 2}', headers),
            "query": (path + "?Qualifier=1", body, headers),
            "path": (path.replace(probe, probe + "x"), body, headers),
            "header": (path, body, {**headers, "X-Amz-Log-Type": "Tail"}),
            "signature": (path, body, {**headers, "Authorization": headers["Authorization"][:-1] + "g"}),
        }
        for what, (changed_path, changed_body, changed_headers) in changed.items():
            refusal = refusal_of(send(server.endpoint, "POST", changed_path, changed_body, changed_headers))
            assert refusal.status == 403 and refusal.code in (
                "InvalidSignatureException",
                "IncompleteSignatureException",
            ), (what, refusal)

    def test_a_header_of_weight_must_be_signed(self, api, server, probe):
        path = f"{LIST}/{probe}/invocations"
        headers = {**api.sign("POST", path, b"{}", {}), "X-Amz-Invocation-Type": "DryRun"}
        check(api, send(server.endpoint, "POST", path, b"{}", headers), "InvalidSignatureException", None)

    def test_paths_and_queries_that_need_encoding(self, api, probe):
        assert api.client.get_function(FunctionName=arn_of(probe, "$LATEST"))["Configuration"]["FunctionName"] == probe
        api.client.tag_resource(Resource=arn_of(probe), Tags={"a key+/=@": "v"})
        api.client.untag_resource(Resource=arn_of(probe), TagKeys=["a key+/=@", "ü", "x"])
        assert api.client.list_tags(Resource=arn_of(probe))["Tags"] == {}
        api.check(api.refused("list_functions", Marker="a b+c/ü=", MaxItems=0), 400, "ValidationException")

    def test_an_early_refusal_does_not_read_the_body(self, api, server):
        body = b"x" * 60_000_000
        raw = send(server.endpoint, "POST", LIST, body)
        check(api, raw, "MissingAuthenticationTokenException", "Missing Authentication Token")


class TestPresigned:
    def test_good(self, api, server):
        raw = send(server.endpoint, "GET", presigned(api, LIST, 60))
        assert raw.status == 200 and "Functions" in raw.json()

    def test_expired(self, api, server, clock):
        clock(-120)
        check(
            api,
            send(server.endpoint, "GET", presigned(api, LIST, 60)),
            "InvalidSignatureException",
            re.compile("^Signature expired: "),
        )
        assert send(server.endpoint, "GET", presigned(api, LIST, 180)).status == 200

    def test_tampered(self, api, server):
        good = presigned(api, LIST, 60)
        for bad in (
            good.replace("Expires=60", "Expires=600"),
            good + "&MaxItems=1",
            good[:-1] + ("0" if good[-1] != "0" else "1"),
        ):
            check(api, send(server.endpoint, "GET", bad), "InvalidSignatureException", MISMATCH)

    def test_too_long_a_life(self, api, server):
        assert send(server.endpoint, "GET", presigned(api, LIST, 604_801)).status in (400, 403)

    def test_unknown_key(self, api, server):
        path = presigned(api, LIST, 60, Credentials("AKIANOSUCHKEY0000000", "x" * 40))
        check(
            api,
            send(server.endpoint, "GET", path),
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        )


class TestCredentials:
    def test_are_kept_in_the_data_folder_unreadable_for_others(self, server):
        first, second = server.credentials(), server.credentials()
        assert first == second and len(first["AWS_SECRET_ACCESS_KEY"]) >= 40
        mode = Path(server.data_dir, "credentials.json").stat().st_mode & 0o777
        assert mode & 0o077 == 0, oct(mode)

    def test_before_the_first_start_the_command_says_what_to_do(self, server_factory):
        server = server_factory(start=False)
        answer = server.run("credentials", "--data-dir", server.data_dir)
        assert answer.returncode != 0 and answer.stdout == "" and "start" in answer.stderr, answer.stderr

    def test_tell_region_and_endpoint_too(self, server):
        found = server.credentials()
        assert found["AWS_DEFAULT_REGION"] == "us-east-1" and found["AWS_ENDPOINT_URL_LAMBDA"] == server.endpoint

    def test_survive_a_restart(self, server_factory):
        server = server_factory()
        before = server.credentials()
        server.stop()
        server.start()
        after = server.credentials()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert after[name] == before[name]


class TestNoAuth:
    def test_any_or_no_credentials_will_do(self, server_factory):
        server = server_factory(flags=["--no-auth"])
        raw = send(server.endpoint, "GET", LIST)
        assert raw.status == 200 and raw.json() == {"Functions": []}
        api = Api(server.endpoint, {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "thing"})
        name = api.create(zip_fixture("probe.py"))
        raw = send(server.endpoint, "POST", f"{LIST}/{name}/invocations", b'{"a": 1}')
        assert raw.status == 200 and raw.json() == {"a": 1}
        location = api.client.get_function(FunctionName=name)["Code"]["Location"]
        assert send(server.endpoint, "GET", location[len(server.endpoint) :]).body == zip_fixture("probe.py")

    def test_other_web_pages_are_refused(self, server_factory):
        """A browser on this machine sends what any page makes it send, also under a name that leads back here."""
        server = server_factory(flags=["--no-auth"])
        body = {"FunctionName": "planted", "Runtime": "python3.11", "Handler": "probe.echo", "Role": ROLE}
        body["Code"] = {"ZipFile": base64.b64encode(zip_fixture("probe.py")).decode()}
        for headers in FOREIGN:
            for method, path, text in (("POST", LIST, json.dumps(body).encode()), ("GET", LIST, b"")):
                refusal = refusal_of(send(server.endpoint, method, path, text, headers))
                assert (refusal.status, refusal.code) == (403, "AccessDeniedException"), (headers, refusal)
                assert refusal.message, headers
        own = f"127.0.0.1:{server.port}"
        for headers in ({"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
            raw = send(server.endpoint, "GET", LIST, b"", headers)
            assert raw.status == 200 and raw.json() == {"Functions": []}, (headers, raw)
        for host in (own, f"localhost:{server.port}", "[::1]", "127.9.9.9", "lambda.localhost:80"):
            raw = send(server.endpoint, "GET", LIST, b"", {"Host": host})
            assert raw.status == 200 and raw.json() == {"Functions": []}, (host, raw)

    @pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
    def test_is_refused_where_others_can_reach_it(self, server_factory, address):
        server = server_factory(start=False)
        answer = server.run(
            "serve", "--listen", f"{address}:{free_port()}", "--data-dir", server.data_dir, "--no-auth", timeout=20
        )
        assert answer.returncode not in (0, None)
        assert "--no-auth=public" in answer.stderr, answer.stderr

    def test_unless_it_is_spelled_out(self, server_factory):
        server: Server = server_factory(start=False)
        port = free_port()
        with subprocess.Popen(
            [
                *server.prefix(),
                server.program,
                "serve",
                "--listen",
                f"0.0.0.0:{port}",
                "--data-dir",
                server.data_dir,
                "--no-auth=public",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=server.environment(),
        ) as process:
            server.port = port
            try:
                from support.polling import wait_until

                wait_until(lambda: process.poll() is not None or server.healthy(), "ready", 20)
                assert process.poll() is None, process.stderr.read()
                assert json.loads(send(server.endpoint, "GET", LIST).body) == {"Functions": []}
            finally:
                process.terminate()
                assert process.wait(45) == 0
