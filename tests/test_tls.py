"""TLS and HTTP/2 at the front door."""

import json
import os
import socket
import ssl
import struct
import subprocess
import tempfile
import urllib.request

import pytest
from botocore.exceptions import BotoCoreError, SSLError
from cryptography import x509

from support.certificates import Authority
from support.clients import Api, free_name
from support.packages import zip_fixture
from support.polling import wait_until

PATIENCE_S = 30


@pytest.fixture
def authority():
    """Its folder can be entered by all, as that of certificates which a daemon without privilege is to follow."""
    with tempfile.TemporaryDirectory(prefix="tidegate-tls-") as folder:
        os.chmod(folder, 0o755)
        yield Authority(folder)


@pytest.fixture
def encrypted(server_factory, authority):
    """Makes a server that speaks TLS."""

    def make(**settings):
        flags = ("--tls-cert", authority.cert, "--tls-key", authority.key)
        return server_factory(flags=flags, ca=authority.ca, **settings)

    return make


def context(authority, *protocols) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.ca)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def shaken(server, authority, *protocols) -> ssl.SSLSocket:
    """A connection after its handshake."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    return context(authority, *protocols).wrap_socket(plain, server_hostname="localhost")


def curl(url: str, *arguments, write: str = "%{http_version} %{http_code}") -> str:
    command = ["curl", "-sS", "-o", "/dev/null", "--max-time", "30", "-w", write, *arguments, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def is_closed(connection) -> None:
    """Asserts that the other side closes the connection, whatever it says before."""
    connection.settimeout(PATIENCE_S)
    try:
        while connection.recv(65_536):
            pass
    except (ConnectionResetError, ssl.SSLError):
        pass


class TestClients:
    def test_boto3_and_the_command(self, encrypted, authority, tmp_path):
        server = encrypted()
        api = Api(server.endpoint, server.credentials(), verify=authority.ca)
        assert server.endpoint.startswith("https://")
        name = api.create(zip_fixture("probe.py"))
        assert api.invoke(name, {"over": "TLS"}).ok() == {"over": "TLS"}
        location = api.client.get_function(FunctionName=name)["Code"]["Location"]
        assert location.startswith(f"{server.endpoint}/")
        with urllib.request.urlopen(location, context=context(authority), timeout=PATIENCE_S) as answer:
            assert answer.read() == zip_fixture("probe.py")

        def tidegate(*arguments):
            command = [server.program, "list", "--output", "json", "--endpoint-url", server.endpoint, *arguments]
            environment = {**server.environment(), **server.credentials(), "HOME": str(tmp_path)}
            return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)

        trusting = tidegate("--ca-bundle", authority.ca)
        assert trusting.returncode == 0 and name in trusting.stdout, trusting.stderr
        assert tidegate().returncode == 4, "without the authority's certificate the server is a stranger"
        nothing = tidegate("--ca-bundle", authority.key)
        assert nothing.returncode == 2 and "holds no certificates" in nothing.stderr

    def test_strangers_are_not_trusted_and_plain_http_is_not_spoken(self, encrypted, authority):
        server = encrypted()
        with pytest.raises(SSLError):
            Api(server.endpoint, server.credentials()).client.list_functions()
        with pytest.raises(BotoCoreError):
            Api(server.endpoint.replace("https", "http"), server.credentials()).client.list_functions()

    def test_versions_of_http(self, encrypted, authority, server):
        encrypted = encrypted()
        trust = ("--cacert", authority.ca)
        health = f"{encrypted.endpoint}/healthz"
        assert curl(health, "--http2", *trust) == "2 200"
        assert curl(health, "--http1.1", *trust) == "1.1 200"
        assert curl(health, "--http2-prior-knowledge", *trust) == "2 200"
        assert curl(f"{server.endpoint}/healthz", "--http2-prior-knowledge") == "2 200"
        assert curl(f"{server.endpoint}/healthz") == "1.1 200"
        with shaken(encrypted, authority, "http/1.1") as one:
            assert one.selected_alpn_protocol() == "http/1.1" and one.version() in ("TLSv1.2", "TLSv1.3")
            for _ in range(2):
                one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b" 200 OK" in one.recv(65_536), "the connection is kept"


class TestCertificates:
    def serial(self, server) -> int:
        pem = ssl.get_server_certificate(("127.0.0.1", server.port), timeout=PATIENCE_S)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    def test_a_renewed_one_is_taken_and_a_broken_one_is_not(self, encrypted, authority):
        server = encrypted()
        assert self.serial(server) == authority.serial
        with shaken(server, authority) as old:
            renewed = authority.renew()
            wait_until(lambda: self.serial(server) == renewed, "the new certificate is in use", PATIENCE_S, 0.1)
            old.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 OK" in old.recv(65_536), "connections outlive the certificate"
        with open(authority.cert, "w", encoding="ascii") as file:
            file.write("not a certificate")
        wait_until(lambda: "the earlier one stays" in server.log(), "the change is seen", PATIENCE_S, 0.1)
        assert self.serial(server) == renewed

    def test_what_cannot_be_used_is_said_at_the_start(self, server_factory, authority):
        def said(*flags, config=None) -> str:
            server = server_factory(flags=flags, config=config, start=False)
            server.port = 0
            ended = subprocess.run(
                server.command(), capture_output=True, text=True, timeout=60, env=server.environment(), check=False
            )
            assert ended.returncode != 0
            return ended.stderr

        assert "--tls-key" in said("--tls-cert", authority.cert)
        assert "holds no private key in PEM form" in said("--tls-cert", authority.cert, "--tls-key", authority.ca)
        assert "/none" in said("--tls-cert", "/none", "--tls-key", authority.key)
        assert "tls.key: is missing" in said(config={"tls": {"cert": authority.cert}})

    def test_by_the_configuration_file(self, server_factory, authority):
        config = {"tls": {"cert": authority.cert, "key": authority.key}}
        server = server_factory(config=config, ca=authority.ca)
        assert self.serial(server) == authority.serial


class TestBounds:
    """What bounds plain connections bounds these as well."""

    LIMITS = {"limits": {"header_read_ms": 700, "idle_connection_ms": 1_500}}

    def test_slow_clients(self, encrypted, authority):
        server = encrypted(config=self.LIMITS)
        with socket.create_connection(("127.0.0.1", server.port)) as silent:
            is_closed(silent)
        with socket.create_connection(("127.0.0.1", server.port)) as halfway:
            # The head of a ClientHello that never comes.
            halfway.sendall(bytes.fromhex("1603010200010001fc0303"))
            is_closed(halfway)
        with shaken(server, authority, "http/1.1") as no_head:
            no_head.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
            is_closed(no_head)
        with shaken(server, authority, "h2") as no_request:
            assert no_request.selected_alpn_protocol() == "h2"
            no_request.sendall(PREFACE + frame(SETTINGS, b""))
            is_closed(no_request)
        with shaken(server, authority, "http/1.1") as idle:
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 OK" in idle.recv(65_536)
            is_closed(idle)
        assert curl(f"{server.endpoint}/healthz", "--cacert", authority.ca) == "2 200"

    def test_streams_and_headers_of_http_2(self, encrypted, authority):
        server = encrypted()
        with shaken(server, authority, "h2") as one:
            one.sendall(PREFACE + frame(SETTINGS, b""))
            settings = first_settings(one)
        assert settings[MAX_CONCURRENT_STREAMS] == 256 and settings[MAX_HEADER_LIST_SIZE] == 32_768
        large = ("--cacert", authority.ca, "-H", f"x-large: {'x' * 40_000}")
        for version in ("--http2", "--http1.1"):
            assert curl(f"{server.endpoint}/healthz", version, *large, write="%{http_code}") == "431"

    def test_bodies(self, encrypted, authority):
        server = encrypted(config={"limits": {"request_payload_bytes": 1_000}})
        api = Api(server.endpoint, server.credentials(), verify=authority.ca)
        name = api.create(zip_fixture("probe.py"))
        refused = api.refused("invoke", FunctionName=name, Payload=json.dumps("x" * 1_000).encode())
        api.check(refused, 413, "RequestTooLargeException")
        assert api.refused("invoke", FunctionName=free_name(), Payload=b"1").status == 404


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = 4
MAX_CONCURRENT_STREAMS = 3
MAX_HEADER_LIST_SIZE = 6


def frame(kind: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 on stream 0."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload


def first_settings(connection) -> dict:
    """The settings that the server sends first."""
    read = b""
    while len(read) < 9 or len(read) < 9 + int.from_bytes(read[:3], "big"):
        more = connection.recv(65_536)
        assert more, "the server has closed the connection"
        read += more
    assert read[3] == SETTINGS
    payload = read[9 : 9 + int.from_bytes(read[:3], "big")]
    return dict(struct.iter_unpack(">HI", payload))
