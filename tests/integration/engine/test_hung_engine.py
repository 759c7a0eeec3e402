"""An engine process that hangs exits by itself."""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from inference.protocol import Generate, Sampling
from inference.server.watchdog import EXIT_HUNG
from tests.fixtures_engine import make_model
from tests.support.hanging_engine import PLACES
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

STALL_SECONDS = 3.0
"""Longer than a busy machine delays an idle engine."""
EXIT_OF_TIMER = 1
MESSAGE = "the engine has not responded for 3 s"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("hung") / "model")


async def ask(socket: Path) -> None:
    async with EngineClient(socket) as client:
        async for _ in client.generate(Generate("r", prompt="x", sampling=Sampling(max_tokens=4))):
            pass


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[pytest.mark.deep] * (place == "step")) for place in PLACES]
)
def test_a_hung_engine_ends_itself_and_says_where(place: str, model: Path, tmp_path: Path) -> None:
    socket, log = tmp_path / "e.sock", tmp_path / "log"
    options: dict[str, str | float] = {"dtype": "float32", "kernels": "portable"}
    options |= {"stall_seconds": STALL_SECONDS, "kv_budget_bytes": 4 << 20}
    spec = EngineProcess(socket, model, options=options, module="tests.support.hanging_engine")
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            spec.arguments(),
            env=spec.environment() | {"HANG": place},
            stdin=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        try:
            assert wait_for(socket.exists, 60)
            time.sleep(STALL_SECONDS + 1)
            assert process.poll() is None, "an idle engine does not hang"
            with pytest.raises(Unavailable):
                asyncio.run(ask(socket))
            is_locked = place == "native code"  # the thread that writes the message waits for the lock
            assert process.wait(30) == (EXIT_OF_TIMER if is_locked else EXIT_HUNG)
        finally:
            process.kill()
    written = log.read_text()
    assert (MESSAGE in written) is not is_locked
    assert f"in {PLACES[place][2].__name__}" in written
