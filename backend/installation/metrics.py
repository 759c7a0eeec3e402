"""Renders `GET /metrics`: metrics of the processes and of the engine, and gauges read from the database."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
from prometheus_client.registry import Collector

import backend.metrics  # noqa: F401 - registers every metric, so that those at zero are rendered too
from backend.disk.files import read_or_create
from backend.domain.errors import DomainError
from backend.engine.metric_texts import merge
from backend.installation.resources import utc_now
from telemetry.metrics import shared_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

    from backend.db.unit_of_work import Database
    from backend.domain.figures import Figures
    from backend.domain.ids import Account
    from backend.ports.engine import Engine
    from backend.settings import Settings

log = logging.getLogger(__name__)

TOKEN_PREFIX = "llm_"  # noqa: S105 - a prefix by which scanners recognise leaked tokens
ENGINE_SECONDS = 5.0
"""The engine answers between two steps; Prometheus' default timeout of a scrape is ten seconds."""

STATE: Mapping[str, tuple[str, Callable[[Figures], float | None]]] = {
    "loraledger_unsettled_receipts": ("Receipts in no batch yet.", lambda f: f.unsettled.count),
    "loraledger_unsettled_units": (
        "Micro-units charged by receipts in no batch yet.",
        lambda f: f.unsettled_units,
    ),
    "loraledger_unfunded_units": (
        "Micro-units charged by receipts in no batch that their channels' balances do not cover.",
        lambda f: f.unfunded_units,
    ),
    "loraledger_unsigned_receipts": (
        "Charges whose receipts are not signed yet.",
        lambda f: f.unsigned.count,
    ),
    "loraledger_oldest_unsigned_timestamp_seconds": (
        "Time of the oldest charge whose receipt is not signed yet.",
        lambda f: f.unsigned.oldest_at,
    ),
    "loraledger_receipts_to_sign": (
        "Receipts in no batch yet that only retired receipt keys signed.",
        lambda f: f.receipts_to_sign,
    ),
    "loraledger_oldest_unsettled_timestamp_seconds": (
        "Time of the oldest receipt in no batch yet.",
        lambda f: f.unsettled.oldest_at,
    ),
    "loraledger_reserved_units": ("Micro-units reserved for running answers.", lambda f: f.reserved_units),
    "loraledger_open_batches": ("Committed batches that are not final.", lambda f: f.open_batches),
    "loraledger_float_units": (
        "Micro-units collected by batches that are not final, and cannot be claimed yet.",
        lambda f: f.float_units,
    ),
    "loraledger_unrefunded_units": (
        "Micro-units in voided batches that are not refunded yet, and cannot be collected again before.",
        lambda f: f.unrefunded_units,
    ),
    "loraledger_newest_batch_timestamp_seconds": (
        "Commit time of the newest batch that is not final.",
        lambda f: f.newest_batch_at,
    ),
    "loraledger_next_final_timestamp_seconds": (
        "End of the earliest open dispute window.",
        lambda f: f.next_final_at,
    ),
    "loraledger_open_demands": (
        "Demanded leaves of this operator's batches without an answer.",
        lambda f: f.open_demands,
    ),
    "loraledger_demand_deadline_timestamp_seconds": (
        "Earliest deadline of these demands; then the batch is voided and the stake slashed.",
        lambda f: f.demand_deadline,
    ),
    "loraledger_stake_units": ("The operator's stake, in micro-units.", lambda f: f.stake_units),
    "loraledger_live_agreement": (
        "Mean rank correlation of default attribution and gradient over the measured sample of answers.",
        lambda f: f.live_agreement.mean,
    ),
    "loraledger_live_agreement_answers": (
        "Sampled answers whose agreement with the gradient was measured.",
        lambda f: f.live_agreement.num_measured,
    ),
    "loraledger_live_agreement_missing_answers": (
        "Sampled answers whose agreement with the gradient was not measured, or not yet.",
        lambda f: f.live_agreement.num_missing,
    ),
    "loraledger_relayed_wei": (
        "Most that the transactions relayed for other accounts in the last 24 hours can cost.",
        lambda f: f.relayed_wei,
    ),
    "loraledger_outbox_messages": ("Messages pending in the outbox.", lambda f: f.outbox.count),
    "loraledger_outbox_oldest_timestamp_seconds": (
        "Time of the oldest pending message in the outbox.",
        lambda f: f.outbox.oldest_at,
    ),
    "loraledger_indexed_block": ("Last indexed block.", lambda f: f.indexed_block),
    "loraledger_indexed_block_timestamp_seconds": (
        "Timestamp of the last indexed block.",
        lambda f: f.indexed_at,
    ),
}
"""Help text and value of each gauge. A gauge without a value, such as a time of nothing, is left out."""


