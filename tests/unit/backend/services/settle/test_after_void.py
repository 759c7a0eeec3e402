"""After a conviction: refund, then settle the valid receipts again, each once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, select, update

from backend.db.tables.serving import CumulativeRow, ReceiptRow, ReceiptSliceRow
from backend.db.tables.settlement import OwnBatchRow
from backend.db.tables.transactions import TransactionRow
from backend.domain.hashing import receipt_id
from backend.domain.serving import UNKNOWN_SALT
from backend.services.settle.settler import Step
from tests.support.market import some_demand, some_hash
from tests.support.settlement_steps import (
    CrashingDatabase,
    CrashingProxy,
    SimulatedCrash,
    assert_all_settled,
    settle,
    settle_batches,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.receipt import SignedReceipt
    from tests.support.settlement_harness import SettlementHarness


def test_nothing_is_committed_before_all_voided_batches_are_refunded(harness: SettlementHarness) -> None:
    receipts = settle_batches(harness, 3)
    harness.chain.convict(1)
    receipts.append(harness.serve())
    settler = harness.settler()
    assert settler.run_once(is_forced=True) == settler.run_once(is_forced=True)
    progress = settler.run_once(is_forced=True)
    assert (progress.step, progress.number) == (Step.REFUNDING, 3)
    assert harness.mine() == 3
    assert all(channel.collected == 0 for channel in harness.chain.channel_by_id.values())
    assert all(channel.balance == 10**12 for channel in harness.chain.channel_by_id.values())
    settle(harness)
    assert_all_settled(harness, receipts)


def test_refunds_sent_by_another_account_are_noticed(harness: SettlementHarness) -> None:
    receipts = settle_batches(harness, 3)
    harness.chain.convict(1)
    harness.settler().run_once(is_forced=True)
    newest = harness.chain.unrefunded()[0]
    harness.chain.execute("refund", (newest.header, [s.refund for s in harness.chain.spans(newest.hash)]))
    assert harness.mine() == 2
    settle(harness)
    assert_all_settled(harness, receipts)


def test_a_refund_that_fell_out_of_the_chain_after_its_confirmation_is_sent_again(
    harness: SettlementHarness,
) -> None:
    receipts = settle_batches(harness, 2)
    harness.chain.convict(2)
    fork = harness.chain.fork()
    harness.settler().run_once(is_forced=True)
    assert harness.mine() == 2
    harness.chain.return_to(fork)
    settle(harness)
    assert_all_settled(harness, receipts)


@pytest.mark.parametrize("at", range(1, 26))
def test_a_crash_at_any_step_after_a_void_loses_and_duplicates_nothing(
    harness: SettlementHarness, at: int
) -> None:
    receipts = settle_batches(harness, 3)
    harness.chain.convict(2)
    database = CrashingDatabase(harness, [at])
    blobs = CrashingProxy(harness.blobs, {"add_folder", "read"}, 1 + at % 4)
    for _ in range(5):
        auditor = harness.auditor()
        auditor._db = database
        with suppress(SimulatedCrash):
            harness.settler(db=database, blobs=blobs, auditor=auditor).run_once(is_forced=True)
        harness.mine()
    settle(harness)
    assert_all_settled(harness, receipts)


@pytest.mark.parametrize("runs", range(7))
def test_a_reorganised_void_restores_the_previous_state(harness: SettlementHarness, runs: int) -> None:
    """At every point of releasing, refunding and committing again."""
    receipts = settle_batches(harness, 3)
    fork = harness.chain.fork()
    harness.chain.convict(2)
    for _ in range(runs):
        harness.settler().run_once(is_forced=True)
        harness.mine()
    harness.chain.return_to(fork)
    assert [b.number for b in harness.chain.standing()] == [1, 2, 3]
    settle(harness)
    assert_all_settled(harness, receipts)
    assert [b.number for b in harness.chain.standing()] == [1, 2, 3]
    with harness.begin() as tx:
        assert tx.batches.missing(harness.market.operator, 4) == {4}
    receipts.append(harness.serve())
    harness.chain.convict(3)
    settle(harness, rounds=8)
    assert_all_settled(harness, receipts)


def test_receipts_of_a_batch_committed_elsewhere_are_marked_where_they_are_known(
    harness: SettlementHarness,
) -> None:
    """The batch is unknown after the database was restored from a backup older than its newest batches."""
    receipts = settle_batches(harness, 2)
    with harness.begin() as tx:
        for number in (1, 2):
            tx.receipts.release(harness.market.operator, number)
            record = tx.batches.get(harness.market.operator, number)
            assert record is not None
            tx.batches.put(replace(record, is_released=True))
    assert harness.unsettled() == 4
    settle(harness)
    assert_all_settled(harness, receipts)


def test_an_unanswered_demand_says_nothing_about_the_receipts(harness: SettlementHarness) -> None:
    receipts = settle_batches(harness, 1)
    harness.chain.convict(1, "voidUnanswered")
    settle(harness)
    assert_all_settled(harness, receipts)
    old, new = harness.chain.committed
    assert old.header["dataDigest"] == new.header["dataDigest"]


def test_a_batch_under_an_open_demand_is_not_finalised_and_those_before_it_are(
    harness: SettlementHarness,
) -> None:
    settle_batches(harness, 3)
    held = harness.chain.standing()[1]
    harness.chain.demanded = [some_demand(held.operator, held.hash)]
    harness.chain.time += 60
    assert harness.settler().finalise() == 1
    harness.mine()
    assert harness.chain.final == 1
    harness.chain.demanded = []
    assert harness.settler().finalise() == 3


def test_claims_open_the_final_batch_while_later_ones_fall(harness: SettlementHarness) -> None:
    operator = harness.market.operator
    settle_batches(harness, 1, answers=8)
    harness.chain.time += 60
    harness.settler().finalise()
    harness.mine()
    before = dict(harness.auditor().follow(operator).balances)
    settle_batches(harness, 2)
    harness.chain.convict(2)
    for account, earned in before.items():
        (found,) = harness.claims().claimable(account).found
        assert (found.cumulative, found.unverifiable) == (earned, None)


def lose(harness: SettlementHarness, receipts: Sequence[SignedReceipt]) -> None:
    """Restore a backup without these receipts, and without the batches."""
    lost = [receipt_id(signed.receipt) for signed in receipts]
    with harness.begin() as tx:
        found = select(ReceiptRow.sequence).where(ReceiptRow.id.in_(lost))
        tx.session.execute(delete(ReceiptSliceRow).where(ReceiptSliceRow.receipt_sequence.in_(found)))
        tx.session.execute(delete(ReceiptRow).where(ReceiptRow.id.in_(lost)))
        tx.session.execute(update(ReceiptRow).values(batch=None))
        tx.session.execute(update(CumulativeRow).values(charged=0))
        tx.session.execute(delete(OwnBatchRow))
        tx.session.execute(delete(TransactionRow))


@pytest.mark.parametrize("num_kept", [0, 1])
@pytest.mark.parametrize("is_void_at_once", [False, True])
def test_receipts_that_a_restored_database_lacks_are_read_from_the_batch_and_settled_again(
    harness: SettlementHarness, num_kept: int, *, is_void_at_once: bool
) -> None:
    receipts = settle_batches(harness, 1, answers=6)
    lose(harness, receipts[num_kept:])
    if not is_void_at_once:
        settle(harness)
    harness.chain.convict(1)
    later = [harness.serve(signed.receipt.channel_id) for signed in receipts]
    settle(harness)
    assert_all_settled(harness, [*receipts, *later])
    with harness.read() as tx:
        stored = [tx.receipts.get(receipt_id(signed.receipt)) for signed in receipts[num_kept:]]
        charged = tx.channels.charged([signed.receipt.channel_id for signed in receipts])
    assert [each and each.signed for each in stored] == receipts[num_kept:]
    assert {each and each.salt for each in stored} == {UNKNOWN_SALT}
    for signed in receipts[num_kept:]:
        assert charged[signed.receipt.channel_id] >= signed.receipt.cumulative


def test_a_lost_receipt_that_a_stored_charge_contradicts_stays_lost(
    harness: SettlementHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The key that signed it must be retired before anything is settled."""
    channel, other = harness.market.channels[:2]
    lost, alone = harness.serve(channel), harness.serve(other)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    lose(harness, [lost, alone])
    changed = replace(lost, receipt=replace(lost.receipt, response_hash=some_hash("another answer")))
    harness.store(changed)
    settle(harness)
    with harness.read() as tx:
        assert tx.receipts.get(receipt_id(lost.receipt)) is None
        assert tx.receipts.get(receipt_id(alone.receipt)) is not None
    assert "1 receipts of a batch overlap charges of channel" in caplog.text
