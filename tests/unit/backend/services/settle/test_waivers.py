"""Payers waive convicted receipts, so that those behind them are settled."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from backend.domain.disputes.witnesses import Fault
from backend.domain.errors import Conflict, Unavailable
from backend.domain.money import AMOUNT
from backend.services.channels.balance import channel_balance
from backend.services.settle.convictions import Convictions
from tests.support.settlement_steps import convict, settle, settled

if TYPE_CHECKING:
    from backend.domain.ids import ChannelId
    from backend.services.channels.balance import ChannelBalance
    from tests.support.settlement_harness import SettlementHarness


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
