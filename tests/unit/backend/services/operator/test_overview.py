"""What an operator is advised to do, and what an overview shows while parts do not answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import Unavailable
from backend.domain.figures import Figures, Pending
from backend.engine.metric_texts import checked
from backend.services.operator.overview import Overview, Overviews, advise
from tests.support.fakes import FakeClock
from tests.support.market import some_account
from tests.support.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

NOW = 1_800_000_000
NOTHING = Pending(0)
QUIET = Figures(
    unsettled=NOTHING,
    unsettled_units=0,
    unfunded_units=0,
    unsigned=NOTHING,
    reserved_units=0,
    open_batches=0,
    float_units=0,
    unrefunded_units=0,
    newest_batch_at=None,
    next_final_at=None,
    open_demands=0,
    demand_deadline=None,
    stake_units=100,
    outbox=NOTHING,
    transactions={"queued": NOTHING, "sent": Pending(1, NOW - 10)},
)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"open_demands": 1, "demand_deadline": NOW + 9}, "loraledger watch"),
        ({"receipts_to_sign": 2}, "signs them again"),
        ({"unsettled": Pending(1, NOW - 90_001), "unsettled_units": 1}, "loraledger settle"),
        ({"transactions": {"sent": Pending(1, NOW - 901)}}, "loraledger send"),
        ({"outbox": Pending(1, NOW - 601)}, "loraledger relay"),
    ],
)
def test_each_fault_comes_with_what_to_do(changes: dict[str, Any], remedy: str) -> None:
    assert list(advise(QUIET, None, NOW)) == []
    (advice,) = advise(replace(QUIET, **changes), None, NOW)
    assert remedy in advice.remedy


class AwayMembership:
    def status(self) -> None:
        raise Unavailable("the node is away")


def test_an_overview_needs_neither_node_nor_engine(sqlite_database: Database) -> None:
    engine, membership = ScriptedEngine(), AwayMembership()
    built = Overviews(sqlite_database, membership, [engine], some_account("operator"), FakeClock())  # type: ignore[arg-type]
    found = asyncio.run(built.read())
    assert (found.status, found.exposure) == (None, 0)
    assert found.engine == {"loraledger_scripted_engine": 1.0}
    engine.is_gone = True
    gone = asyncio.run(built.read())
    assert (gone.engine, gone.engine_fault) == (None, None)


class OtherMetrics(ScriptedEngine):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    async def metrics(self, deadline_seconds: float) -> str:
        return checked(self.text, "the engine")


def test_metrics_that_cannot_be_read_are_said_to_be_so(sqlite_database: Database) -> None:
    def read(text: str) -> Overview:
        parts = AwayMembership(), [OtherMetrics(text)], some_account("operator"), FakeClock()
        return asyncio.run(Overviews(sqlite_database, *parts).read())  # type: ignore[arg-type]

    found = read("queue 1\n<html>\n")
    assert found.engine is None
    assert found.engine_fault == (
        "The metrics of the engine are not in Prometheus' text format; line 2 is '<html>'."
    )
    assert read('queue{engine="0"} 1\nqueue{engine="1"} NaN\nslots +Inf\n').engine == {"queue": 1}
