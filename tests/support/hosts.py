"""Hosts made for tests: listeners on this machine, and an "internet" in a network namespace of its own."""

import os
import socket
import subprocess
import sys
import uuid

from .packages import FIXTURES
from .polling import wait_until

INTERNET_ADDRESS = "198.51.100.2"
INTERNET_GATEWAY = "198.51.100.1"
PORT = 8080
# What its name server answers to every question.
RESOLVED = "203.0.113.7"

_PROGRAM = str(FIXTURES / "internet_host.py")


def own_addresses() -> list:
    """The IPv4 addresses of this machine, without loopback and without the near ends of instances' links."""
    answer = subprocess.run(["ip", "-4", "-o", "addr", "show"], capture_output=True, text=True, timeout=10, check=True)
    lines = [line.split() for line in answer.stdout.splitlines()]
    found = [words[3].split("/")[0] for words in lines if not words[1].startswith("tg")]
    return [address for address in found if not address.startswith("127.")]


class Listener:
    """A TCP listener on all addresses of this machine that counts who connects, and a UDP one that keeps what comes."""

    def __init__(self):
        self.tcp = socket.socket()
        self.tcp.bind(("0.0.0.0", 0))
        self.tcp.listen(50)
        self.port = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("0.0.0.0", self.port))
        self.tcp.setblocking(False)
        self.udp.setblocking(False)
        self.name = f"tidegate-test-{uuid.uuid4().hex}"
        self.abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.abstract.bind("\0" + self.name)
        self.abstract.listen(5)
        self.abstract.setblocking(False)

    def visitors(self) -> list:
        """Everything that has arrived so far."""
        found = []
        for one in (self.tcp, self.abstract):
            try:
                while True:
                    connection, address = one.accept()
                    connection.close()
                    found.append(f"connection from {address}")
            except BlockingIOError:
                pass
        try:
            while True:
                found.append(f"datagram from {self.udp.recvfrom(1000)}")
        except BlockingIOError:
            pass
        return found

    def close(self):
        """Closes all three."""
        for one in (self.tcp, self.udp, self.abstract):
            one.close()


class Internet:
    """A network namespace with the address 198.51.100.2 behind a veth pair, an HTTP server that answers the
    caller's address, and a name server.

    Bounded to this machine: the addresses are of a documentation range (RFC 5737) and routed nowhere else.
    """

    def __init__(self):
        tag = uuid.uuid4().hex[:6]
        self.namespace, self.link = f"tgtest{tag}", f"ti{tag}"
        self.process = None

    def __enter__(self):
        peer = self.link + "p"
        try:
            self._ip("netns", "add", self.namespace)
            self._ip("link", "add", self.link, "type", "veth", "peer", "name", peer)
            self._ip("link", "set", peer, "netns", self.namespace)
            self._ip("addr", "add", f"{INTERNET_GATEWAY}/24", "dev", self.link)
            self._ip("link", "set", self.link, "up")
            self._ip("-n", self.namespace, "addr", "add", f"{INTERNET_ADDRESS}/24", "dev", peer)
            self._ip("-n", self.namespace, "link", "set", peer, "up")
            self._ip("-n", self.namespace, "link", "set", "lo", "up")
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._program(INTERNET_ADDRESS, str(PORT), RESOLVED)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(self._answers, "the host behind the link answers", 20)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait(10)
        subprocess.run(["ip", "link", "del", self.link], capture_output=True, timeout=10, check=False)
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, timeout=10, check=False)

    @staticmethod
    def _ip(*arguments):
        subprocess.run(["ip", *arguments], capture_output=True, timeout=10, check=True)

    @staticmethod
    def _answers() -> bool:
        try:
            with socket.create_connection((INTERNET_ADDRESS, PORT), timeout=1):
                return True
        except OSError:
            return False

    def _program(self, *arguments) -> list:
        return ["ip", "netns", "exec", self.namespace, sys.executable, _PROGRAM, *arguments]

    def connects_to(self, address: str, port: int) -> bool:
        """Can the host behind the link open a TCP connection to an address by way of this machine?"""
        route = ["ip", "-n", self.namespace, "route", "replace", "default", "via", INTERNET_GATEWAY]
        subprocess.run(route, check=True, timeout=10)
        command = self._program("connect", address, str(port))
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return answer.stdout.strip() == "reached"

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{INTERNET_ADDRESS}:{PORT}/"


def has_memory_cgroup() -> bool:
    """Does this machine let root limit memory?"""
    return os.path.isdir("/sys/fs/cgroup/memory") or "memory" in _controllers()


def _controllers() -> str:
    try:
        with open("/sys/fs/cgroup/cgroup.controllers", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
