"""Settlement of channels some of whose charges have no receipt yet."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.disputes.witnesses import Fault
from backend.domain.errors import Conflict, Unavailable
from backend.domain.hashing import receipt_id
from backend.services.settle.settler import Step
from tests.support.market import Key, recover
from tests.support.settlement_steps import (
    CrashingDatabase,
    SimulatedCrash,
    assert_all_settled,
    convict,
    settle,
    settled,
)

if TYPE_CHECKING:
    from backend.domain.ids import ReceiptId
    from backend.domain.receipt import SignedReceipt
    from tests.support.settlement_harness import SettlementHarness

SECONDS = 60


def test_a_batch_ends_before_the_first_charge_without_a_receipt(harness: SettlementHarness) -> None:
    channel, other = harness.market.channels[:2]
    before, elsewhere = harness.serve(channel), harness.serve(other)
    waiting, after = harness.charge(channel, SECONDS), harness.serve(channel)
    settle(harness)
    ids = {receipt_id(signed.receipt) for signed in settled(harness)}
    assert ids == {receipt_id(signed.receipt) for signed in (before, elsewhere)}
    harness.chain.time += SECONDS
    settle(harness)
    assert_all_settled(harness, [before, elsewhere, waiting, after])


def test_what_waits_behind_a_charge_is_not_due(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    harness.charge(channel, SECONDS)
    harness.serve(channel)
    harness.chain.time += SECONDS // 2
    assert harness.settler().run_once().step is Step.IDLE


def test_overdue_receipts_are_signed_while_a_batch_is_pending(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    harness.serve(channel)
    harness.settler().run_once(is_forced=True)
    waiting = harness.charge(channel, SECONDS)
    harness.chain.time += SECONDS
    assert harness.settler().run_once().step is Step.WAITING
    with harness.read() as tx:
        assert tx.receipts.get(receipt_id(waiting.receipt)) is not None


def test_the_next_key_signs_receipts_whose_charges_a_retired_key_signed(harness: SettlementHarness) -> None:
    channel, following = harness.market.channels[0], Key("next receipt key")
    waiting, after = harness.charge(channel, SECONDS), harness.serve(channel)
    harness.chain.keys = [following.account]
    harness.chain.retired = {harness.market.receipt_key.account: harness.chain.time}
    harness.chain.time += SECONDS
    harness.settler(receipt_key=lambda _: following).run_once(is_forced=True)
    harness.mine()
    assert_all_settled(harness, [waiting, after])
    digests = [harness.market.domain.receipt_digest(signed.receipt) for signed in settled(harness)]
    signers = {recover(d, s.signature) for d, s in zip(digests, settled(harness), strict=True)}
    assert signers == {following.account}


def test_a_void_and_a_charge_behind_it_are_settled_again_in_order(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    before = [harness.serve(channel) for _ in range(2)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    waiting, after = harness.charge(channel, SECONDS), harness.serve(channel)
    harness.chain.convict(1)
    settle(harness)
    harness.chain.time += SECONDS
    settle(harness)
    assert_all_settled(harness, [*before, waiting, after])


def test_charges_behind_a_quarantined_receipt_wait_until_it_is_waived(harness: SettlementHarness) -> None:
    channel, other = harness.market.channels[:2]
    guilty = harness.serve(channel)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    waiting, after, elsewhere = harness.charge(channel, SECONDS), harness.serve(channel), harness.serve(other)
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    settle(harness)
    harness.chain.time += SECONDS
    settle(harness)
    assert ids_of(settled(harness)) == ids_of([elsewhere])
    assert is_signed(harness, waiting)
    harness.sign_voucher(channel, after.receipt.cumulative, waived_until=guilty.receipt.cumulative)
    settle(harness)
    assert ids_of(settled(harness)) == ids_of([elsewhere, waiting, after])


def test_a_reorganisation_that_drops_the_batch_before_a_charge_loses_neither(
    harness: SettlementHarness,
) -> None:
    channel = harness.market.channels[0]
    fork, before = harness.chain.fork(), harness.serve(channel)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    waiting, after = harness.charge(channel, SECONDS), harness.serve(channel)
    harness.chain.return_to(fork)
    assert harness.chain.standing() == []
    harness.chain.time += SECONDS
    settle(harness)
    assert_all_settled(harness, [before, waiting, after])


def test_a_charge_that_a_reorganisation_leaves_uncovered_is_signed_and_not_settled(
    harness: SettlementHarness,
) -> None:
    channel, other = harness.market.channels[:2]
    before, waiting = harness.serve(channel), harness.charge(channel, SECONDS)
    covered = before.receipt.charge + waiting.receipt.charge - 1
    known = harness.chain.channel_by_id
    funded, known[channel] = known[channel], replace(known[channel], balance=covered)  # a deposit is dropped
    elsewhere = harness.serve(other)
    harness.chain.time += SECONDS
    settle(harness)
    assert ids_of(settled(harness)) == ids_of([before, elsewhere])
    assert is_signed(harness, waiting)
    collected = known[channel].collected
    known[channel] = replace(funded, balance=funded.balance - collected, collected=collected)  # mined again
    settle(harness)
    assert_all_settled(harness, [before, elsewhere, waiting])


def ids_of(receipts: list[SignedReceipt]) -> set[ReceiptId]:
    return {receipt_id(signed.receipt) for signed in receipts}


def is_signed(harness: SettlementHarness, charged: SignedReceipt) -> bool:
    with harness.read() as tx:
        return tx.receipts.get(receipt_id(charged.receipt)) is not None


def test_a_void_is_refunded_while_no_key_can_sign_an_overdue_receipt(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    harness.serve(channel)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    harness.charge(channel, SECONDS)
    harness.chain.convict(1)
    harness.chain.time += SECONDS

    def no_key(_: object) -> Key:
        raise Unavailable("every receipt key is retired")

    assert harness.settler(receipt_key=no_key).run_once().step is Step.REFUNDING


def test_an_unsigned_charge_cannot_be_in_a_batch(harness: SettlementHarness) -> None:
    waiting = harness.charge(harness.market.channels[0], SECONDS)
    with pytest.raises(Conflict), harness.begin() as tx:
        tx.receipts.assign(harness.market.operator, 1, [receipt_id(waiting.receipt)])


@pytest.mark.parametrize("at", range(1, 25))
def test_a_crash_at_any_step_loses_no_charge(harness: SettlementHarness, at: int) -> None:
    channel = harness.market.channels[0]
    receipts = [harness.serve(channel), harness.charge(channel, SECONDS), harness.serve(channel)]
    harness.chain.time += SECONDS
    with suppress(SimulatedCrash):
        harness.settler(db=CrashingDatabase(harness, [at])).run_once(is_forced=True)
    harness.mine()
    settle(harness)
    assert_all_settled(harness, receipts)
