"""Settlement of channels some of whose charges have no receipt yet."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Conflict, Unavailable
from backend.domain.hashing import receipt_id
from backend.services.settle.settler import Step
from tests.support.market import Key, recover
from tests.support.settlement_steps import (
    CrashingDatabase,
    SimulatedCrash,
    assert_all_settled,
    settle,
    settled,
)

if TYPE_CHECKING:
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
