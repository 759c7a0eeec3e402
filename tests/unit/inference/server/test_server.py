"""The end of an engine's server, with an engine that only answers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from inference.protocol import GetMetrics
from inference.server import server, session
from inference.server.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUM_BYTES = 4_000_000
"""Of an answer: more than a socket holds."""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    engine_thread: Any = SimpleNamespace(
        engine=SimpleNamespace(vocabulary=SimpleNamespace(warm_up=lambda: None), status=lambda: None),
        metrics=SimpleNamespace(render=lambda _: "x" * NUM_BYTES),
        post=lambda job: job(engine_thread.engine),
        start=lambda **_: None,
        stop=lambda: None,
        is_draining=False,
    )
    monkeypatch.setattr(server, "EngineThread", lambda _: engine_thread)
    return tmp_path / "e.sock"


async def serve(path: Path, read: Callable[[socket.socket], object]) -> threading.Thread:
    """Answer one client, in its thread, and stop. From then on the client runs `read`."""
    it = server.EngineServer(None)  # type: ignore[arg-type]
    loop, serving = asyncio.get_running_loop(), asyncio.create_task(it.serve(path))

    def ask() -> None:
        while not path.exists():
            time.sleep(0.01)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(path))
            client.sendall(encode_frame(GetMetrics("m")))
            client.recv(1)
            loop.call_soon_threadsafe(it.stop)
            read(client)

    thread = threading.Thread(target=ask)
    thread.start()
    await serving
    return thread


def test_the_last_frames_reach_a_slow_client_before_the_process_ends(path: Path) -> None:
    sizes: list[int] = []

    def read_late(client: socket.socket) -> None:
        time.sleep(0.2)
        while chunk := client.recv(1 << 16):
            sizes.append(len(chunk))

    asyncio.run(serve(path, read_late)).join()
    assert sum(sizes) > NUM_BYTES


def test_a_client_that_does_not_read_keeps_no_engine_from_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FLUSH_SECONDS", 0.1)
    ended = threading.Event()
    waited: list[bool] = []
    thread = asyncio.run(serve(path, lambda _: waited.append(ended.wait(20))))
    ended.set()
    thread.join()
    assert waited == [True]
