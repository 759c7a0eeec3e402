"""What an operator sees at a glance: money at risk, deadlines, queues, and what to do about a fault."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from backend.domain.errors import Unavailable
from backend.domain.money import in_dollars
from backend.domain.transactions import TransactionState
from backend.ports.engine import MalformedMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from backend.db.unit_of_work import Database
    from backend.domain.figures import Figures
    from backend.domain.ids import Account
    from backend.ports.engine import Engine
    from backend.services.operator.membership import Membership, OperatorStatus

ENGINE_SECONDS = 5.0

# Limits of the alerts of deployments/monitoring, for what the database shows.
UNSETTLED_SECONDS = 90_000
TRANSACTION_SECONDS = 900
OUTBOX_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that is wrong, or will be, and what to do."""

    fault: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Overview:
    """`status`: read from the contracts; None while the chain's node does not answer. `engine`: sums of its
    metrics over all engines, by name; None while it does not answer, or where they cannot be read, which
    `engine_fault` tells. `at`: unix seconds.
    """

    figures: Figures
    status: OperatorStatus | None
    engine: Mapping[str, float] | None
    engine_fault: str | None
    at: int
    advice: tuple[Advice, ...]

    @property
    def exposure(self) -> int:
        """Micro-units that are charged and not final: a void batch or a lost voucher would cost them."""
        figures = self.figures
        return figures.unsettled_units + figures.float_units + figures.unrefunded_units


class Overviews:
    """`own`: the installation's operator."""

    def __init__(
        self,
        db: Database,
        membership: Membership,
        engines: Collection[Engine],
        own: Account,
        clock: Callable[[], datetime],
    ) -> None:
        self._db, self._membership, self._engines, self._clock = db, membership, engines, clock
        self.own = own

    async def read(self) -> Overview:
        now = self._clock()
        figures = await asyncio.to_thread(self._figures, now)
        status = await asyncio.to_thread(self._status)
        engine, engine_fault = await self._read_engine()
        at = int(now.timestamp())
        return Overview(figures, status, engine, engine_fault, at, tuple(advise(figures, status, at)))

    def _figures(self, now: datetime) -> Figures:
        with self._db.read() as tx:
            return tx.figures(self.own, now)

    def _status(self) -> OperatorStatus | None:
        try:
            return self._membership.status()
        except Unavailable:
            return None

    async def _read_engine(self) -> tuple[Mapping[str, float] | None, str | None]:
        """The sums over the engines that answer, and what is wrong with the metrics."""
        found = await asyncio.gather(*map(_metrics, self._engines))
        fault = next((error.message for error in found if isinstance(error, MalformedMetrics)), None)
        texts = [text for text in found if isinstance(text, str)]
        return (_sums(texts) if texts else None), fault


async def _metrics(engine: Engine) -> str | Unavailable:
    try:
        return await engine.metrics(ENGINE_SECONDS)
    except Unavailable as error:
        return error


def _sums(texts: Iterable[str]) -> Mapping[str, float]:
    """Sums over all labels, by name; without samples that are no finite number, which servers write for
    unknown.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for family in chain.from_iterable(map(text_string_to_metric_families, texts)):
        for sample in family.samples:
            if math.isfinite(sample.value):
                sums[sample.name] += sample.value
    return dict(sums)


def advise(figures: Figures, status: OperatorStatus | None, at: int) -> Iterator[Advice]:
    """The most urgent first. Parts that do not answer are the subject of `backend.installation.readiness`."""
    if figures.demand_deadline is not None:
        by = datetime.fromtimestamp(figures.demand_deadline, UTC)
        yield Advice(
            f"Demands on your batches are open: {figures.open_demands}. After {by:%-d %b %Y, %H:%M} UTC the "
            "batch is voided and your stake is slashed.",
            "Check that `loraledger watch` runs and that its account can pay for gas: it answers them.",
        )
    for obstacle in status.obstacles if status else ():
        yield Advice("The operator cannot settle.", f"{obstacle}.")
    if figures.receipts_to_sign:
        yield Advice(
            f"{figures.receipts_to_sign} unsettled receipts have the signature of a retired key only.",
            "Start `loraledger settle`: it signs them again with the key in use.",
        )
    if _age(figures.unsettled.oldest_at, at) > UNSETTLED_SECONDS:
        yield Advice(
            f"Receipts of {in_dollars(figures.unsettled_units)} wait for a batch for more than a day.",
            "Check `loraledger settle` and its log: a charge is lost if its voucher expires.",
        )
    # One that is mined waits for its confirmations.
    unmined = (figures.transactions.get(state) for state in (TransactionState.QUEUED, TransactionState.SENT))
    oldest = min((one.oldest_at for one in unmined if one and one.oldest_at), default=None)
    if _age(oldest, at) > TRANSACTION_SECONDS:
        yield Advice(
            "A transaction has been pending for more than 15 minutes.",
            "Check `loraledger send` and its log, and the coin left for gas.",
        )
    if _age(figures.outbox.oldest_at, at) > OUTBOX_SECONDS:
        yield Advice(
            "A message to the workers has waited for more than ten minutes.",
            "Check `loraledger relay`, `loraledger worker` and the broker.",
        )


def _age(since: float | None, at: int) -> float:
    return 0 if since is None else at - since
