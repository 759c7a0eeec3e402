from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.chain.keys import recover
from backend.domain.errors import Unauthenticated, Unavailable
from backend.domain.hashing import receipt_id
from backend.domain.money import AMOUNT
from backend.domain.serving import NO_WAIVER, Waiver
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.channels.admission import Admission, Payer
from backend.services.channels.balance import ViewStale
from backend.services.channels.ledger import (
    InsufficientAuthorisation,
    InsufficientBalance,
    ReservationLost,
    SpendCapReached,
    WaiverRequired,
)
from backend.services.operator.receipt_keys import NoReceiptKey
from tests.support.admission import available, bill, settle
from tests.support.fakes import EXPIRY, NOW, some_key

if TYPE_CHECKING:
    from backend.ports.keys import Signer
    from tests.support.scripted_installation import ScriptedInstallation


def test_nothing_runs_without_a_deposit(installation: ScriptedInstallation, payer: Payer) -> None:
    with pytest.raises(InsufficientBalance) as caught:
        installation.admission.reserve(payer, 10)
    assert caught.value.details["missing"] == {
        "balance": AMOUNT.render(10),
        "authorisation": AMOUNT.render(10),
    }
    assert caught.value.details["required"] == AMOUNT.render(10)


def test_the_last_unit_can_be_reserved_and_no_more(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100)
    installation.admission.reserve(payer, 60)
    with pytest.raises(InsufficientBalance) as caught:
        installation.admission.reserve(payer, 41)
    assert caught.value.details["missing"] == {"balance": AMOUNT.render(1), "authorisation": AMOUNT.render(1)}
    assert caught.value.details["available"] == AMOUNT.render(40)
    installation.admission.reserve(payer, 40)


def test_a_free_answer_needs_no_channel(installation: ScriptedInstallation, payer: Payer) -> None:
    reservation = installation.admission.reserve(payer, 0)
    assert settle(installation, payer, reservation, 0) == 0


def test_thawing_money_does_not_count(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100, thawing=70)
    with pytest.raises(InsufficientBalance) as caught:
        installation.admission.reserve(payer, 31)
    assert caught.value.details["thawing"] == AMOUNT.render(70)
    installation.admission.reserve(payer, 30)


