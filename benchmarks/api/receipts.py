"""How many answers a second become receipts: reserved, charged, attributed, signed, and on disk.

Through `services.generate` as the API calls it; only the engine answers from memory, in one piece.
"""

from __future__ import annotations

import asyncio
import gc
import time
from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING

from backend.app import keep
from backend.installation.installation import Installation
from backend.services.answers.generate import AnswerRequest
from backend.services.channels.admission import Payer
from benchmarks.api import market
from benchmarks.api.figures import Row, Timed
from inference.protocol import Chunk, Generate, Message, Sampling, TokenCount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from backend.domain.ids import Hash32
    from backend.ports.engine import Engine
    from benchmarks.api.market import Paying

NUM_CLIENTS = 200
NUM_CONTRIBUTORS = 64
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 50
REQUEST = Generate(
    "",
    (Message("user", "What is a merkle-sum tree?"),),
    sampling=Sampling(max_tokens=COMPLETION_TOKENS),
)


class MemoryEngine:
    """Implements `backend.ports.engine.Engine`; every answer is there at once."""

    async def count_tokens(
        self,
        messages: Sequence[Message] = (),  # noqa: ARG002
        prompt: str | None = None,  # noqa: ARG002
    ) -> TokenCount:
        return TokenCount("", PROMPT_TOKENS, 4096)

    async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        yield Chunk(request.request_id, "An answer.", [], PROMPT_TOKENS, COMPLETION_TOKENS, "stop")

    async def abort(self, request_id: str) -> None:
        """Nothing runs on."""

    async def active_adapters(self) -> Sequence[Hash32]:
        return ()

    async def metrics(self, deadline_seconds: float) -> str:  # noqa: ARG002
        return ""


class Answering(Installation):
    @cached_property
    def engine(self) -> Engine:
        return MemoryEngine()


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:
    """Receipts a second, with `NUM_CLIENTS` requests under way on the channels of all payers."""
    market.found(folder / "home")
    installation = Answering(market.settings(folder / "home"))
    furnished = market.furnish(installation, NUM_CONTRIBUTORS)
    try:
        timed = asyncio.run(_runs(installation, furnished, seconds, repeats))
        _check(installation, furnished.payers, sum(run.count for run in timed))
    finally:
        gc.unfreeze()
        installation.close()
    method = (
        f"{NUM_CLIENTS} requests at a time on {len(furnished.payers)} channels, each receipt with "
        f"{NUM_CONTRIBUTORS} shares; SQLite on disk (synchronous=FULL); the engine answers from memory"
    )
    return [Row.of("receipts_signed_s", method, timed)]


async def _runs(
    installation: Installation, furnished: market.Furnished, seconds: float, repeats: int
) -> list[Timed]:
    asks = cycle(furnished.payers)
    keep()  # as the API does when it starts
    await _run(installation, furnished.model, asks, min(seconds, 1.0))  # warm; does not count
    timed = [await _run(installation, furnished.model, asks, seconds) for _ in range(repeats)]
    await installation.generate.close()
    return timed


async def _run(installation: Installation, model: str, asks: Iterator[Paying], seconds: float) -> Timed:
    generate = installation.generate
    resolved = await generate.model(model)
    end = time.perf_counter() + seconds

    async def client() -> int:
        count = 0
        while time.perf_counter() < end:
            paying = next(asks)
            payer = Payer(paying.account, paying.key_id)
            request = AnswerRequest(payer, resolved, REQUEST, b"{}")
            answer = await generate.start(request)
            async for _ in answer.chunks():
                pass
            count += bool(answer.final.receipt)
        return count

    with Timed.measured() as timed:
        timed.count = sum(await asyncio.gather(*(client() for _ in range(NUM_CLIENTS))))
    return timed


def _check(installation: Installation, payers: Sequence[Paying], least: int) -> None:
    """Every line is covered by its receipts, end to end. Errors: AssertionError."""
    count = 0
    with installation.database.read() as tx:
        for paying in payers:
            end = 0
            for signed in tx.receipts.unsettled(paying.channel, 0, 10**9):
                count += 1
                if signed.receipt.cumulative - signed.receipt.charge != end:
                    raise AssertionError(f"{paying.channel}: a receipt does not begin at {end}")
                end = signed.receipt.cumulative
            if tx.channels.charged([paying.channel]).get(paying.channel, 0) != end:
                raise AssertionError(f"{paying.channel}: the line does not end at {end}")
    if count < least:
        raise AssertionError(f"{count} receipts of {least} answers are stored")
