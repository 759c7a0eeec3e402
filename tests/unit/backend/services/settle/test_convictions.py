"""Effects of a conviction: receipts are quarantined, and the same trees are not built again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from sqlalchemy import update

from backend.db.tables.serving import ReceiptRow
from backend.domain.batch import Header
from backend.domain.disputes.witnesses import Fault, receipt_abi
from backend.domain.errors import Conflict, Unavailable
from backend.domain.hashing import receipt_id
from backend.domain.money import AMOUNT
from backend.services.channels.balance import channel_balance
from backend.services.settle.convictions import Convictions
from backend.services.settle.settler import Step
from tests.support.market import Key, some_hash
from tests.support.settlement_steps import assert_all_settled, settle, settle_batches, settled

if TYPE_CHECKING:
    from backend.domain.ids import ChannelId
    from backend.domain.receipt import Receipt, SignedReceipt
    from backend.services.channels.balance import ChannelBalance
    from tests.support.settlement_harness import SettlementHarness


def convict(harness: SettlementHarness, proof: str, fault: Fault, guilty: SignedReceipt) -> None:
    """Convict the newest batch by a fault of one of its receipts."""
    batch = harness.chain.standing()[-1]
    ids = [receipt_id(signed.receipt) for signed in settled(harness)]
    index = ids.index(receipt_id(guilty.receipt))
    harness.chain.convict(batch.number, proof, fault, index)


@pytest.mark.parametrize(
    ("proof", "fault"), [("proveBadReceipt", Fault.PRICE), ("proveBadPosition", Fault.POSITION)]
)
def test_a_convicted_receipt_is_quarantined_and_blocks_only_the_rest_of_its_channel(
    harness: SettlementHarness, proof: str, fault: Fault
) -> None:
    channel, other = harness.market.channels[:2]
    receipts = [harness.serve(channel) for _ in range(3)] + [harness.serve(other)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, proof, fault, receipts[1])
    settle(harness)
    assert {receipt_id(s.receipt) for s in settled(harness)} == {
        receipt_id(s.receipt) for s in (receipts[0], receipts[3])
    }
    skipped = harness.settler().run_once(is_forced=True).skipped[channel]
    assert f"convicted by {proof} ({fault.name.lower()}) in batch 1" in skipped
    assert receipt_id(receipts[1].receipt) in skipped
    harness.sign_voucher(channel, receipts[2].receipt.cumulative, waived_until=receipts[1].receipt.cumulative)
    settle(harness)
    assert settled(harness)[-1] == receipts[2]


def test_a_payer_who_signs_vouchers_can_waive_what_was_convicted_and_nothing_else(
    harness: SettlementHarness,
) -> None:
    channel = harness.market.channels[0]
    receipts = [harness.serve(channel) for _ in range(3)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.PRICE, receipts[1])
    settle(harness)
    first, second, third = (signed.receipt.cumulative for signed in receipts)
    payer, channels = harness.market.payer_of[channel].account, harness.channels()
    waiver = harness.signed_voucher(channel, third, waived_until=second)
    with pytest.raises(Conflict, match="settled") as refused:  # what is not final may come back
        channels.add_voucher(payer, waiver)
    assert refused.value.details == {"settled": AMOUNT.render(0), "waivable": AMOUNT.render(0)}
    harness.chain.time += 60
    harness.settler().finalise()
    harness.mine()
    with pytest.raises(Conflict) as refused:
        channels.add_voucher(payer, harness.signed_voucher(channel, third, waived_until=second + 1))
    assert refused.value.details == {"settled": AMOUNT.render(first), "waivable": AMOUNT.render(second)}
    channels.add_voucher(payer, waiver)
    with pytest.raises(Conflict, match="have to waive them too") as refused:
        channels.add_voucher(payer, harness.signed_voucher(channel, third + 1, waived_until=0))
    assert refused.value.details == {"waivable": AMOUNT.render(second)}
    channels.add_voucher(payer, harness.signed_voucher(channel, third + 1, waived_until=second))
    settle(harness)
    assert settled(harness)[-1] == receipts[2]
    harness.chain.time += 60
    harness.settler().finalise()
    harness.mine()
    channels.add_voucher(payer, harness.signed_voucher(channel, third + 2, waived_until=0))


def test_a_payer_waives_what_was_convicted_before_it_is_refunded(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    first, guilty, later = (harness.serve(channel) for _ in range(3))
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    assert balance_of(harness, channel).authorised == later.receipt.cumulative
    harness.settler().run_once(is_forced=True)
    assert harness.chain.unrefunded()
    found = balance_of(harness, channel)
    assert (found.authorised, found.waive_until) == (0, guilty.receipt.cumulative)
    settle(harness)
    assert settled(harness) == [first]


def test_a_demand_stays_while_a_conviction_cannot_be_read(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = harness.market.channels[0]
    guilty, later = (harness.serve(channel) for _ in range(2))
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    settle(harness)
    assert balance_of(harness, channel).waive_until == guilty.receipt.cumulative
    for error in (Conflict("the data is lost"), Unavailable("the node is away")):
        with monkeypatch.context() as patch:
            patch.setattr(Convictions, "_find_quarantined", Mock(side_effect=error))
            with suppress(Unavailable):
                harness.settler().run_once(is_forced=True)
        assert balance_of(harness, channel).waive_until == guilty.receipt.cumulative
    harness.sign_voucher(channel, later.receipt.cumulative, waived_until=guilty.receipt.cumulative)
    settle(harness)
    assert settled(harness) == [later]


def test_two_runs_of_convicted_receipts_are_waived_one_after_the_other(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    receipts = []
    for _ in range(2):
        receipts += [harness.serve(channel) for _ in range(2)]
        harness.settler().run_once(is_forced=True)
        harness.mine()
    harness.chain.convict(2, "proveBadReceipt", Fault.PRICE, 0)
    settle(harness)
    harness.chain.convict(1, "proveBadReceipt", Fault.PRICE, 0)
    harness.settler().run_once(is_forced=True)
    assert balance_of(harness, channel).waive_until == receipts[0].receipt.cumulative
    settle(harness)
    found, first = balance_of(harness, channel), receipts[0].receipt
    assert (found.waive_until, found.convicted) == (first.cumulative, first.charge)
    end, last = first.cumulative, receipts[3].receipt.cumulative
    harness.sign_voucher(channel, last, waived_until=end)
    settle(harness)
    assert settled(harness) == [receipts[1]]
    assert balance_of(harness, channel).waive_until == receipts[2].receipt.cumulative


def test_a_stored_receipt_that_a_convicted_one_contradicts_is_held(harness: SettlementHarness) -> None:
    """As after a restore: the convicted receipt is public, with its signature."""
    channel, other = harness.market.channels[:2]
    lost, elsewhere = harness.serve(channel), harness.serve(other)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    stored = replace(lost, receipt=replace(lost.receipt, response_hash=some_hash("another answer")))
    stolen = harness.market.receipt_key
    signature = stolen.sign(harness.market.domain.receipt_digest(stored.receipt))
    stored = replace(stored, signature=signature)
    with harness.begin() as tx:
        number = receipt_id(lost.receipt)
        changes = {"id": receipt_id(stored.receipt), "response_hash": stored.receipt.response_hash}
        row = update(ReceiptRow).where(ReceiptRow.id == number)
        tx.session.execute(row.values(**changes, signature=signature))
    equivocate(harness, lost, stolen, forged=stored.receipt)
    settle(harness)
    assert settled(harness) == [elsewhere]
    retire(harness, stolen)
    settle(harness)
    assert [each.receipt for each in settled(harness)] == [elsewhere.receipt, stored.receipt]


def test_a_waiver_ends_where_a_convicted_answer_ends(harness: SettlementHarness) -> None:
    """Behind a part of an answer, no later one could be settled."""
    channel = harness.market.channels[0]
    guilty, later = (harness.serve(channel) for _ in range(2))
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    settle(harness)
    end, payer = guilty.receipt.cumulative, harness.market.payer_of[channel].account
    partial = harness.signed_voucher(channel, later.receipt.cumulative, waived_until=end - 1)
    with pytest.raises(Conflict, match="the end of an answer") as refused:
        harness.channels().add_voucher(payer, partial)
    assert refused.value.details["waivable"] == AMOUNT.render(end)
    harness.channels().add_voucher(payer, harness.signed_voucher(channel, later.receipt.cumulative, end))
    settle(harness)
    assert settled(harness) == [later]


def test_a_payer_who_signs_vouchers_gets_further_answers_once_it_waives_what_was_convicted(
    harness: SettlementHarness,
) -> None:
    channel, other = harness.market.channels[:2]
    guilty, later = (harness.serve(channel) for _ in range(2))
    harness.serve(other)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    fork = harness.chain.fork()
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    settle(harness)
    end, most = guilty.receipt.cumulative, later.receipt.cumulative + 7
    harness.sign_voucher(channel, most)
    found = balance_of(harness, channel)
    assert (found.authorised, found.waive_until) == (0, end)
    assert balance_of(harness, other).waive_until == 0
    harness.grant(channel, cap=most + 1)
    with harness.begin() as tx:
        tx.channels.add_held_key(channel, harness.session_key.account)
    assert balance_of(harness, channel).authorised == most + 1
    del harness.chain.grants_by_channel[channel]
    harness.sign_voucher(channel, most, waived_until=end)
    assert balance_of(harness, channel).authorised == most
    settle(harness)
    harness.sign_voucher(channel, most + 1)
    found = balance_of(harness, channel)
    assert (found.authorised, found.waive_until) == (most + 1, 0)
    harness.chain.return_to(fork)
    settle(harness)
    with harness.read() as tx:
        assert tx.channels.waivers() == {}


def balance_of(harness: SettlementHarness, channel: ChannelId) -> ChannelBalance:
    with harness.read() as tx:
        return channel_balance(tx, channel, datetime.fromtimestamp(harness.chain.time, UTC))


def test_with_a_held_session_key_the_payer_is_spared_what_was_convicted(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    harness.grant(channel, cap=10**9)
    receipts = [harness.serve(channel, is_paid=False) for _ in range(3)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.VERSION, receipts[1])
    settle(harness)
    assert settled(harness) == [receipts[0], receipts[2]]
    paid = 10**12 - harness.chain.channel_by_id[channel].balance
    assert paid == receipts[0].receipt.charge + receipts[2].receipt.charge


def test_a_convicted_receipt_that_no_other_follows_is_not_due(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    first, guilty = (harness.serve(channel) for _ in range(2))
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    settle(harness)
    assert settled(harness) == [first]
    with harness.read() as tx:
        assert tx.receipts.backlogs(harness.market.operator) == []
    assert harness.settler().run_once(is_forced=True).step is Step.IDLE


def test_a_convicted_receipt_stays_quarantined_when_other_batches_are_final(
    harness: SettlementHarness,
) -> None:
    channel, other = harness.market.channels[:2]
    harness.serve(other)
    guilty = harness.serve(channel)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.LIST, guilty)
    settle(harness)
    harness.chain.time += 60
    harness.settler().run_once()
    assert harness.mine() == 1
    assert harness.chain.final == 1
    settle(harness)
    assert receipt_id(guilty.receipt) not in {receipt_id(s.receipt) for s in settled(harness)}


def test_a_reorganised_void_clears_its_convictions(harness: SettlementHarness) -> None:
    receipts = settle_batches(harness, 1, answers=3)
    fork = harness.chain.fork()
    convict(harness, "proveBadReceipt", Fault.PRICE, receipts[0])
    settle(harness)
    harness.chain.return_to(fork)
    settle(harness)
    harness.chain.convict(1)
    settle(harness)
    assert_all_settled(harness, receipts)


def equivocate(
    harness: SettlementHarness,
    guilty: SignedReceipt,
    thief: Key,
    contract: str = "Disputes",
    forged: Receipt | None = None,
) -> None:
    """Convict the newest batch by a receipt that the thief of a key signs and that contradicts `guilty`."""
    harness.chain.convict(1, "proveEquivocation")
    batch = harness.chain.committed[-1]
    assert batch.conviction is not None
    forged = forged or replace(guilty.receipt, response_hash=some_hash("never said"))
    args = {
        "header": batch.header,
        "receipt": receipt_abi(guilty.receipt),
        "other": receipt_abi(forged),
        "signature": thief.sign(harness.market.domain.receipt_digest(forged)),
    }
    call = {"contract": contract, "function": "proveEquivocation", "args": args}
    harness.chain.calls[batch.conviction.tx_hash] = call


def retire(harness: SettlementHarness, *keys: Key) -> None:
    """Retire receipt keys; the operator's next one is registered in the newest block."""
    next_key = Key("next receipt key")
    harness.chain.keys.append(harness.market.receipt_key.account)
    harness.chain.added_at[next_key.account] = harness.chain.height
    harness.market.receipt_key = next_key
    harness.chain.retired |= {key.account: harness.chain.time for key in keys}
    harness.chain.time += 1


