"""HTTP servers on loopback: one that answers every request alike, and what others are made of."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE, JSON = "text/html; charset=utf-8", "application/json"


class QuietHandler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[str]:
    """Serve in a thread, and close the server at the end. Yields its URL."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def answering(status: int, kind: str, body: str, **headers: str) -> Iterator[str]:
    """A server that answers every request so; yields its URL."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            sent = {"content-type": kind, "content-length": str(len(body.encode())), **headers}
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_PATCH = do_POST

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url
