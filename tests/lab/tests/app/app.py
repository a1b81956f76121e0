"""The service of the lab's own tests: says who answers, and whether it is healthy.

VERSION is said in every answer; UNHEALTHY=1 makes /health answer 503; STARTUP=<seconds> delays the first healthy one.
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STARTED = time.monotonic()


class Service(BaseHTTPRequestHandler):
    """Answers GET / and GET /health."""

    def do_GET(self):
        """/: host name and version as JSON; /health: 200 or 503."""
        young = time.monotonic() - STARTED < float(os.environ.get("STARTUP", "0"))
        status = 503 if self.path == "/health" and (os.environ.get("UNHEALTHY") == "1" or young) else 200
        body = json.dumps({"host": os.uname().nodename, "version": os.environ.get("VERSION", "1")}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """One line on standard output for each request."""
        print("answered", self.path, flush=True)


def main():
    """Serves on 8080 until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("serving", flush=True)
    ThreadingHTTPServer(("", 8080), Service).serve_forever()


if __name__ == "__main__":
    main()
