"""Plays the daemon for one shim that runs as a plain process: no sandbox, the channel on its file descriptor 3."""

import json
import os
import select
import socket
import struct
import subprocess
import time
from pathlib import Path

RUNTIMES = Path(__file__).resolve().parents[2] / "runtimes"

INVOKE, READY, RESPONSE, ERROR, INIT_ERROR = 1, 2, 3, 4, 5
RESPONSE_BYTES_MAX = 6_291_556
ARN = "arn:aws:lambda:us-east-1:000000000000:function:f:live"
REQUEST_ID = "11111111-2222-3333-4444-555555555555"

WAIT_S = 20
FUNCTION_ENVIRONMENT = {
    "AWS_LAMBDA_FUNCTION_NAME": "f",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef",
    "LANG": "en_US.UTF-8",
    "PATH": "/usr/bin:/bin",
    "TZ": ":UTC",
}


def _reserve_channel_fd():
    """`subprocess` must not use descriptor 3 for itself: the child needs it for the channel."""
    try:
        os.fstat(3)
    except OSError:
        null = os.open(os.devnull, os.O_RDONLY)
        if null != 3:
            os.dup2(null, 3)
            os.close(null)


class Guest:
    """A running shim. Use as a context manager: the process is gone afterwards."""

    def __init__(self, command, task_root, handler, environment=None):
        _reserve_channel_fd()
        self._socket, guest_end = socket.socketpair()
        self._socket.settimeout(WAIT_S)
        self._log_fd, log_write_fd = os.pipe()
        os.set_blocking(self._log_fd, False)
        guest_fd = guest_end.fileno()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_write_fd,
            stderr=log_write_fd,
            cwd=task_root,
            env={
                **FUNCTION_ENVIRONMENT,
                "LAMBDA_TASK_ROOT": str(task_root),
                "_HANDLER": handler,
                **(environment or {}),
            },
            pass_fds=(3,),
            preexec_fn=lambda: os.dup2(guest_fd, 3),
        )
        guest_end.close()
        os.close(log_write_fd)
        self._log = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._socket.close()
        os.close(self._log_fd)

    def send_bytes(self, octets):
        self._socket.sendall(octets)

    def send(self, kind, header, body):
        header = json.dumps(header).encode()
        self.send_bytes(struct.pack("<IBI", 5 + len(header) + len(body), kind, len(header)) + header + body)

    def receive(self):
        """The next frame as `(kind, header, body)`, or None at the end of the channel."""
        start = self._read(4)
        if not start:
            return None
        frame = self._read(*struct.unpack("<I", start))
        kind, header_bytes = struct.unpack_from("<BI", frame)
        return kind, json.loads(frame[5 : 5 + header_bytes]), frame[5 + header_bytes :]

    def _read(self, count):
        octets = bytearray()
        while len(octets) < count:
            self._wait_for_channel()
            try:
                more = self._socket.recv(count - len(octets))
            except ConnectionResetError:
                more = b""
            if not more:
                assert not octets, "the channel ended inside a frame"
                return b""
            octets += more
        return bytes(octets)

    def _wait_for_channel(self):
        """Waits until the channel has something, and keeps the log pipe from filling up meanwhile."""
        end = time.monotonic() + WAIT_S
        while (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select([self._socket, self._log_fd], [], [], left)
            if self._socket in readable:
                return
            self._drain()
        raise TimeoutError("no answer from the guest")

    def ready(self):
        frame = self.receive()
        assert frame == (READY, {}, b""), (frame, self.log())
        return self

    def invoke(self, event=None, request_id=REQUEST_ID, **header):
        """One invocation: its answer's frame with the body parsed, or None if the guest went away."""
        self.start_invocation(json.dumps({} if event is None else event).encode(), request_id, **header)
        return self.answer()

    def start_invocation(self, body, request_id=REQUEST_ID, **header):
        fields = {
            "id": request_id,
            "deadline_ms": int(time.time() * 1000) + 3000,
            "arn": ARN,
            "trace_id": "Root=1-5759e988-bd862e3fe1be46a994272793",
            "client_context": None,
            "cognito": None,
        }
        self.send(INVOKE, {**fields, **header}, body)

    def answer(self):
        frame = self.receive()
        if frame is None:
            return None
        kind, header, body = frame
        return kind, header, json.loads(body)

    def value(self, event=None, **header):
        """The handler's result; fails the test on any other answer."""
        answer = self.invoke(event, **header)
        assert answer is not None and answer[0] == RESPONSE, (answer, self.log())
        assert answer[1] == {"id": header.get("request_id", REQUEST_ID)}
        return answer[2]

    def error(self, event=None, exiting=False, **header):
        """The error object of a failed invocation, after a check of the header: `exiting` says that the guest ends."""
        kind, fields, body = self.invoke(event, **header)
        assert kind == ERROR, (kind, body)
        expected = {"id": header.get("request_id", REQUEST_ID), "type": body["errorType"]}
        assert fields == (expected | {"exiting": True} if exiting else expected)
        return body

    def init_error(self):
        kind, fields, body = self.answer()
        assert kind == INIT_ERROR, (kind, body)
        assert fields == {"type": body["errorType"]}
        assert self.receive() is None
        assert self.exit_status() == 1
        return body

    def log(self):
        """What the log holds now, as the daemon reads it after an answer: without waiting."""
        self._drain()
        log, self._log = self._log.decode(), b""
        return log

    def _drain(self):
        try:
            while chunk := os.read(self._log_fd, 65536):
                self._log += chunk
        except BlockingIOError:
            pass

    def close(self):
        """Closes the daemon's end; the guest must exit with status 0."""
        self._socket.shutdown(socket.SHUT_RDWR)
        return self.exit_status()

    def exit_status(self):
        return self.process.wait(WAIT_S)
