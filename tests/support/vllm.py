"""A vLLM server's double on loopback, which repeats recorded answers.

`vllm_answers.json` was recorded from vLLM 0.32.0 on a tiny random model: models, a tokenised chat, streams of
completions, and refusals.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.protocol import Chunk, Generate, Message
from tests.support.answering import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.ports.engine import Engine

RECORDED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("vllm_answers.json").read_text())
_NAMES = {"/v1/models": "models", "/tokenize": "tokenize", "/metrics": "metrics"}


async def chunks_of(engine: Engine, **fields: Any) -> list[Chunk]:
    request = Generate(**{"request_id": "r", "messages": (Message("user", "hello"),), **fields})
    return [chunk async for chunk in engine.generate(request)]


def recorded_events(name: str) -> list[dict[str, Any]]:
    lines = RECORDED[name]["body"].split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


@dataclass
class FakeVllm:
    url: str
    completion: str = "greedy"
    """Name of the recorded answer to the next completions."""
    first_events: int | None = None
    """Events after which a stream waits until `may_end`, or its client hangs up."""
    may_end: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Path and body."""

    def body_of(self, path: str) -> dict[str, Any]:
        """Body of the latest request to this path."""
        return next(body for each, body in reversed(self.requests) if each == path)


class _Handler(QuietHandler):
    server: _Server

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answer(self, body: dict[str, Any]) -> None:
        fake = self.server.fake
        fake.requests.append((self.path, body))
        recorded = RECORDED[_NAMES.get(self.path, fake.completion)]
        self.send_response(recorded["status"])
        self.send_header("content-type", "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        events = recorded["body"].encode().split(b"\n\n")
        for number, event in enumerate(events):
            if number == fake.first_events and self.path == "/v1/completions":
                self._wait()
            self.wfile.write(event + b"\n\n" * (number < len(events) - 1))
            self.wfile.flush()

    def _wait(self) -> None:
        self.connection.settimeout(0.02)
        while not self.server.fake.may_end.is_set():
            try:
                if not self.connection.recv(1):
                    self.server.fake.hung_up.set()
                    break
            except TimeoutError:
                pass
        self.connection.settimeout(None)


class _Server(ThreadingHTTPServer):
    fake: FakeVllm

    def handle_error(self, *_: Any) -> None:
        """Clients hang up."""


@contextmanager
def fake_vllm() -> Iterator[FakeVllm]:
    server = _Server(("127.0.0.1", 0), _Handler)
    with running(server) as url:
        fake = server.fake = FakeVllm(url)
        try:
            yield fake
        finally:
            fake.may_end.set()
