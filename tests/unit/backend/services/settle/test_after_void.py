"""What the operator does after a conviction: restore, then settle again what can stand, and nothing twice."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.disputes.witnesses import Demand, Tree
from backend.domain.settlement import DemandStatus
from backend.services.settle.settler import Step
from tests.support.market import some_account
from tests.support.settling import Died, Dying, DyingDatabase, assert_all_settled, settle, settle_batches

if TYPE_CHECKING:
    from tests.support.town import Town


def test_nothing_is_committed_before_all_voided_batches_are_refunded(town: Town) -> None:
    receipts = settle_batches(town, 3)
    town.chain.void_from(1)
    receipts.append(town.serve())
    settler = town.settler()
    assert settler.run_once(is_forced=True) == settler.run_once(is_forced=True)
    progress = settler.run_once(is_forced=True)
    assert (progress.step, progress.number) == (Step.REFUNDING, 3)
    assert town.mine() == 3
    assert all(channel.collected == 0 for channel in town.chain.channel_by_id.values())
    assert all(channel.balance == 10**12 for channel in town.chain.channel_by_id.values())
    settle(town)
    assert_all_settled(town, receipts)


def test_refunds_that_somebody_else_sends_are_not_missed(town: Town) -> None:
    receipts = settle_batches(town, 3)
    town.chain.void_from(1)
    town.settler().run_once(is_forced=True)
    newest = town.chain.unrefunded()[0]
    town.chain.execute("refund", (newest.header, [s.refund for s in town.chain.spans(newest.hash)]))
    assert town.mine() == 2
    settle(town)
    assert_all_settled(town, receipts)


def test_a_refund_that_fell_out_of_the_chain_after_its_confirmation_is_sent_again(town: Town) -> None:
    receipts = settle_batches(town, 2)
    town.chain.void_from(2)
    fork = town.chain.fork()
    town.settler().run_once(is_forced=True)
    assert town.mine() == 1
    town.chain.return_to(fork)
    settle(town)
    assert_all_settled(town, receipts)


@pytest.mark.parametrize("at", range(1, 26))
def test_a_death_at_any_step_after_a_void_loses_and_doubles_nothing(town: Town, at: int) -> None:
    receipts = settle_batches(town, 3)
    town.chain.void_from(2)
    database = DyingDatabase(town, [at])
    blobs = Dying(town.blobs, {"add_folder", "read"}, 1 + at % 4)
    for _ in range(5):
        auditor = town.auditor()
        auditor._db = database
        with suppress(Died):
            town.settler(db=database, blobs=blobs, auditor=auditor).run_once(is_forced=True)
        town.mine()
    settle(town)
    assert_all_settled(town, receipts)


@pytest.mark.parametrize("runs", range(7))
def test_a_void_that_falls_out_of_the_chain_leaves_everything_as_it_was(town: Town, runs: int) -> None:
    """At whatever point of releasing, refunding and committing again it does."""
    receipts = settle_batches(town, 3)
    fork = town.chain.fork()
    town.chain.void_from(2)
    for _ in range(runs):
        town.settler().run_once(is_forced=True)
        town.mine()
    town.chain.return_to(fork)
    assert [b.number for b in town.chain.standing()] == [1, 2, 3]
    settle(town)
    assert_all_settled(town, receipts)
    assert [b.number for b in town.chain.standing()] == [1, 2, 3]
    with town.begin() as tx:
        assert tx.batches.unreleased(town.market.operator) == {1, 2, 3}
    receipts.append(town.serve())
    town.chain.void_from(3)
    settle(town, rounds=8)
    assert_all_settled(town, receipts)


def test_receipts_of_a_batch_committed_elsewhere_are_marked_where_they_are_known(town: Town) -> None:
    """As after a database was restored from before its newest batches."""
    receipts = settle_batches(town, 2)
    with town.begin() as tx:
        for number in (1, 2):
            tx.receipts.release(town.market.operator, number)
            record = tx.batches.get(town.market.operator, number)
            assert record is not None
            tx.batches.put(replace(record, is_released=True))
    assert town.unsettled() == 4
    settle(town)
    assert_all_settled(town, receipts)


def test_an_unanswered_demand_says_nothing_about_the_receipts(town: Town) -> None:
    receipts = settle_batches(town, 1)
    town.chain.void_from(1, "voidUnanswered")
    settle(town)
    assert_all_settled(town, receipts)
    old, new = town.chain.committed
    assert old.header["dataDigest"] == new.header["dataDigest"]


def test_a_batch_under_an_open_demand_is_not_finalised_and_those_before_it_are(town: Town) -> None:
    settle_batches(town, 3)
    held = town.chain.standing()[1]
    demand = Demand(held.hash, Tree.ENTRIES, (1,), some_account("challenger"), 1, 1)
    town.chain.demanded = [DemandStatus(demand.id, held.operator, demand, (0,), 0, 1)]
    town.chain.time += 60
    assert town.settler().finalise() == 1
    town.mine()
    assert town.chain.final == 1
    town.chain.demanded = []
    assert town.settler().finalise() == 3


def test_claims_open_the_final_batch_while_later_ones_fall(town: Town) -> None:
    operator = town.market.operator
    settle_batches(town, 1, answers=8)
    town.chain.time += 60
    town.settler().finalise()
    town.mine()
    before = dict(town.auditor().follow(operator).balances)
    settle_batches(town, 2)
    town.chain.void_from(2)
    for account, earned in before.items():
        (found,) = town.claims().claimable(account)
        assert (found.cumulative, found.unverifiable) == (earned, None)
