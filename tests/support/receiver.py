"""A receiver of webhooks on loopback, which answers as its script has it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

from tests.support.answering import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Receiver:
    url: str
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    """Of its answers."""
    may_answer: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers in lower case, and bodies."""

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.requests]


@contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            receiver.may_answer.wait(30)
            self.send_response(receiver.status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        receiver = Receiver(f"{url}/hook")
        receiver.may_answer.set()
        try:
            yield receiver
        finally:
            receiver.may_answer.set()
