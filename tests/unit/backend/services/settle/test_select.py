"""What a batch takes from each channel, by vouchers, session keys, balances and waivers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.market import Key
from tests.support.model_chain import THAW_SECONDS
from tests.support.settling import assert_all_settled, settle, settled

if TYPE_CHECKING:
    from tests.support.town import Town


def test_a_held_session_key_signs_for_exactly_what_is_collected(town: Town) -> None:
    channel = town.market.channels[0]
    receipts = [town.serve(channel, is_paid=False) for _ in range(3)]
    assert town.settler().run_once(is_forced=True).skipped.keys() == {channel}
    town.grant(channel, cap=10**9)
    settle(town)
    assert_all_settled(town, receipts)


def test_no_more_is_collected_than_voucher_or_cap_allow(town: Town) -> None:
    first, second = town.market.channels[:2]
    for channel in (first, second):
        one = town.serve(channel, is_paid=False)
        town.serve(channel, is_paid=False)
        if channel == first:
            town.sign_voucher(channel, one.receipt.cumulative)
        else:
            town.grant(channel, one.receipt.cumulative + 1)
    assert town.settler().run_once(is_forced=True).skipped.keys() == {first, second}
    town.mine()
    assert len(settled(town)) == 2
    assert town.unsettled() == 2


def test_a_voucher_that_promises_more_than_its_key_may_does_not_hide_the_payers_own(town: Town) -> None:
    channel, session = town.market.channels[0], Key("kept by the payer")
    town.grant(channel, cap=1, key=session)
    receipts = [town.serve(channel, is_paid=False)]
    town.sign_voucher(channel, 1 << 127, signer=session)
    town.sign_voucher(channel, receipts[0].receipt.cumulative)
    settle(town)
    assert_all_settled(town, receipts)


def test_a_session_key_whose_thaw_is_over_does_not_stand_before_a_live_one(town: Town) -> None:
    channel = town.market.channels[0]
    town.grant(channel, cap=10**9, key=town.old_session_key, expiry=town.chain.time - THAW_SECONDS - 1)
    town.grant(channel, cap=10**9)
    receipts = [town.serve(channel, is_paid=False)]
    settle(town)
    assert_all_settled(town, receipts)


def test_a_session_key_serves_for_collection_until_its_thaw_is_over(town: Town) -> None:
    channel = town.market.channels[0]
    town.grant(channel, cap=10**9, expiry=town.chain.time - THAW_SECONDS)
    receipts = [town.serve(channel, is_paid=False)]
    settle(town, rounds=1)
    assert_all_settled(town, receipts)


def test_no_more_is_collected_than_the_channel_holds(town: Town) -> None:
    channel = town.market.channels[0]
    one = town.serve(channel)
    town.serve(channel)
    held = replace(town.chain.channel_by_id[channel], balance=one.receipt.charge)
    town.chain.channel_by_id[channel] = held
    assert "balance" in town.settler().run_once(is_forced=True).skipped[channel]
    town.mine()
    assert settled(town) == [one]


def test_a_lost_receipt_stops_its_channel_until_the_payer_waives_it(town: Town) -> None:
    channel, other = town.market.channels[:2]
    lost = town.market.serve(channel)
    kept = town.serve(channel)
    town.serve(other)
    progress = town.settler().run_once(is_forced=True)
    assert "its cumulative is 0" in progress.skipped[channel]
    town.mine()
    assert {s.receipt.channel_id for s in settled(town)} == {other}
    most = kept.receipt.cumulative
    town.sign_voucher(channel, most, waived_until=lost.receipt.cumulative)
    settle(town)
    assert settled(town)[-1] == kept
    assert town.chain.channel_by_id[channel].balance == 10**12 - kept.receipt.charge


def test_a_bad_receipt_holds_up_only_the_rest_of_its_channel(town: Town) -> None:
    channel, other = town.market.channels[:2]
    good = [town.serve(channel), town.serve(other)]
    honest = town.market.serve(channel)
    wrong = replace(honest.receipt, prompt_tokens=honest.receipt.prompt_tokens + 1)
    town.store(town.market.sign(wrong, honest.slices))
    after = town.serve(channel)
    assert "charge" in town.settler().run_once(is_forced=True).skipped[channel]
    town.mine()
    assert settled(town) == sorted(good, key=lambda s: s.receipt.channel_id)
    town.sign_voucher(channel, after.receipt.cumulative, waived_until=wrong.cumulative)
    settle(town)
    assert settled(town)[-1] == after


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
