"""Answers that the sandbox is there: it has no agent of its own, people work in it."""

import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import environ

ALIVE = b'{"status": "ok"}'
PATHS = ("/health", "/ready")


class Alive(BaseHTTPRequestHandler):
    """Two paths, and nothing of who asked."""

    timeout = 10

    def do_GET(self):
        """Answers a GET."""
        found = self.path in PATHS
        body = ALIVE if found else b'{"error": {"message": "this image serves /health and /ready alone"}}'
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """A probe every few seconds is no news."""


def main():
    """Serves until it is asked to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("0.0.0.0", int(environ.get("PORT", "49900"))), Alive).serve_forever()


if __name__ == "__main__":
    main()
