"""Receipts that a batch selects from each channel, by vouchers, session keys, balances and waivers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.money import PPM, UNIT
from backend.services.settle.select import Authority, Selection, _ChannelReceipts
from backend.services.settle.settler import Step
from tests.support.market import Key
from tests.support.model_chain import THAW_SECONDS
from tests.support.settlement_steps import assert_all_settled, settle, settled

if TYPE_CHECKING:
    from backend.domain.ids import ChannelId
    from tests.support.settlement_harness import SettlementHarness


def test_a_held_session_key_signs_for_exactly_what_is_collected(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    receipts = [harness.serve(channel, is_paid=False) for _ in range(3)]
    assert harness.settler().run_once(is_forced=True).skipped.keys() == {channel}
    harness.grant(channel, cap=10**9)
    settle(harness)
    assert_all_settled(harness, receipts)


def test_no_more_is_collected_than_voucher_or_cap_allow(harness: SettlementHarness) -> None:
    first, second = harness.market.channels[:2]
    for channel in (first, second):
        one = harness.serve(channel, is_paid=False)
        harness.serve(channel, is_paid=False)
        if channel == first:
            harness.sign_voucher(channel, one.receipt.cumulative)
        else:
            harness.grant(channel, one.receipt.cumulative + 1)
    assert harness.settler().run_once(is_forced=True).skipped.keys() == {first, second}
    harness.mine()
    assert len(settled(harness)) == 2
    assert harness.unsettled() == 2


def test_a_voucher_that_promises_more_than_its_key_may_does_not_hide_the_payers_own(
    harness: SettlementHarness,
) -> None:
    channel, session = harness.market.channels[0], Key("kept by the payer")
    harness.grant(channel, cap=1, key=session)
    receipts = [harness.serve(channel, is_paid=False)]
    harness.sign_voucher(channel, 1 << 127, signer=session)
    harness.sign_voucher(channel, receipts[0].receipt.cumulative)
    settle(harness)
    assert_all_settled(harness, receipts)


def test_many_keys_of_a_payer_do_not_multiply_the_work(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, tried = harness.market.channels[0], []
    select = _ChannelReceipts.select

    def counted(self: _ChannelReceipts, authority: Authority) -> Selection:
        tried.append(authority)
        return select(self, authority)

    monkeypatch.setattr(_ChannelReceipts, "select", counted)
    receipts = [harness.serve(channel, is_paid=False) for _ in range(3)]
    for number in range(20):
        key = Key(f"kept by the payer {number}")
        harness.grant(channel, cap=10**9, key=key)
        harness.sign_voucher(channel, receipts[number % 3].receipt.cumulative, signer=key)
    settle(harness, rounds=1)
    assert len(tried) == 1
    assert_all_settled(harness, receipts)


@pytest.mark.parametrize("end", ["expiry", "revoked_at"])
def test_a_session_key_whose_thaw_is_over_does_not_stand_before_a_live_one(
    harness: SettlementHarness, end: str
) -> None:
    channel = harness.market.channels[0]
    over = {end: harness.chain.time - THAW_SECONDS - 1}
    harness.grant(channel, cap=10**9 + 1, key=harness.old_session_key, **over)
    harness.grant(channel, cap=10**9)
    receipts = [harness.serve(channel, is_paid=False)]
    settle(harness)
    assert_all_settled(harness, receipts)


@pytest.mark.parametrize("end", ["expiry", "revoked_at"])
def test_a_session_key_serves_for_collection_until_its_thaw_is_over(
    harness: SettlementHarness, end: str
) -> None:
    channel = harness.market.channels[0]
    harness.grant(channel, cap=10**9, **{end: harness.chain.time - THAW_SECONDS})
    receipts = [harness.serve(channel, is_paid=False)]
    settle(harness, rounds=1)
    assert_all_settled(harness, receipts)


def test_no_more_is_collected_than_the_channel_holds(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    one = harness.serve(channel)
    harness.serve(channel)
    held = replace(harness.chain.channel_by_id[channel], balance=one.receipt.charge)
    harness.chain.channel_by_id[channel] = held
    assert "balance" in harness.settler().run_once(is_forced=True).skipped[channel]
    harness.mine()
    assert settled(harness) == [one]


def test_a_charge_that_the_stake_does_not_cover_holds_up_no_other_channel(harness: SettlementHarness) -> None:
    receipts = sorted(map(harness.serve, harness.market.channels), key=lambda signed: signed.receipt.charge)
    *others, large = receipts
    cover(harness, large.receipt.charge - 1)
    skipped: dict[ChannelId, str] = {}
    for _ in others:  # the stake may cover one only
        skipped |= harness.settler().run_once(is_forced=True).skipped
        harness.mine()
        cover(harness, large.receipt.charge - 1)
    assert {signed.receipt.channel_id for signed in settled(harness)} == set(harness.market.channels) - {
        large.receipt.channel_id
    }
    assert "operator join" in skipped[large.receipt.channel_id]
    cover(harness, large.receipt.charge)
    settle(harness)
    assert_all_settled(harness, receipts)


def test_the_receipts_of_a_channel_are_collected_as_far_as_the_stake_covers_them(
    harness: SettlementHarness,
) -> None:
    channel = harness.market.channels[0]
    *receipts, last = [harness.serve(channel) for _ in range(4)]
    covered = sum(signed.receipt.charge for signed in receipts)
    assert last.receipt.charge <= covered, "the stake would cover the last one alone"
    cover(harness, covered)
    assert harness.settler().run_once(is_forced=True).step is Step.COMMITTING
    harness.mine()
    assert settled(harness) == receipts
    assert harness.settler().run_once(is_forced=True).step is Step.IDLE
    cover(harness, last.receipt.charge)
    settle(harness)
    assert_all_settled(harness, [*receipts, last])


def cover(harness: SettlementHarness, amount: int) -> None:
    """Have the stake cover exactly so much more: one token unit of stake for each micro-unit."""
    harness.chain.sets[-1] = replace(harness.chain.sets[-1], stake_cover_ppm=PPM * UNIT)
    harness.chain.cover = UNIT * (harness.chain.pot + amount)


def test_a_lost_receipt_stops_its_channel_until_the_payer_waives_it(harness: SettlementHarness) -> None:
    channel, other = harness.market.channels[:2]
    lost = harness.market.serve(channel)
    kept = harness.serve(channel)
    harness.serve(other)
    progress = harness.settler().run_once(is_forced=True)
    assert "its cumulative is 0" in progress.skipped[channel]
    harness.mine()
    assert {s.receipt.channel_id for s in settled(harness)} == {other}
    most = kept.receipt.cumulative
    harness.sign_voucher(channel, most, waived_until=lost.receipt.cumulative)
    settle(harness)
    assert settled(harness)[-1] == kept
    assert harness.chain.channel_by_id[channel].balance == 10**12 - kept.receipt.charge


def test_a_bad_receipt_holds_up_only_the_rest_of_its_channel(harness: SettlementHarness) -> None:
    channel, other = harness.market.channels[:2]
    good = [harness.serve(channel), harness.serve(other)]
    honest = harness.market.serve(channel)
    wrong = replace(honest.receipt, prompt_tokens=honest.receipt.prompt_tokens + 1)
    harness.store(harness.market.sign(wrong, honest.slices))
    after = harness.serve(channel)
    assert "charge" in harness.settler().run_once(is_forced=True).skipped[channel]
    harness.mine()
    assert settled(harness) == sorted(good, key=lambda s: s.receipt.channel_id)
    harness.sign_voucher(channel, after.receipt.cumulative, waived_until=wrong.cumulative)
    settle(harness)
    assert settled(harness)[-1] == after


def test_a_receipt_that_no_receipt_key_signed_is_not_settled(harness: SettlementHarness) -> None:
    channel, other = harness.market.channels[:2]
    good = harness.serve(other)
    honest = harness.market.serve(channel)
    forged = Key("another key").sign(harness.market.domain.receipt_digest(honest.receipt))
    harness.store(replace(honest, signature=forged))
    harness.sign_voucher(channel, honest.receipt.cumulative)
    progress = harness.settler().run_once(is_forced=True)
    assert "no receipt key" in progress.skipped[channel]
    harness.mine()
    assert settled(harness) == [good]


def test_a_channel_blocked_by_a_bad_receipt_does_not_displace_other_channels(
    harness: SettlementHarness,
) -> None:
    channel, other = harness.market.channels[:2]
    honest = harness.market.serve(channel)
    harness.store(replace(honest, signature=Key("another key").sign(bytes(32))))
    for _ in range(4):
        harness.serve(channel)
    good = harness.serve(other)
    settler = harness.settler(pace=replace(harness.settler().pace, receipts=3))
    settler.run_once(is_forced=True)
    harness.mine()
    assert settled(harness) == [good]
