"""What a conviction teaches: receipts set aside, trees not built again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.batch import Header
from backend.domain.disputes.witnesses import Fault
from backend.domain.errors import Conflict
from backend.domain.hashing import receipt_id
from backend.services.settle.settler import Settler, Step
from tests.support.market import some_hash
from tests.support.settling import assert_all_settled, settle, settle_batches, settled

if TYPE_CHECKING:
    from backend.domain.receipt import SignedReceipt
    from tests.support.town import Town


def convict(town: Town, proof: str, fault: Fault, guilty: SignedReceipt) -> None:
    """Of a receipt in the newest batch."""
    batch = town.chain.standing()[-1]
    ids = [receipt_id(signed.receipt) for signed in settled(town)]
    index = ids.index(receipt_id(guilty.receipt))
    town.chain.void_from(batch.number, proof, fault, index)


@pytest.mark.parametrize(
    ("proof", "fault"), [("proveBadReceipt", Fault.PRICE), ("proveBadPosition", Fault.POSITION)]
)
def test_a_convicted_receipt_is_set_aside_and_holds_up_only_the_rest_of_its_channel(
    town: Town, proof: str, fault: Fault
) -> None:
    channel, other = town.market.channels[:2]
    receipts = [town.serve(channel) for _ in range(3)] + [town.serve(other)]
    town.settler().run_once(is_forced=True)
    town.mine()
    convict(town, proof, fault, receipts[1])
    settle(town)
    assert {receipt_id(s.receipt) for s in settled(town)} == {
        receipt_id(s.receipt) for s in (receipts[0], receipts[3])
    }
    skipped = town.settler().run_once(is_forced=True).skipped[channel]
    assert f"convicted by {proof} ({fault.name.lower()}) in batch 1" in skipped
    assert receipt_id(receipts[1].receipt) in skipped
    town.sign_voucher(channel, receipts[2].receipt.cumulative, waived_until=receipts[1].receipt.cumulative)
    settle(town)
    assert settled(town)[-1] == receipts[2]


def test_a_payer_who_signs_vouchers_can_waive_what_was_convicted_and_nothing_else(town: Town) -> None:
    channel = town.market.channels[0]
    receipts = [town.serve(channel) for _ in range(3)]
    town.settler().run_once(is_forced=True)
    town.mine()
    convict(town, "proveBadReceipt", Fault.PRICE, receipts[1])
    settle(town)
    first, second, third = (signed.receipt.cumulative for signed in receipts)
    payer, channels = town.market.payer_of[channel].account, town.channels()
    waiver = town.signed_voucher(channel, third, waived_until=second)
    with pytest.raises(Conflict, match="settled") as refused:  # what is not final may come back
        channels.add_voucher(payer, waiver)
    assert refused.value.details == {"settled": "0", "waivable": "0"}
    town.chain.time += 60
    town.settler().finalise()
    town.mine()
    with pytest.raises(Conflict) as refused:
        channels.add_voucher(payer, town.signed_voucher(channel, third, waived_until=second + 1))
    assert refused.value.details == {"settled": str(first), "waivable": str(second)}
    channels.add_voucher(payer, waiver)
    settle(town)
    assert settled(town)[-1] == receipts[2]


def test_with_a_held_session_key_the_payer_is_spared_what_was_convicted(town: Town) -> None:
    channel = town.market.channels[0]
    town.grant(channel, cap=10**9)
    receipts = [town.serve(channel, is_paid=False) for _ in range(3)]
    town.settler().run_once(is_forced=True)
    town.mine()
    convict(town, "proveBadReceipt", Fault.VERSION, receipts[1])
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
    convict(town, "proveBadReceipt", Fault.LIST, guilty)
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
    convict(town, "proveBadReceipt", Fault.PRICE, receipts[0])
    settle(town)
    town.chain.return_to(fork)
    settle(town)
    town.chain.void_from(1)
    settle(town)
    assert_all_settled(town, receipts)


def equivocate(town: Town, guilty: int, function: str) -> Settler:
    """Convict the newest batch by a receipt that overlaps with its receipt `guilty`."""
    town.chain.void_from(1, "proveEquivocation")
    batch = town.chain.committed[-1]
    assert batch.conviction is not None
    args = {"header": batch.header, "opening": {"index": str(guilty)}}
    call = {"contract": "Disputes", "function": function, "args": args}
    town.chain.calls[batch.conviction.tx_hash] = call
    return town.settler()


def test_the_receipt_of_an_equivocation_is_found_in_its_transaction(town: Town) -> None:
    channel, other = town.market.channels[:2]
    receipts = [town.serve(channel), town.serve(other)]
    town.settler().run_once(is_forced=True)
    town.mine()
    equivocate(town, 1, "proveEquivocation")
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
    ("proof", "fault"),
    [
        ("proveWrongEntry", None),
        ("proveWrongBalance", None),
        ("proveZeroLeaf", None),
        ("proveBadReceipt", Fault.PLACE),
    ],
)
def test_what_would_be_built_again_as_it_was_convicted_is_not_committed(
    town: Town, proof: str, fault: Fault | None
) -> None:
    settle_batches(town, 2)
    town.chain.void_from(2, proof, fault, None if fault is None else 0)
    settle(town)
    town.serve()
    progress = town.settler().run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert f"batch 2 was convicted by {proof}" in progress.reason
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
    town.chain.void_from(1, "proveWrongEntry")
    settle(town)
    assert_all_settled(town, receipts)


def test_nothing_is_settled_while_the_data_of_a_convicted_batch_cannot_be_read(town: Town) -> None:
    (guilty,) = settle_batches(town, 1, answers=1)
    convict(town, "proveBadReceipt", Fault.PRICE, guilty)
    town.settler().run_once(is_forced=True)
    town.mine()
    header = dict(town.chain.committed[0].header) | {"dataDigest": some_hash("nowhere")}
    town.chain.committed[0] = replace(town.chain.committed[0], header=header)
    progress = town.settler().run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert "cannot be read" in progress.reason
