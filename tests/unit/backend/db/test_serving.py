"""Receipts as settlement reads them. For serving see `services/channels/test_admission.py`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from backend.domain.errors import Conflict
from backend.domain.hashing import receipt_id
from backend.domain.serving import NewReceipt
from tests.support.market import Market, some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import ChannelId, ReceiptId
    from backend.domain.receipt import SignedReceipt

PAYER, KEY = some_account("payer"), some_account("receipt key")


@pytest.fixture
def market() -> Market:
    return Market()


def store(database: Database, market: Market, *receipts: SignedReceipt) -> list[ReceiptId]:
    ids = [receipt_id(signed.receipt) for signed in receipts]
    with database.begin() as tx:
        for number, signed in zip(ids, receipts, strict=True):
            tx.receipts.add(NewReceipt(number, market.operator, PAYER, signed, KEY, some_hash("salt"), None))
    return ids


def unsettled(database: Database, channel: ChannelId, after: int = 0, limit: int = 10) -> list[SignedReceipt]:
    with database.read() as tx:
        return list(tx.receipts.unsettled(channel, after, limit))


def test_a_receipt_reads_back_as_it_was_stored(database: Database, market: Market) -> None:
    served = market.receipts(20)
    for number, signed in zip(store(database, market, *served), served, strict=True):
        with database.read() as tx:
            stored = tx.receipts.get(number)
        assert stored is not None
        assert (stored.signed, stored.batch, stored.payer) == (signed, None, PAYER)


def test_unsettled_receipts_come_in_the_order_of_the_line(database: Database, market: Market) -> None:
    channel, other = market.channels[:2]
    served = [market.serve(channel) for _ in range(5)]
    store(database, market, *served[::-1], market.serve(other))
    assert unsettled(database, channel) == served
    assert unsettled(database, channel, limit=2) == served[:2]
    assert unsettled(database, channel, after=served[1].receipt.cumulative) == served[2:]


def test_only_the_missing_lines_of_channels_are_inserted(database: Database, market: Market) -> None:
    *known, new = market.channels[:4]
    statements: list[str] = []
    with database.begin() as tx:
        tx.channels.lock(*known)
        tx.channels.advance(dict.fromkeys(known, 7))
    with database.begin() as tx:
        listened = tx.session.connection()
        event.listen(listened, "before_cursor_execute", lambda *call: statements.append(call[2]))
        tx.channels.lock(*known, new)
        assert tx.channels.charged([*known, new]) == {**dict.fromkeys(known, 7), new: 0}
    assert sum(text.startswith("INSERT") for text in statements) == 1


def test_a_backlog_counts_what_is_unsettled_the_oldest_channel_first(
    database: Database, market: Market
) -> None:
    first, second = market.channels[:2]
    old = market.serve(second)
    new = [market.serve(first), market.serve(first)]
    aged = replace(old, receipt=replace(old.receipt, served_at=5))
    ids = store(database, market, *new, aged)
    with database.begin() as tx:
        assert [(b.channel_id, b.num_receipts) for b in tx.receipts.backlogs(market.operator)] == [
            (second, 1),
            (first, 2),
        ]
        assert tx.receipts.backlogs(market.operator)[0].oldest_served_at == 5
        assert tx.receipts.backlogs(some_account("other")) == []
        tx.receipts.assign(market.operator, 1, ids[2:])
        assert [b.channel_id for b in tx.receipts.backlogs(market.operator)] == [first]


def test_a_receipt_is_in_one_batch_until_that_is_released(database: Database, market: Market) -> None:
    channel = market.channels[0]
    ids = store(database, market, *(market.serve(channel) for _ in range(3)))
    with database.begin() as tx:
        tx.receipts.assign(market.operator, 1, ids[:2])
    for number in (1, 2):
        with pytest.raises(Conflict), database.begin() as tx:
            tx.receipts.assign(market.operator, number, ids)
    assert len(unsettled(database, channel)) == 1
    with database.begin() as tx:
        assert tx.receipts.release(market.operator, 1) == 2
        assert tx.receipts.release(market.operator, 1) == 0
    assert len(unsettled(database, channel)) == 3


def test_unknown_receipts_cannot_be_assigned(sqlite_database: Database, market: Market) -> None:
    with pytest.raises(Conflict), sqlite_database.begin() as tx:
        tx.receipts.assign(market.operator, 1, [receipt_id(market.serve().receipt)])


def test_queries_of_unsettled_receipts_read_no_free_ones(sqlite_database: Database, market: Market) -> None:
    """Free receipts are in no batch for ever."""
    said: list[tuple[str, Any]] = []
    with sqlite_database.read() as tx:
        on = tx.session.connection()
        event.listen(on, "before_cursor_execute", lambda *call: said.append(call[2:4]))
        tx.receipts.backlogs(market.operator)
        tx.receipts.signed_by_others(market.operator, [KEY])
        tx.figures(market.operator, datetime.now(UTC))
        tx.receipts.traces(market.operator, 1, 1)
        queries = [one for one in said if "batch IS NULL" in one[0] or "receipts.batch =" in one[0]]
        plans = [on.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all() for query, values in queries]
    first = [next(row.detail for row in plan if " receipts " in row.detail) for plan in plans]
    assert first == [
        *(3 * ["SEARCH receipts USING INDEX ix_receipts_in_no_batch (operator=?)"]),
        "SEARCH receipts USING INDEX ix_receipts_batch (operator=? AND batch=?)",
    ]


def test_postgresql_finds_unsettled_receipts_by_their_index(
    postgres_database: Database, market: Market
) -> None:
    with postgres_database.begin() as tx:
        on = tx.session.connection()
        on.exec_driver_sql("SET LOCAL enable_seqscan = off")
        said: list[tuple[str, Any]] = []
        event.listen(on, "before_cursor_execute", lambda *call: said.append(call[2:4]))
        tx.receipts.backlogs(market.operator)
        (query, values), *_ = said
        plan = on.exec_driver_sql(f"EXPLAIN {query}", values).scalars().all()
    assert any("ix_receipts_in_no_batch" in line for line in plan), plan
