from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.engine.client import EngineClient
from backend.engine.supervisor import EngineProcess, EngineSupervisor
from inference.protocol import Message, Sampling

if TYPE_CHECKING:
    from pathlib import Path

HELLO = (Message("user", "hello"),)


async def test_a_crash_costs_the_request_in_flight_a_retryable_error_and_nothing_else(
    tiny_process: EngineProcess, tmp_path: Path
) -> None:
    spec = dataclasses.replace(tiny_process, socket_path=tmp_path / "e.sock", log_path=tmp_path / "log")
    async with EngineSupervisor(spec, first_pause_seconds=0.01) as supervisor:
        await supervisor.wait_ready()
        client, first_pid = EngineClient(spec.socket_path), supervisor.pid
        long = Sampling(max_tokens=450, temperature=0.0, ignore_eos=True)
        stream = client.generate(messages=HELLO, sampling=long)
        await anext(stream)
        os.kill(first_pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="ended while it worked"):
            async for _ in stream:
                pass
        assert await retried(client) == 8
        assert supervisor.num_restarts == 1
        assert supervisor.pid != first_pid
        await client.close()
        last_pid = supervisor.pid
    assert not is_running(last_pid)


async def test_an_engine_that_cannot_start_is_reported_with_its_log(
    tiny_process: EngineProcess, tmp_path: Path
) -> None:
    spec = dataclasses.replace(
        tiny_process, socket_path=tmp_path / "e.sock", model=tmp_path, log_path=tmp_path / "log"
    )
    async with EngineSupervisor(spec, first_pause_seconds=60) as supervisor:
        with pytest.raises(Unavailable, match="not ready") as failure:
            await supervisor.wait_ready(timeout_seconds=0.05)
    assert failure.value.details["log"] == str(spec.log_path)


def test_options_become_arguments(tmp_path: Path) -> None:
    spec = EngineProcess(tmp_path / "s", num_threads=3, options={"max_rank": 16})
    arguments = spec.arguments()
    assert arguments[arguments.index("--max-rank") + 1] == "16"
    assert "--model" not in arguments
    assert spec.environment()["OMP_NUM_THREADS"] == "3"


async def retried(client: EngineClient) -> int:
    """Do as the error says: try again shortly."""
    async with asyncio.timeout(120):
        while True:
            try:
                return (await client.count_tokens(HELLO)).num_tokens
            except Unavailable:
                await asyncio.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
