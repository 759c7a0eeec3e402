"""Batches, spans and demands as the projections have them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, select

from backend.db.tables.chain import BatchRow, EventRow
from backend.domain.disputes.witnesses import Fault, Tree
from backend.domain.errors import InvalidInput
from backend.domain.ids import Account, ChannelId
from backend.domain.settlement import BatchState, Demand, PaidSpan
from tests.support.chain_events import (
    ALICE,
    BOB,
    OPERATOR,
    answered,
    collected,
    committed,
    convicted,
    demanded,
    deposited,
    final,
    refunded,
    take_in,
    voided,
    word,
)
from tests.support.market import some_demand

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database
    from backend.ports.chain_view import ChainView
    from tests.support.chain_events import Event


def test_all_pending_batches_fall_with_the_one_that_was_convicted_and_their_numbers_are_given_again(
    database: Database,
) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), committed(2, 2), committed(3, 3))
        take_in(tx, *convicted(2, ALICE), voided(1, 3, 2))
        take_in(tx, refunded(3, 3))
    with database.read() as tx:
        first, second, third = tx.chain.batches(OPERATOR)
        assert {b.state for b in (first, second, third)} == {BatchState.VOID}
        assert first.conviction == second.conviction == third.conviction
        why = third.conviction
        assert why is not None
        assert (why.first, why.convicted, why.proof) == (1, word(2), "proveBadReceipt")
        assert (why.challenger, why.fault, why.receipt, why.block_number) == (ALICE, Fault.PRICE, 7, 2)
        assert [b.is_refunded for b in (second, third)] == [False, True]
    with database.begin() as tx:
        take_in(tx, refunded(2, 2), refunded(1, 1), committed(1, 4), final(1, 4), committed(2, 5))
        take_in(tx, voided(2, 2, 5))
    with database.read() as tx:
        states = [(b.hash, b.state, b.is_refunded) for b in tx.chain.batches(OPERATOR)]
        assert states == [
            (word(1), BatchState.VOID, True),
            (word(2), BatchState.VOID, True),
            (word(3), BatchState.VOID, True),
            (word(4), BatchState.FINAL, False),
            (word(5), BatchState.VOID, False),
        ]
        assert tx.chain.batch(word(4)) == tx.chain.batches(OPERATOR)[3]
        assert tx.chain.batch(word(6)) is None


def test_batches_are_read_in_pages_newest_first(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), committed(2, 9), committed(3, 3))
        take_in(tx, *convicted(9, ALICE), voided(2, 3, 9), final(1, 1))
        take_in(tx, committed(2, 4), committed(3, 5))
    with database.read() as tx:
        newest_first = tx.chain.batches(OPERATOR)[::-1]
        assert tx.chain.recent_batches(OPERATOR, None, 9) == newest_first
        assert tx.chain.recent_batches(OPERATOR, None, 2) == newest_first[:2]
        assert tx.chain.recent_batches(OPERATOR, word(4), 2) == newest_first[2:4]
        assert tx.chain.recent_batches(OPERATOR, word(1), 2) == []
        pending = tx.chain.open_batches(OPERATOR)
        assert [batch.hash for batch in pending] == [word(4), word(5)]
        assert tx.chain.open_totals({OPERATOR, ALICE}) == {OPERATOR: 10 * (4 + 5)}
        assert tx.chain.recent_batches(ALICE, None, 9) == tx.chain.open_batches(ALICE) == []
        with pytest.raises(InvalidInput, match="not an id of this list"):
            tx.chain.recent_batches(ALICE, word(4), 2)


def test_batches_are_found_by_number_and_state_without_reading_all(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), committed(2, 2), committed(3, 3))
        take_in(tx, final(1, 1), *convicted(3, ALICE), voided(2, 3, 3))
        take_in(tx, committed(2, 4), committed(3, 5), committed(4, 6), final(2, 4), final(3, 5))
    with database.read() as tx:
        by_name = {batch.hash: batch for batch in tx.chain.batches(OPERATOR)}
        valid = [by_name[word(name)] for name in (1, 4, 5, 6)]

    def found(read: Callable[[ChainView], Any], num_rows: int) -> Any:
        """What is read, which may load so many rows."""
        loaded: list[object] = []
        event.listen(BatchRow, "load", record := lambda row, _: loaded.append(row))
        with database.read() as tx:
            result = read(tx.chain)
        event.remove(BatchRow, "load", record)
        assert len(loaded) == num_rows
        return result

    assert found(lambda chain: chain.valid_batches(OPERATOR), 4) == valid
    assert found(lambda chain: chain.valid_batches(OPERATOR, 1, 3), 2) == valid[1:3]
    assert found(lambda chain: chain.valid_batches(OPERATOR, 4), 0) == []
    assert found(lambda chain: chain.open_batches(OPERATOR), 1) == valid[3:]
    assert found(lambda chain: chain.numbered_batch(OPERATOR, 3), 1) == valid[2]
    assert found(lambda chain: chain.numbered_batch(OPERATOR, 5), 0) is None
    assert found(lambda chain: chain.numbered_batch(ALICE, 1), 0) is None
    assert found(lambda chain: chain.recent_batches(OPERATOR, None, 1), 1) == valid[3:]
    assert found(lambda chain: chain.void_batches(OPERATOR), 2) == [by_name[word(name)] for name in (2, 3)]
    assert found(lambda chain: chain.newest_batches(), 0) == {OPERATOR: word(6)}
    assert found(lambda chain: chain.valid_among({word(2), word(4), word(9)}), 0) == {word(4)}


def test_a_number_whose_batch_is_void_has_the_void_one_until_another_takes_it(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), *convicted(1, ALICE), voided(1, 1, 1))
    with database.read() as tx:
        assert tx.chain.numbered_batch(OPERATOR, 1) == tx.chain.batch(word(1))
    with database.begin() as tx:
        take_in(tx, committed(1, 2))
    with database.read() as tx:
        assert tx.chain.numbered_batch(OPERATOR, 1) == tx.chain.batch(word(2))


def test_operators_are_listed_in_the_order_of_their_first_batches(database: Database) -> None:
    def of(operator: Account, number: int, name: int) -> Event:
        contract, event_name, args = committed(number, name)
        return contract, event_name, args | {"operator": operator}

    with database.begin() as tx:
        take_in(tx, of(BOB, 1, 1), of(ALICE, 1, 2))
        take_in(tx, of(OPERATOR, 1, 3), of(ALICE, 2, 4))
    with database.read() as tx:
        assert list(tx.chain.newest_batches().items()) == [
            (BOB, word(1)),
            (ALICE, word(4)),
            (OPERATOR, word(3)),
        ]


def test_a_conviction_without_a_reward_has_no_challenger(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), *convicted(1, Account("0x" + "00" * 20)), voided(1, 1, 1))
    with database.read() as tx:
        (batch,) = tx.chain.batches(OPERATOR)
        assert batch.conviction is not None
        assert batch.conviction.challenger is None


def test_the_spans_of_a_batch_are_its_own_collections_with_their_payers(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, *deposited(1, OPERATOR), *deposited(2, OPERATOR), *deposited(3, BOB))
        take_in(
            tx,
            collected(3, 0, 0, 9),
            collected(1, 0, 2, 8),
            collected(2, 0, 0, 5),
            committed(1, 1),
            collected(2, 5, 5, 6),
            committed(2, 2),
        )
    spans = [PaidSpan(ChannelId(word(1)), ALICE, 0, 2, 8), PaidSpan(ChannelId(word(2)), ALICE, 0, 0, 5)]
    with database.begin() as tx:
        # In the tests' blocks each event has its own transaction.
        for row in tx.session.scalars(select(EventRow)):
            row.tx_hash = word(1003) if row.log_index < 4 else word(1005)
    with database.read() as tx:
        assert tx.chain.spans(word(1)) == tuple(spans)
        assert [span.until for span in tx.chain.spans(word(2))] == [6]
        assert tx.chain.spans(word(9)) == ()
        assert spans[0].refund == {"payer": ALICE, "before": 0, "from": 2, "until": 8}


def test_collections_of_an_operator_for_itself_are_no_spans_of_its_batch(database: Database) -> None:
    """An operator that is a contract can make them directly before, in the same transaction."""
    with database.begin() as tx:
        take_in(tx, *deposited(1, OPERATOR), *deposited(2, OPERATOR, OPERATOR))
        take_in(tx, collected(2, 0, 0, 9), collected(1, 0, 2, 8), committed(1, 1))
    with database.begin() as tx:
        for row in tx.session.scalars(select(EventRow)):
            row.tx_hash = word(1002)
    with database.read() as tx:
        assert [span.channel_id for span in tx.chain.spans(word(1))] == [word(1)]


def test_a_channel_after_a_refund_is_as_it_was_before_the_collection(database: Database) -> None:
    channel = ChannelId(word(1))
    final = {"operator": OPERATOR, "number": 1, "batchHash": word(1), "finalTotal": 5}
    undone = {"channelId": channel, "amount": 20, "collected": 10}
    with database.begin() as tx:
        take_in(tx, *deposited(1, OPERATOR), collected(1, 0, 0, 10), committed(1, 1))
        take_in(tx, ("Settlement", "BatchFinalised", final))
        before = tx.chain.channel(channel)
        take_in(tx, collected(1, 10, 15, 35), committed(2, 2))
    with database.read() as tx:
        assert tx.chain.settled(channel) == 10
        assert tx.chain.settled(ChannelId(word(7))) == 0
    with database.begin() as tx:
        take_in(tx, voided(2, 2, 2), ("PaymentVault", "Refunded", undone))
    with database.read() as tx:
        assert before is not None
        assert before.max_collected == 10
        assert tx.chain.channel(channel) == replace(before, max_collected=35)
        assert tx.chain.settled(channel) == 10


def test_demands_are_open_until_they_are_answered_or_their_batch_is_void(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), committed(2, 2))
        take_in(tx, demanded(50, 2, 90), demanded(51, 1, 80), demanded(52, 1, 85), demanded(53, 1, 86))
        take_in(tx, answered(53, 1, "0xbb"), answered(52, 1, "0xcc"))
    asked = Demand(
        leaf_id=word(51),
        operator=OPERATOR,
        batch_hash=word(1),
        tree=Tree.ENTRIES,
        key=5,
        challenger=ALICE,
        bond=2**95,
        deadline=80,
        deadline_block=7,
        is_open=True,
        block_number=2,
    )
    with database.read() as tx:
        first, second = tx.chain.open_demands(OPERATOR)
        assert (first, second.leaf_id) == (asked, word(50))
        assert [one.is_open for one in tx.chain.demands(word(1))] == [True, False, False]
        shown = [(one.leaf_id, one.call, one.block_number) for one in tx.chain.answers(word(1))]
        assert shown == [(word(53), "0xbb", 3), (word(52), "0xcc", 3)]
        assert tx.chain.open_demands(ALICE) == tx.chain.answers(word(2)) == []
    with database.begin() as tx:
        take_in(tx, voided(2, 2, 2))
        returned = {"leafId": word(50), "challenger": ALICE, "bond": 2**95}
        take_in(tx, ("Disputes", "BondReturned", returned))
    with database.read() as tx:
        assert [one.leaf_id for one in tx.chain.open_demands(OPERATOR)] == [word(51)]
        (over,) = tx.chain.demands(word(2))
        assert not over.is_open


def test_it_is_too_late_to_answer_once_both_deadlines_have_passed() -> None:
    demand = some_demand(OPERATOR, word(1), deadline=100, deadline_block=9)
    assert not demand.is_past(100, 10)
    assert not demand.is_past(101, 9)
    assert demand.is_past(101, 10)
    assert some_demand(OPERATOR, word(1), deadline=100).is_past(101, 1)


def test_what_a_channel_has_settled_is_found_without_its_other_events(sqlite_database: Database) -> None:
    """Its payer can make any number of them."""
    channel, said = ChannelId(word(1)), []
    with sqlite_database.begin() as tx:
        take_in(tx, *deposited(1, OPERATOR), collected(1, 0, 0, 10), committed(1, 1), final(1, 1))
    event.listen(sqlite_database.engine, "before_cursor_execute", lambda *args: said.append(args[2:4]))
    with sqlite_database.read() as tx:
        tx.chain.settled(channel)
        queries = [one for one in said if "FROM chain_events" in one[0]]
        plans = [
            tx.session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {q}", v).all() for q, v in queries
        ]
    assert {row.detail for plan in plans for row in plan} == {
        "SEARCH chain_events USING INDEX ix_chain_events_name (entity=? AND name=?)"
    }
