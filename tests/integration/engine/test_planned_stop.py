"""Under Compose and Kubernetes an engine gets SIGTERM together with its clients."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Overloaded
from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from backend.ports.engine import EngineUnavailable
from tests.fixtures_engine import greedy, make_model
from tests.support.engine import RunningEngine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from inference.protocol import Chunk

MAX_TOKENS = 400
"""Of an answer that outlives the signals, and ends within the time to drain on a busy machine."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(model: Path, tmp_path: Path) -> Iterator[RunningEngine]:
    options = {"dtype": "float32", "kernels": "portable"}
    running = RunningEngine(EngineProcess(tmp_path / "e.sock", model, num_threads=1, options=options))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.kill()


async def begin(client: EngineClient, request_id: str) -> AsyncGenerator[Chunk, None]:
    """The chunks of an answer after its first one."""
    chunks = client.generate(greedy(request_id, max_tokens=MAX_TOKENS))
    await anext(chunks)
    return chunks


async def read(chunks: AsyncGenerator[Chunk, None]) -> Chunk:
    """The last chunk."""
    return [chunk async for chunk in chunks][-1]


async def drain(engine: RunningEngine, client: EngineClient) -> None:
    """Send SIGTERM, and wait until the engine refuses requests."""
    engine.process.send_signal(signal.SIGTERM)
    refusal: Overloaded | None = None
    while refusal is None:
        try:
            await read(client.generate(greedy("refused", max_tokens=1)))
        except Overloaded as error:
            refusal = error
    assert "about to stop" in refusal.message


async def test_running_answers_end_before_the_engine_does_and_further_ones_are_refused(
    engine: RunningEngine,
) -> None:
    async with EngineClient(engine.socket_path) as client:
        chunks, aborted = await begin(client, "whole"), await begin(client, "aborted")
        await drain(engine, client)
        await client.abort("aborted")  # as an API process does that stops too
        assert (await read(aborted)).finish_reason == "abort"
        last = await read(chunks)
        assert (last.completion_tokens, last.finish_reason) == (MAX_TOKENS, "length")
        assert await asyncio.to_thread(engine.process.wait, 30) == 0, "idle clients do not keep it"
    assert not engine.socket_path.exists()


@pytest.mark.parametrize("cause", ["second signal", "end of standard input"])
async def test_a_second_signal_and_the_end_of_the_parent_end_it_at_once(
    cause: str, engine: RunningEngine
) -> None:
    async with EngineClient(engine.socket_path) as client:
        chunks = await begin(client, "cut")
        await drain(engine, client)
        if cause == "second signal":
            engine.process.send_signal(signal.SIGTERM)
        else:
            assert engine.process.stdin is not None
            engine.process.stdin.close()
        with pytest.raises(EngineUnavailable):
            await read(chunks)
        assert await asyncio.to_thread(engine.process.wait, 30) == 0
