"""What the operator does after a conviction: restore, then settle again what can stand, and nothing twice."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.batch import Header
from backend.domain.chain import Demanded
from backend.domain.disputes.witnesses import Demand, Fault, Tree
from backend.domain.hashing import receipt_id
from backend.services.settle.settler import Settler, Step
from tests.support.market import Key, some_account, some_hash
from tests.support.model_chain import Town
from tests.support.settling import Died, Dying, assert_all_settled, dying_begin, settle, settled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.receipt import SignedReceipt


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path)
    yield town
    town.database.close()


def settle_batches(town: Town, count: int, answers: int = 2) -> list[SignedReceipt]:
    """One after the other; their receipts."""
    receipts = []
    for _ in range(count):
        receipts += [town.serve() for _ in range(answers)]
        town.settler().run_once(is_forced=True)
        town.mine()
    return receipts


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
    begin = dying_begin(town, [at])
    blobs = Dying(town.blobs, {"add_folder", "read"}, 1 + at % 4)
    for _ in range(5):
        auditor = town.auditor()
        auditor._begin = begin
        with suppress(Died):
            town.settler(begin=begin, blobs=blobs, auditor=auditor).run_once(is_forced=True)
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
        assert tx.batches.kept(town.market.operator) == {1, 2, 3}
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
    town.chain.void_from(1, "unanswered")
    settle(town)
    assert_all_settled(town, receipts)
    old, new = town.chain.committed
    assert old.header["dataDigest"] == new.header["dataDigest"]


def convict(town: Town, verb: str, fault: Fault, guilty: SignedReceipt) -> None:
    """Of a receipt in the newest batch."""
    batch = town.chain.standing()[-1]
    ids = [receipt_id(signed.receipt) for signed in settled(town)]
    index = ids.index(receipt_id(guilty.receipt))
    town.chain.void_from(batch.number, verb, fault, index)


@pytest.mark.parametrize(("verb", "fault"), [("badReceipt", Fault.PRICE), ("badPosition", Fault.POSITION)])
def test_a_convicted_receipt_is_set_aside_and_holds_up_only_the_rest_of_its_channel(
    town: Town, verb: str, fault: Fault
) -> None:
    channel, other = town.market.channels[:2]
    receipts = [town.serve(channel) for _ in range(3)] + [town.serve(other)]
    town.settler().run_once(is_forced=True)
    town.mine()
    convict(town, verb, fault, receipts[1])
    settle(town)
    assert {receipt_id(s.receipt) for s in settled(town)} == {
        receipt_id(s.receipt) for s in (receipts[0], receipts[3])
    }
    skipped = town.settler().run_once(is_forced=True).skipped[channel]
    assert f"convicted by {verb} ({fault.name.lower()}) in batch 1" in skipped
    assert receipt_id(receipts[1].receipt) in skipped
    town.sign_voucher(channel, receipts[2].receipt.cumulative, waived_until=receipts[1].receipt.cumulative)
    settle(town)
    assert settled(town)[-1] == receipts[2]


def test_with_a_held_session_key_the_payer_is_spared_what_was_convicted(town: Town) -> None:
    channel = town.market.channels[0]
    town.grant(channel, cap=10**9)
    receipts = [town.serve(channel, is_paid=False) for _ in range(3)]
    town.settler().run_once(is_forced=True)
    town.mine()
    convict(town, "badReceipt", Fault.VERSION, receipts[1])
    settle(town)
    assert settled(town) == [receipts[0], receipts[2]]
    paid = 10**12 - town.chain.channel_by_id[channel].balance
    assert paid == receipts[0].receipt.charge + receipts[2].receipt.charge


def test_a_convicted_receipt_stays_aside_when_other_batches_are_final(town: Town) -> None:
    channel, other = town.market.channels[:2]
    town.serve(other)
    guilty = town.serve(channel)
    town.settler().run_once(is_forced=True)
    town.mine()
    convict(town, "badReceipt", Fault.LIST, guilty)
    settle(town)
    town.chain.time += 60
    town.settler().run_once()
    assert town.mine() == 1
    assert town.chain.final == 1
    settle(town)
    assert receipt_id(guilty.receipt) not in {receipt_id(s.receipt) for s in settled(town)}


def test_a_void_that_falls_out_of_the_chain_clears_what_it_convicted(town: Town) -> None:
    receipts = settle_batches(town, 1, answers=3)
    fork = town.chain.fork()
    convict(town, "badReceipt", Fault.PRICE, receipts[0])
    settle(town)
    town.chain.return_to(fork)
    settle(town)
    town.chain.void_from(1)
    settle(town)
    assert_all_settled(town, receipts)


def equivocate(town: Town, guilty: int, function: str) -> Settler:
    """Convict the newest batch by a receipt that overlaps with its receipt `guilty`."""
    town.chain.void_from(1, "equivocation")
    batch = town.chain.committed[-1]
    assert batch.voiding is not None
    args = {"header": batch.header, "opening": {"index": str(guilty)}}
    call = {"contract": "Disputes", "function": function, "args": args}
    town.chain.calls[batch.voiding.tx_hash] = call
    return town.settler()


def test_the_receipt_of_an_equivocation_is_found_in_its_transaction(town: Town) -> None:
    channel, other = town.market.channels[:2]
    receipts = [town.serve(channel), town.serve(other)]
    town.settler().run_once(is_forced=True)
    town.mine()
    equivocate(town, 1, "equivocation")
    settle(town)
    assert settled(town) == receipts[:1]


def test_all_receipts_are_suspect_when_the_evidence_of_an_equivocation_is_not_seen(town: Town) -> None:
    channel, other = town.market.channels[:2]
    town.serve(channel)
    town.settler().run_once(is_forced=True)
    town.mine()
    late = town.serve(other)
    equivocate(town, 0, "somethingElse")
    settle(town)
    assert settled(town) == [late]


@pytest.mark.parametrize(
    ("verb", "fault"),
    [("wrongEntry", None), ("wrongBalance", None), ("zeroLeaf", None), ("badReceipt", Fault.PLACE)],
)
def test_what_would_be_built_again_as_it_was_convicted_is_not_committed(
    town: Town, verb: str, fault: Fault | None
) -> None:
    settle_batches(town, 2)
    town.chain.void_from(2, verb, fault, None if fault is None else 0)
    settle(town)
    town.serve()
    progress = town.settler().run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert f"batch 2 was convicted by {verb}" in progress.reason
    assert town.chain.unrefunded() == []
    assert [b.number for b in town.chain.standing()] == [1]
    assert town.mine() == 0


def test_trees_that_we_would_not_build_so_may_be_built_rightly(town: Town) -> None:
    """As when the batch that was convicted came from software that has been mended since."""
    receipts = settle_batches(town, 1)
    wrong = town.chain.committed[0]
    header = dict(wrong.header) | {"entriesRoot": some_hash("another root")}
    batch_hash = Header.from_chain(header).hash
    town.chain.committed[0] = replace(wrong, header=header, hash=batch_hash)
    town.chain._spans_of[batch_hash] = town.chain._spans_of.pop(wrong.hash)
    town.chain.void_from(1, "wrongEntry")
    settle(town)
    assert_all_settled(town, receipts)


def test_nothing_is_settled_while_the_data_of_a_convicted_batch_cannot_be_read(town: Town) -> None:
    (guilty,) = settle_batches(town, 1, answers=1)
    convict(town, "badReceipt", Fault.PRICE, guilty)
    town.settler().run_once(is_forced=True)
    town.mine()
    header = dict(town.chain.committed[0].header) | {"dataDigest": some_hash("nowhere")}
    town.chain.committed[0] = replace(town.chain.committed[0], header=header)
    progress = town.settler().run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert "cannot be read" in progress.reason


def test_a_receipt_that_no_receipt_key_signed_is_not_settled(town: Town) -> None:
    channel, other = town.market.channels[:2]
    good = town.serve(other)
    honest = town.market.serve(channel)
    forged = Key("somebody else").sign(town.market.domain.receipt_digest(honest.receipt))
    town.store(replace(honest, signature=forged))
    town.sign_voucher(channel, honest.receipt.cumulative)
    progress = town.settler().run_once(is_forced=True)
    assert "no receipt key" in progress.skipped[channel]
    town.mine()
    assert settled(town) == [good]


def test_what_a_bad_receipt_holds_up_does_not_crowd_out_other_channels(town: Town) -> None:
    channel, other = town.market.channels[:2]
    honest = town.market.serve(channel)
    town.store(replace(honest, signature=Key("somebody else").sign(bytes(32))))
    for _ in range(4):
        town.serve(channel)
    good = town.serve(other)
    settler = town.settler(pace=replace(town.settler().pace, receipts=3))
    settler.run_once(is_forced=True)
    town.mine()
    assert settled(town) == [good]


def test_a_batch_under_an_open_demand_is_not_finalised_and_those_before_it_are(town: Town) -> None:
    settle_batches(town, 3)
    held = town.chain.standing()[1]
    demand = Demand(held.hash, Tree.ENTRIES, (1,), some_account("challenger"), 1, 1)
    town.chain.demanded = [Demanded(demand.id, held.operator, demand, (0,), 0, 1)]
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