def test_receipts_that_a_stolen_key_convicted_are_settled_again_once_it_is_retired(
    harness: SettlementHarness,
) -> None:
    """Until then they are held: a session key that the gateway holds waives nothing of them."""
    channel, other = harness.market.channels[:2]
    harness.grant(channel, cap=10**9)
    receipts = [harness.serve(channel, is_paid=False) for _ in range(2)] + [harness.serve(other)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    stolen = harness.market.receipt_key
    equivocate(harness, receipts[0], stolen)
    settle(harness)
    assert settled(harness) == receipts[2:]
    skipped = harness.settler().run_once(is_forced=True).skipped[channel]
    assert f"`loraledger operator rotate-key {stolen.account}`" in skipped
    retire(harness, stolen)
    settle(harness)
    assert_all_settled(harness, receipts)


def test_all_receipts_that_the_evidence_contradicts_are_held(harness: SettlementHarness) -> None:
    """Each would be convicted by the same signature, and cost a part of the stake."""
    channel, other = harness.market.channels[:2]
    first, *rest = receipts = [harness.serve(channel) for _ in range(3)]
    elsewhere = harness.serve(other)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    later = harness.serve(channel)
    stolen, end = harness.market.receipt_key, rest[-1].receipt.cumulative
    whole = replace(rest[-1].receipt, charge=end - first.receipt.cumulative)
    equivocate(harness, rest[-1], stolen, forged=whole)
    settle(harness)
    assert settled(harness) == [first, elsewhere]
    retire(harness, stolen)
    settle(harness)
    assert_all_settled(harness, [*receipts, elsewhere, later])


def test_a_payer_cannot_waive_what_is_held(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    first, second = (harness.serve(channel) for _ in range(2))
    harness.settler().run_once(is_forced=True)
    harness.mine()
    equivocate(harness, first, harness.market.receipt_key)
    settle(harness)
    payer = harness.market.payer_of[channel].account
    waiver = harness.signed_voucher(channel, second.receipt.cumulative, first.receipt.cumulative)
    with pytest.raises(Conflict) as refused:
        harness.channels().add_voucher(payer, waiver)
    assert refused.value.details["waivable"] == AMOUNT.render(0)


def test_all_receipts_are_held_when_the_evidence_of_an_equivocation_is_not_seen(
    harness: SettlementHarness,
) -> None:
    """Any key of that time may have signed it, so that all of them are to be retired."""
    channel, other = harness.market.channels[:2]
    harness.grant(channel, cap=10**9)
    spare, stolen = Key("spare receipt key"), harness.market.receipt_key
    harness.chain.keys.append(spare.account)
    first = harness.serve(channel, is_paid=False)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    late = harness.serve(other)
    equivocate(harness, first, spare, "somethingElse")
    settle(harness)
    assert settled(harness) == [late]
    retire(harness, stolen)
    settle(harness)
    assert receipt_id(first.receipt) not in {receipt_id(s.receipt) for s in settled(harness)}
    harness.chain.retired[spare.account] = harness.chain.time
    harness.chain.time += 1
    settle(harness)
    assert_all_settled(harness, [first, late])


@pytest.mark.parametrize(
    ("proof", "fault"),
    [
        ("proveWrongEntry", None),
        ("proveWrongBalance", None),
        ("proveBelowClaimed", None),
        ("proveZeroLeaf", None),
        ("proveBadReceipt", Fault.PLACE),
    ],
)
def test_a_batch_equal_to_a_convicted_one_is_not_committed(
    harness: SettlementHarness, proof: str, fault: Fault | None
) -> None:
    settle_batches(harness, 2)
    harness.chain.convict(2, proof, fault, None if fault is None else 0)
    settle(harness)
    harness.serve()
    progress = harness.settler().run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert f"batch 2 was convicted by {proof}" in progress.reason
    assert harness.chain.unrefunded() == []
    assert harness.chain.standing() == []
    assert harness.mine() == 0


def test_trees_that_we_would_not_build_so_may_be_built_rightly(harness: SettlementHarness) -> None:
    """The convicted batch was built by software that has since been fixed."""
    receipts = settle_batches(harness, 1)
    wrong = harness.chain.committed[0]
    header = dict(wrong.header) | {"entriesRoot": some_hash("another root")}
    batch_hash = Header.from_chain(header).hash
    harness.chain.committed[0] = replace(wrong, header=header, hash=batch_hash)
    harness.chain._spans_of[batch_hash] = harness.chain._spans_of.pop(wrong.hash)
    harness.chain.convict(1, "proveWrongEntry")
    settle(harness)
    assert_all_settled(harness, receipts)


def test_nothing_is_settled_while_the_data_of_a_convicted_batch_cannot_be_read(
    harness: SettlementHarness,
) -> None:
    (guilty,) = settle_batches(harness, 1, answers=1)
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    header = dict(harness.chain.committed[0].header) | {"dataDigest": some_hash("nowhere")}
    harness.chain.committed[0] = replace(harness.chain.committed[0], header=header)
    harness.serve()
    progress = harness.settler().run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert "cannot be read" in progress.reason


def test_a_receipt_that_the_convicting_call_names_is_quarantined_without_the_data(
    harness: SettlementHarness,
) -> None:
    guilty, other = (harness.serve(channel) for channel in harness.market.channels[:2])
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    batch = harness.chain.committed[0]
    assert batch.conviction is not None
    witness = {"receipt": receipt_abi(guilty.receipt)}
    harness.settler().run_once(is_forced=True)
    harness.mine()
    header = dict(batch.header) | {"dataDigest": some_hash("nowhere")}
    batch_hash = Header.from_chain(header).hash
    conviction = replace(batch.conviction, convicted=batch_hash)
    lost = replace(harness.chain.committed[0], header=header, hash=batch_hash, conviction=conviction)
    call = {"contract": "Disputes", "function": "proveBadReceipt"}
    harness.chain.calls[conviction.tx_hash] = call | {"args": {"header": header, "witness": witness}}
    harness.chain.committed[0] = lost
    harness.chain._spans_of[batch_hash] = harness.chain._spans_of.pop(batch.hash)
    settle(harness)
    assert settled(harness) == [other]