class MetricsPage:
    """Renders all metrics in Prometheus' text format."""

    def __init__(self, db: Database, engines: Mapping[str, Engine], operator: Account) -> None:
        """`engines`: by the names of their base models. If there are several, their metrics have the label
        `base`.
        """
        self._db, self._engines, self._operator = db, engines, operator

    async def render(self) -> bytes:
        """A part that does not respond has `loraledger_up` 0, and its metrics are left out, because stale
        values would hide the fault.
        """
        figures = await asyncio.to_thread(self._read_figures)
        found = await asyncio.gather(*map(_read_engine, self._engines.values()))
        texts = {name: text for name, text in zip(self._engines, found, strict=True) if text is not None}
        up = {"database": figures is not None, "engine": len(texts) == len(self._engines)}
        registry = CollectorRegistry()
        registry.register(StateCollector(figures, up, {name: name in texts for name in self._engines}))
        counted = generate_latest(shared_registry())
        engines = "".join(texts.values()) if len(self._engines) == 1 else merge(texts, "base")
        return b"".join((counted, generate_latest(registry), engines.encode()))

    def _read_figures(self) -> Figures | None:
        try:
            with self._db.read() as tx:
                return tx.figures(self._operator, utc_now())
        except DomainError as error:
            log.warning("cannot read metrics from the database: %s", error)
            return None


class StateCollector(Collector):
    """Gauges read for one scrape. Uses metric families because `Gauge`s are shared by all processes, and
    would reappear in later scrapes.
    """

    def __init__(self, figures: Figures | None, up: Mapping[str, bool], bases: Mapping[str, bool]) -> None:
        self._figures, self._up, self._bases = figures, up, bases

    def collect(self) -> Iterator[Metric]:
        yield _family("loraledger_up", "Whether a part responds.", "part", self._up)
        yield _family(
            "loraledger_base_up", "Whether an engine of a base model responds.", "base", self._bases
        )
        if self._figures is not None:
            yield from _families(self._figures)


async def _read_engine(engine: Engine) -> str | None:
    try:
        return await engine.metrics(ENGINE_SECONDS)
    except DomainError as error:
        log.warning("cannot read metrics from the engine: %s", error)
        return None


def load_metrics_token(settings: Settings) -> str:
    """Bearer token of `GET /metrics`, from the file that a setting names, or created on first use."""
    if settings.metrics_token_file is not None:
        return settings.metrics_token_file.read_text().strip()
    path = settings.home / "metrics-token"
    return read_or_create(path, lambda: f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}").strip()


def _families(figures: Figures) -> Iterator[Metric]:
    for name, (text, read) in STATE.items():
        if (value := read(figures)) is not None:
            yield GaugeMetricFamily(name, text, value)
    yield _family(
        "loraledger_pending_transactions",
        "Unfinished transactions of the operator, by state.",
        "state",
        {state: pending.count for state, pending in figures.transactions.items()},
    )
    yield _family(
        "loraledger_pending_transaction_oldest_timestamp_seconds",
        "Queue time of the oldest unfinished transaction, by state.",
        "state",
        {state: pending.oldest_at for state, pending in figures.transactions.items()},
    )
    yield _family("loraledger_training_jobs", "Fine-tuning jobs, by state.", "state", figures.jobs)


def _family(name: str, text: str, label: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    """Build a gauge with one label; None values are left out."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for label_value, value in values.items():
        if value is not None:
            family.add_metric([label_value], value)
    return family
