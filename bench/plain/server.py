"""The comparator of warm invocations: the same handler behind a plain HTTP server, without any platform.

Usage: server.py FOLDER_OF_THE_HANDLER; prints the port it listens on.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.path.insert(0, sys.argv[1])
import app  # noqa: E402  (the folder is known only now)


class Plain(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Answers are tiny: without this, each one waits for the acknowledgement of the one before.
    disable_nagle_algorithm = True
    # Headers and body leave in one write.
    wbufsize = -1

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(app.handler(event, None)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Plain)
print(server.server_address[1], flush=True)
server.serve_forever()
