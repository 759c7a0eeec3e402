"""What `GET /metrics` answers: what the processes counted, what the engine says, and where things stand."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
from prometheus_client.registry import Collector

import backend.metrics  # noqa: F401 - so that every name is there before anything was counted
from backend.chain.keys import write_once
from backend.domain.errors import DomainError
from backend.installation.installation import utc_now
from telemetry.metrics import shared_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

    from backend.domain.figures import Figures
    from backend.installation.installation import Installation
    from backend.settings import Settings

log = logging.getLogger(__name__)

TOKEN_PREFIX = "llm_"  # noqa: S105 - by which a leaked one is recognised
ENGINE_SECONDS = 5.0
"""It answers between two steps; a scrape has ten seconds by default."""

STATE: Mapping[str, tuple[str, Callable[[Figures], float | None]]] = {
    "loraledger_unsettled_receipts": ("Receipts that are in no batch yet.", lambda f: f.unsettled.count),
    "loraledger_unsettled_units": (
        "What they charge, in micro-units: answered for, and not collected.",
        lambda f: f.unsettled_units,
    ),
    "loraledger_oldest_unsettled_timestamp_seconds": (
        "When the oldest of them was served.",
        lambda f: f.unsettled.oldest_at,
    ),
    "loraledger_reserved_units": ("Micro-units kept for answers that run.", lambda f: f.reserved_units),
    "loraledger_open_batches": ("Batches that are committed and not final.", lambda f: f.open_batches),
    "loraledger_float_units": (
        "Micro-units that they collected: nobody can claim them before they are final.",
        lambda f: f.float_units,
    ),
    "loraledger_newest_batch_timestamp_seconds": (
        "When the newest of them was committed.",
        lambda f: f.newest_batch_at,
    ),
    "loraledger_next_final_timestamp_seconds": (
        "When the first of their dispute windows ends.",
        lambda f: f.next_final_at,
    ),
    "loraledger_open_demands": ("Demands on our batches that wait for an answer.", lambda f: f.open_demands),
    "loraledger_demand_deadline_timestamp_seconds": (
        "When the most urgent of them voids its batch and slashes the stake.",
        lambda f: f.demand_deadline,
    ),
    "loraledger_stake_units": ("The operator's stake, in micro-units.", lambda f: f.stake_units),
    "loraledger_outbox_messages": ("Messages that wait for the relay.", lambda f: f.outbox.count),
    "loraledger_outbox_oldest_timestamp_seconds": (
        "Since when the oldest of them does.",
        lambda f: f.outbox.oldest_at,
    ),
    "loraledger_indexed_block": ("The last block that was taken in.", lambda f: f.indexed_block),
    "loraledger_indexed_block_timestamp_seconds": ("Its own instant.", lambda f: f.indexed_at),
}
"""Instants are left out while there is nothing that they could be of."""


async def exposition(installation: Installation) -> bytes:
    """In Prometheus' text format. A part that does not answer is `loraledger_up` 0, and its figures are
    missing: old ones would hide that.
    """
    figures = await asyncio.to_thread(_figures, installation)
    engine = await _engine(installation)
    registry = CollectorRegistry()
    registry.register(Now(figures, {"database": figures is not None, "engine": engine is not None}))
    counted = generate_latest(shared_registry())
    return b"".join((counted, generate_latest(registry), (engine or "").encode()))


class Now(Collector):
    """What was read for this scrape. Families and no `Gauge`s, whose values all processes would keep, and
    show again beside those of the next scrape.
    """

    def __init__(self, figures: Figures | None, up: Mapping[str, bool]) -> None:
        self._figures, self._up = figures, up

    def collect(self) -> Iterator[Metric]:
        yield _family("loraledger_up", "Whether a part answers.", "part", self._up)
        if self._figures is not None:
            yield from _families(self._figures)


def metrics_token(settings: Settings) -> str:
    """What a scraper shows. The first process that needs one makes it, unless a setting names its file."""
    if settings.metrics_token_file is not None:
        return settings.metrics_token_file.read_text().strip()
    path = settings.home / "metrics-token"
    if not path.exists():
        with suppress(FileExistsError):  # another process was faster
            write_once(path, f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}")
    return path.read_text().strip()


def _figures(installation: Installation) -> Figures | None:
    try:
        with installation.database.read() as tx:
            return tx.figures(installation.operator.account, utc_now())
    except DomainError as error:
        log.warning("no figures of the database: %s", error)
        return None


async def _engine(installation: Installation) -> str | None:
    try:
        return await installation.engine.metrics(ENGINE_SECONDS)
    except DomainError as error:
        log.warning("no figures of the engine: %s", error)
        return None


def _families(figures: Figures) -> Iterator[Metric]:
    for name, (text, read) in STATE.items():
        if (value := read(figures)) is not None:
            yield GaugeMetricFamily(name, text, value)
    yield _family(
        "loraledger_pending_transactions",
        "Transactions of ours that are not over, by state.",
        "state",
        {state: pending.count for state, pending in figures.transactions.items()},
    )
    yield _family(
        "loraledger_pending_transaction_oldest_timestamp_seconds",
        "Since when the oldest of a state is queued.",
        "state",
        {state: pending.oldest_at for state, pending in figures.transactions.items()},
    )
    yield _family("loraledger_training_jobs", "Fine-tuning jobs, by state.", "state", figures.jobs)


def _family(name: str, text: str, label: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    """What there is no value of is left out."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for label_value, value in values.items():
        if value is not None:
            family.add_metric([label_value], value)
    return family
