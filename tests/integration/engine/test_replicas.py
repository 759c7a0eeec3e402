"""Two engine processes behind the router, one of which is killed under load."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from backend.engine.replicas import ReplicaLimits, Replicas
from inference.protocol import Generate, Sampling
from tests.fixtures_engine import make_model
from tests.support.engine import RunningEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

NUM_REQUESTS = 12
LONG = Sampling(max_tokens=400, temperature=0.0, ignore_eos=True)
SHORT = Sampling(max_tokens=2, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningEngine]]:
    """One pair for all tests; the last one kills an engine."""
    folder = tmp_path_factory.mktemp("replicas")
    model = make_model(folder / "model", "llama")
    options: dict[str, str | int] = {"dtype": "float32", "kv_budget_bytes": 8 * 1024 * 1024}
    sockets = [folder / name for name in ("a.sock", "b.sock")]
    engines = [RunningEngine(EngineProcess(path, model, num_threads=1, options=options)) for path in sockets]
    for engine in engines:
        engine.wait_until_ready()
    yield engines
    for engine in engines:
        engine.kill()


def replicas_of(processes: list[RunningEngine], limits: ReplicaLimits) -> Replicas:
    engines = {each.socket_path.stem: EngineClient(each.socket_path) for each in processes}
    return Replicas(engines, limits=limits)


async def answer(replicas: Replicas, number: int, sampling: Sampling, begun: asyncio.Semaphore) -> int:
    """Number of tokens; each payer's requests stay with one replica while it has room."""
    request = Generate(f"r{number}", prompt="x", sampling=sampling, payer=f"payer {number}")
    tokens = 0
    async for chunk in replicas.generate(request):
        if not tokens:
            begun.release()
        tokens = chunk.completion_tokens
    return tokens


def test_a_replica_that_hangs_is_given_up_and_serves_again_when_it_wakes(
    processes: list[RunningEngine],
) -> None:
    async def main() -> None:
        replicas = replicas_of(processes, ReplicaLimits(stall_seconds=1.0, probe_seconds=1.0))
        begun = asyncio.Semaphore(0)
        running = [asyncio.create_task(answer(replicas, n, LONG, begun)) for n in range(NUM_REQUESTS)]
        for _ in range(NUM_REQUESTS):
            await begun.acquire()
        os.kill(processes[0].process.pid, signal.SIGSTOP)
        found = await asyncio.gather(*running, return_exceptions=True)
        assert 0 < sum(isinstance(each, Unavailable) for each in found) < NUM_REQUESTS
        os.kill(processes[0].process.pid, signal.SIGCONT)
        for _ in range(600):
            if all(each.is_up for each in replicas._replicas):
                break
            await asyncio.sleep(0.1)
        assert await answer(replicas, NUM_REQUESTS, SHORT, begun) == 2
        await replicas.close()

    asyncio.run(main())


def test_a_killed_replica_costs_only_the_answers_that_it_had_begun(processes: list[RunningEngine]) -> None:
    async def main() -> None:
        replicas = replicas_of(processes, ReplicaLimits())
        begun = asyncio.Semaphore(0)
        running = [asyncio.create_task(answer(replicas, n, LONG, begun)) for n in range(NUM_REQUESTS)]
        for _ in range(NUM_REQUESTS):
            await begun.acquire()
        lost = next(each for each in replicas._replicas if each.name == "a").load
        processes[0].kill()
        later = [await answer(replicas, NUM_REQUESTS + n, SHORT, begun) for n in range(4)]
        found = await asyncio.gather(*running, return_exceptions=True)
        failed = [each for each in found if isinstance(each, Unavailable)]
        assert later == [2] * 4
        assert len(failed) == lost > 0
        assert [each for each in found if not isinstance(each, Unavailable)] == [400] * (NUM_REQUESTS - lost)
        await replicas.close()

    asyncio.run(main())
