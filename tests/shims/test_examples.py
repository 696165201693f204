"""The functions in `examples/functions`: the managed ones under their shims, the custom runtime against a small API."""

import http.server
import json
import os
import shutil
import subprocess
import threading

import pytest
from guest import RUNTIMES, WAIT_S, Guest
from interpreters import NODES, PYTHONS

EXAMPLES = RUNTIMES.parent / "examples/functions"


def _greets_twice(command, folder):
    with Guest(command, EXAMPLES / folder, "app.handler", {"GREETING": "Hi"}) as guest:
        guest.ready()
        assert guest.value({"name": "Ada"}) == {
            "message": "Hi, Ada!",
            "function": "f",
            "invocations_of_this_instance": 1,
        }
        assert guest.value()["invocations_of_this_instance"] == 2
        assert "greeting Ada\n" in guest.log()


def test_hello_python():
    command = [PYTHONS[max(PYTHONS)], "-B", str(RUNTIMES / "python/bootstrap.py")]
    _greets_twice(command, "hello-python")


def test_hello_nodejs():
    _greets_twice([NODES[max(NODES)], str(RUNTIMES / "nodejs/bootstrap.mjs")], "hello-nodejs")


class _RuntimeApi(http.server.BaseHTTPRequestHandler):
    """Offers two invocations, collects the answers, then refuses."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if not self.server.events:
            self.send_error(500)
            return
        body = json.dumps(self.server.events.pop(0)).encode()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "request-%d" % len(self.server.answers))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answers.append((self.path, json.loads(body)))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if not self.server.events:
            self.server.done.set()

    def log_message(self, *_):
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example needs curl")
def test_hello_bootstrap(tmp_path):
    api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _RuntimeApi)
    api.events, api.answers, api.done = [{"a": 'it\'s "quoted" $HOME `x`'}, [1]], [], threading.Event()
    threading.Thread(target=api.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:%d" % api.server_port,
        "GREETING": "Hi",
        "TMPDIR": str(tmp_path),
    }
    script = subprocess.Popen([EXAMPLES / "hello-bootstrap/bootstrap"], env=environment, stderr=subprocess.DEVNULL)
    try:
        assert api.done.wait(WAIT_S)
    finally:
        script.kill()
        script.wait()
        api.shutdown()
        api.server_close()
    path = "/2018-06-01/runtime/invocation/request-%d/response"
    assert api.answers == [
        (path % 0, {"message": "Hi!", "event": {"a": 'it\'s "quoted" $HOME `x`'}}),
        (path % 1, {"message": "Hi!", "event": [1]}),
    ]