def test_the_session_cap_is_a_ceiling_on_the_cumulative(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(1000, cap=50)
    settle(installation, payer, installation.admission.reserve(payer, 30), 30)
    with pytest.raises(InsufficientAuthorisation) as caught:
        installation.admission.reserve(payer, 21)
    assert caught.value.details["missing"] == {"authorisation": AMOUNT.render(1)}


def test_a_revoked_or_expired_session_ends_at_once(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100)
    installation.revoke_session()
    with pytest.raises(InsufficientAuthorisation):
        installation.admission.reserve(payer, 1)
    installation.fund(100)
    installation.clock.pass_seconds(EXPIRY - NOW.timestamp())
    with pytest.raises(InsufficientAuthorisation):
        installation.admission.reserve(payer, 1)


def test_a_key_that_the_gateway_does_not_hold_gives_no_credit(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(100)
    grants = installation.view.granted[installation.channel]
    foreign = some_key("client's own").account
    installation.view.granted[installation.channel] = [replace(grant, key=foreign) for grant in grants]
    with pytest.raises(InsufficientAuthorisation):
        installation.admission.reserve(payer, 1)


def test_vouchers_that_leave_a_convicted_answer_unwaived_authorise_nothing(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(1000, cap=50)
    channel = installation.channel
    for waived_until in (0, 30, 40):
        with installation.db.begin() as tx:
            tx.channels.demand_waivers({channel: Waiver(0, 40)})
            voucher = SignedVoucher(Voucher(channel, waived_until, 500), "0x" + "11" * 65)
            tx.channels.put_voucher(ClientVoucher(voucher, payer.account))
        installation.admission.reserve(payer, 10)  # by the session key that the gateway holds
        if waived_until == 40:
            installation.admission.reserve(payer, 60)
            return
        with pytest.raises(WaiverRequired, match="waived_until") as caught:
            installation.admission.reserve(payer, 60)
        assert caught.value.details["waivable"] == AMOUNT.render(40)


def test_what_was_convicted_takes_nothing_of_the_balance(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(1000, cap=5000)
    settle(installation, payer, installation.admission.reserve(payer, 900), 900)
    with installation.db.begin() as tx:
        tx.channels.demand_waivers({installation.channel: Waiver(100, 900)})
    assert available(installation) == 900
    with installation.db.begin() as tx:
        tx.channels.demand_waivers({installation.channel: NO_WAIVER})
    assert available(installation) == 100


def put(installation: ScriptedInstallation, **changes: int) -> None:
    known = installation.view.channels[installation.channel]
    installation.view.channels[installation.channel] = replace(known, **changes)


def test_neither_a_collection_nor_its_refund_changes_what_a_payer_may_spend(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(100)
    settle(installation, payer, installation.admission.reserve(payer, 60), 60)
    assert available(installation) == 40
    put(installation, balance=40, collected=60, max_collected=60)
    assert available(installation) == 40
    put(installation, balance=100, collected=0)
    assert available(installation) == 40
    with pytest.raises(InsufficientBalance):
        installation.admission.reserve(payer, 41)
    assert settle(installation, payer, installation.admission.reserve(payer, 40), 40) == 100


def test_after_a_refund_no_receipt_is_signed_over_money_that_one_was_signed_over(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(1000)
    put(installation, max_collected=500)  # collected, voided and refunded; the database is older
    reservation = installation.admission.reserve(payer, 100)
    assert settle(installation, payer, reservation, 7) == 507


def test_receipts_tile_the_line_in_the_order_they_end(
    any_installation: ScriptedInstallation, payer: Payer
) -> None:
    installation = any_installation
    installation.fund(100)
    first = installation.admission.reserve(payer, 50)
    second = installation.admission.reserve(payer, 50)
    assert settle(installation, payer, second, 20) == 20
    assert settle(installation, payer, first, 45) == 65
    assert available(installation) == 35


def test_collected_amounts_are_never_charged_again(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100, collected=500)  # as after a restore from an old backup
    reservation = installation.admission.reserve(payer, 100)
    assert settle(installation, payer, reservation, 7) == 507


def test_a_receipt_is_signed_by_the_receipt_key(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100)
    reservation = installation.admission.reserve(payer, 10)
    stored = installation.admission.charge(payer, reservation, bill(installation, 10))
    receipt = stored.signed.receipt
    digest = installation.domain.receipt_digest(receipt)
    assert recover(digest, stored.signed.signature) == installation.receipt_key.account
    assert stored.id == receipt_id(receipt)
    with installation.begin() as tx:
        kept = tx.receipts.get(stored.id)
    assert kept is not None
    assert kept.signed == stored.signed


def test_a_receipt_is_signed_by_the_key_that_is_in_use_when_it_is_charged(
    installation: ScriptedInstallation, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.fund(100)
    reservation = installation.admission.reserve(payer, 10)
    monkeypatch.setattr(installation, "receipt_key", following := some_key("next receipt key"))
    stored = installation.admission.charge(payer, reservation, bill(installation, 10))
    digest = installation.domain.receipt_digest(stored.signed.receipt)
    assert recover(digest, stored.signed.signature) == stored.signer == following.account
    with installation.begin() as tx:
        assert list(tx.receipts.signed_by_others(installation.operator, [following.account])) == []


def test_without_a_receipt_key_no_answer_starts(installation: ScriptedInstallation, payer: Payer) -> None:
    def none(_view: object) -> Signer:
        raise NoReceiptKey("every receipt key is retired")

    installation.fund(100)
    admission = Admission(installation.db, installation.counterparty, none, installation.clock, 900, 60)
    with pytest.raises(NoReceiptKey):
        asyncio.run(admission.reserve(payer, 10))
    with installation.read() as tx:
        assert tx.channels.reservations([installation.channel]) == []


def test_a_reservation_is_charged_once(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100)
    reservation = installation.admission.reserve(payer, 10)
    settle(installation, payer, reservation, 10)
    with pytest.raises(ReservationLost):
        settle(installation, payer, reservation, 10)


def test_reservations_of_a_killed_process_expire(
    any_installation: ScriptedInstallation, payer: Payer
) -> None:
    installation = any_installation
    installation.fund(100)
    lost = installation.admission.reserve(payer, 100)
    with pytest.raises(InsufficientBalance):
        installation.admission.reserve(payer, 1)
    installation.clock.pass_seconds(900)
    installation.admission.reserve(payer, 100)
    with pytest.raises(ReservationLost):
        settle(installation, payer, lost, 1)


def test_a_released_reservation_is_free_again(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100)
    installation.admission.release(installation.admission.reserve(payer, 100))
    assert available(installation) == 100


def test_an_answer_above_its_bound_is_not_charged(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100)
    reservation = installation.admission.reserve(payer, 10)
    with pytest.raises(ReservationLost):
        settle(installation, payer, reservation, 11)


def test_the_spend_cap_of_a_key_counts_running_answers(any_installation: ScriptedInstallation) -> None:
    installation = any_installation
    installation.fund(1000)
    key = installation.services.keys.create(installation.payer.account, "capped", spend_cap=50).key
    payer = Payer(installation.payer.account, key.id)
    running = installation.admission.reserve(payer, 30)
    with pytest.raises(SpendCapReached):
        installation.admission.reserve(payer, 21)
    settle(installation, payer, running, 10)
    installation.admission.reserve(payer, 40)
    with pytest.raises(SpendCapReached):
        installation.admission.reserve(payer, 1)


def test_a_key_revoked_in_between_does_not_reserve(installation: ScriptedInstallation) -> None:
    installation.fund(1000)
    keys = installation.services.keys
    key = keys.create(installation.payer.account, "old").key
    keys.revoke(installation.payer.account, key.id)
    with pytest.raises(Unauthenticated):
        installation.admission.reserve(Payer(installation.payer.account, key.id), 1)


def test_a_signer_out_of_reach_fails_its_answer_and_no_other(
    installation: ScriptedInstallation, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.fund(100)
    first, second = installation.admission.reserve(payer, 10), installation.admission.reserve(payer, 10)
    sign, answers = installation.receipt_key.sign, iter([None])

    def out_of_reach_at_first(digest: bytes) -> str:
        if next(answers, sign) is None:
            raise Unavailable("the key service is away")
        return sign(digest)

    monkeypatch.setattr(installation.receipt_key, "sign", out_of_reach_at_first)
    with pytest.raises(Unavailable):
        settle(installation, payer, first, 4)
    assert settle(installation, payer, second, 4) == 4
    assert settle(installation, payer, first, 4) == 8


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    balance=st.integers(0, 200),
    cap=st.integers(0, 200),
    steps=st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["settle", "release", "hold"])), max_size=8),
)
def test_charged_and_reserved_never_exceed_what_was_signed_or_paid_in(
    installation: ScriptedInstallation, balance: int, cap: int, steps: list[tuple[int, str]]
) -> None:
    payer = Payer(some_key(f"payer {balance} {cap} {steps}").account)
    installation.payer = some_key(f"payer {balance} {cap} {steps}")
    installation.channel = installation.counterparty.channel(payer.account)
    installation.fund(balance, cap)
    for amount, end in steps:
        try:
            reservation = installation.admission.reserve(payer, amount)
        except (InsufficientBalance, InsufficientAuthorisation):
            continue
        if end == "settle":
            settle(installation, payer, reservation, amount // 2)
        elif end == "release":
            installation.admission.release(reservation)
        found = installation.services.channels.get(payer.account, installation.channel).balance
        assert found.charged + found.reserved <= min(balance, cap)


def test_nothing_is_kept_while_the_view_of_the_chain_is_stale(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(100)
    installation.view.lag_seconds = 61
    for refused in (installation.admission.reserve, installation.admission.check):
        with pytest.raises(ViewStale) as caught:
            refused(payer, 1)
        assert caught.value.details["lag_seconds"] == 61
    installation.view.lag_seconds = 60
    assert installation.admission.reserve(payer, 1)


def test_a_reservation_is_charged_although_the_view_became_stale(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(100)
    reservation = installation.admission.reserve(payer, 10)
    installation.view.lag_seconds = 3600
    assert settle(installation, payer, reservation, 10) == 10


def test_a_session_that_has_expired_by_the_chains_clock_is_over(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(100)
    installation.view.lag_seconds = int(NOW.timestamp()) - EXPIRY
    with pytest.raises(InsufficientAuthorisation):
        installation.admission.reserve(payer, 1)


def test_a_glance_keeps_nothing(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100)
    installation.admission.check(payer, 100)
    assert available(installation) == 100
    with pytest.raises(InsufficientBalance):
        installation.admission.check(payer, 101)
