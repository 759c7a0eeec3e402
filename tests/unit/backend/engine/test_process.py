from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from inference.protocol import Message, Sampling
from tests.support.engine import RunningEngine

if TYPE_CHECKING:
    from pathlib import Path

HELLO = (Message("user", "hello"),)


async def test_a_crash_costs_the_request_in_flight_a_retryable_error_and_nothing_else(
    tiny_process: EngineProcess, tmp_path: Path
) -> None:
    spec = dataclasses.replace(tiny_process, socket_path=tmp_path / "e.sock")
    first = RunningEngine(spec)
    first.wait_until_ready()
    async with EngineClient(spec.socket_path) as client:
        long = Sampling(max_tokens=450, temperature=0.0, ignore_eos=True)
        stream = client.generate(messages=HELLO, sampling=long)
        await anext(stream)
        first.kill()
        with pytest.raises(Unavailable, match="ended while it worked"):
            async for _ in stream:
                pass
        second = RunningEngine(spec)
        second.wait_until_ready()
        assert (await client.count_tokens(HELLO)).num_tokens == 8
    second.end()


def test_options_become_arguments(tmp_path: Path) -> None:
    spec = EngineProcess(tmp_path / "s", num_threads=3, options={"max_rank": 16})
    arguments = spec.arguments()
    assert arguments[arguments.index("--max-rank") + 1] == "16"
    assert "--model" not in arguments
    assert spec.environment()["OMP_NUM_THREADS"] == "3"
