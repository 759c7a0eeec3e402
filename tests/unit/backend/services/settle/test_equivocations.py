"""Receipts that another one contradicts are held until a key is retired."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from backend.db.tables.serving import ReceiptRow
from backend.domain.disputes.witnesses import receipt_abi
from backend.domain.errors import Conflict
from backend.domain.hashing import receipt_id
from backend.domain.money import AMOUNT
from tests.support.market import Key, some_hash
from tests.support.settlement_steps import assert_all_settled, settle, settled

if TYPE_CHECKING:
    from backend.domain.receipt import Receipt, SignedReceipt
    from tests.support.settlement_harness import SettlementHarness


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
