"""Measures paid answers in receipts per second: reserved, charged, attributed, signed, and committed to disk.

Answers run through `services.answers.generate`, as in the API. Only the engine is fake: it answers from
memory.
"""

from __future__ import annotations

import asyncio
import gc
import time
from itertools import cycle
from typing import TYPE_CHECKING

from backend.app import freeze_heap
from backend.installation.installation import Installation
from backend.ports.engine import EngineState
from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer
from benchmarks.api import market
from benchmarks.api.databases import databases
from benchmarks.api.figures import Row, Timed
from inference.protocol import Chunk, Generate, Message, Sampling, TokenCount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from benchmarks.api.databases import Postgres, Sqlite
    from benchmarks.api.market import ApiPayer
    from inference.protocol import CountTokens

NUM_CLIENTS = 200
NUM_CONTRIBUTORS = 64
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 50
REQUEST = Generate(
    "",
    (Message("user", "What is a merkle-sum tree?"),),
    sampling=Sampling(max_tokens=COMPLETION_TOKENS),
)


class MemoryEngine:
    """Implements `backend.ports.engine.Engine` with immediate answers."""

    async def count_tokens(self, request: CountTokens) -> TokenCount:  # noqa: ARG002
        return TokenCount("", PROMPT_TOKENS, 4096)

    async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        yield Chunk(request.request_id, "An answer.", [], PROMPT_TOKENS, COMPLETION_TOKENS, "stop")

    async def abort(self, request_id: str) -> None:
        """Do nothing: answers are immediate."""

    async def state(self) -> EngineState:
        return EngineState()

    async def metrics(self, deadline_seconds: float) -> str:  # noqa: ARG002
        return ""


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:
    """Receipts per second on each database, with `NUM_CLIENTS` concurrent requests on the channels of all
    payers.
    """
    with databases() as found:
        return [_measure(folder / f"receipts{one.suffix}", one, seconds, repeats) for one in found]


def _measure(home: Path, database: Sqlite | Postgres, seconds: float, repeats: int) -> Row:
    market.create_home(home)
    installation = Installation(market.build_settings(home, **database.settings(home.name)))
    installation.engines.by_base = {installation.base_model.digest: MemoryEngine()}
    seeded = market.seed(installation, NUM_CONTRIBUTORS)
    thresholds = gc.get_threshold()
    try:
        timed = asyncio.run(_runs(installation, seeded, database, seconds, repeats))
        _check(installation, seeded.payers, sum(run.count for run in timed))
    finally:
        # Other parts run with Python's garbage collection, as the indexer does.
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        installation.close()
    method = (
        f"{NUM_CLIENTS} concurrent requests on {len(seeded.payers)} channels, each receipt with "
        f"{NUM_CONTRIBUTORS} shares; {database.method}; the engine answers from memory"
    )
    return Row.of(f"receipts_signed{database.suffix}_s", method, timed)


async def _runs(
    installation: Installation,
    seeded: market.SeededMarket,
    database: Sqlite | Postgres,
    seconds: float,
    repeats: int,
) -> list[Timed]:
    payers = cycle(seeded.payers)
    freeze_heap()  # as the API does when it starts
    await _run(installation, seeded.model, payers, database, min(seconds, 1.0))  # warm-up, not counted
    timed = [await _run(installation, seeded.model, payers, database, seconds) for _ in range(repeats)]
    await installation.generate.close()
    return timed


async def _run(
    installation: Installation,
    model: str,
    payers: Iterator[ApiPayer],
    database: Sqlite | Postgres,
    seconds: float,
) -> Timed:
    generate = installation.generate
    resolved = await generate.model(model)
    end = time.perf_counter() + seconds

    async def client() -> int:
        count = 0
        while time.perf_counter() < end:
            payer = next(payers)
            request = AnswerRequest(Payer(payer.account, payer.key_id), resolved, REQUEST, b"{}")
            answer = await generate.start(request)
            async for _ in answer.chunks():
                pass
            count += bool(answer.final.receipt)
        return count

    with Timed.measured(database.cpu_seconds) as timed:
        timed.count = sum(await asyncio.gather(*(client() for _ in range(NUM_CLIENTS))))
    return timed


def _check(installation: Installation, payers: Sequence[ApiPayer], min_count: int) -> None:
    """Check that each channel's receipts are contiguous up to its cumulative. Errors: AssertionError."""
    count = 0
    with installation.database.read() as tx:
        for payer in payers:
            end = 0
            for signed in tx.receipts.unsettled(payer.channel, 0, 10**9):
                count += 1
                if signed.receipt.cumulative - signed.receipt.charge != end:
                    raise AssertionError(f"{payer.channel}: a receipt does not start at {end}")
                end = signed.receipt.cumulative
            if tx.channels.charged([payer.channel]).get(payer.channel, 0) != end:
                raise AssertionError(f"{payer.channel}: the cumulative is not {end}")
    if count < min_count:
        raise AssertionError(f"{count} receipts of {min_count} answers are stored")
