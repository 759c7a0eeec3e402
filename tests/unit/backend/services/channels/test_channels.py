from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.channels import Grant
from backend.domain.errors import Conflict, Forbidden
from backend.domain.voucher import SignedVoucher, Voucher
from backend.services.channels.ledger import InsufficientAuthorisation
from tests.support.admission import available, settle
from tests.support.fakes import some_key
from tests.support.scripted_installation import EXPIRY

if TYPE_CHECKING:
    from backend.services.channels.admission import Payer
    from tests.support.scripted_installation import ScriptedInstallation


def voucher(installation: ScriptedInstallation, signer: str, ceiling: int, waived: int = 0) -> SignedVoucher:
    unsigned = Voucher(installation.channel, waived, ceiling)
    signature = some_key(signer).sign(installation.vault_domain.voucher_digest(unsigned))
    return SignedVoucher(unsigned, signature)


def test_a_voucher_of_the_payer_authorises(any_installation: ScriptedInstallation, payer: Payer) -> None:
    installation = any_installation
    installation.fund(100, cap=0)
    channels = installation.services.channels
    channels.add_voucher(payer.account, voucher(installation, "payer", 40))
    assert available(installation) == 40
    with pytest.raises(Conflict):
        channels.add_voucher(payer.account, voucher(installation, "payer", 40))
    channels.add_voucher(payer.account, voucher(installation, "payer", 60))
    assert available(installation) == 60
    with installation.begin() as tx:
        (latest,) = tx.channels.vouchers(installation.channel)
    assert latest.signed.voucher.max_cumulative == 60


def test_a_smaller_voucher_does_not_replace_a_larger_one(
    any_installation: ScriptedInstallation, payer: Payer
) -> None:
    """Else a payer could lower, after it is served, what the operator may collect."""
    installation = any_installation
    installation.fund(100, cap=0)
    channels = installation.services.channels
    channels.add_voucher(payer.account, voucher(installation, "payer", 60))
    reservation = installation.admission.reserve(payer, 60)
    settle(installation, payer, reservation, 60)
    with pytest.raises(Conflict, match="already stored"):
        channels.add_voucher(payer.account, voucher(installation, "payer", 5))
    with installation.begin() as tx:
        (latest,) = tx.channels.vouchers(installation.channel)
    assert latest.signed.voucher.max_cumulative == 60


def test_a_voucher_of_a_session_key_authorises_no_more_than_its_cap(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    """The vault refuses to collect more."""
    installation.fund(100, cap=0)
    session = some_key("session key of the client").account
    installation.view.granted[installation.channel].append(
        Grant(installation.channel, session, cap=10, expiry=EXPIRY, revoked_at=None)
    )
    signed = voucher(installation, "session key of the client", 90)
    installation.services.channels.add_voucher(payer.account, signed)
    assert available(installation) == 10
    with pytest.raises(InsufficientAuthorisation):
        installation.admission.reserve(payer, 11)
    installation.admission.reserve(payer, 10)


def test_a_voucher_of_a_stranger_is_refused(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(100)
    with pytest.raises(Forbidden):
        installation.services.channels.add_voucher(payer.account, voucher(installation, "thief", 40))


def test_a_voucher_that_waives_unpaid_answers_is_refused(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(100, collected=10)
    channels = installation.services.channels
    with pytest.raises(Conflict):
        channels.add_voucher(payer.account, voucher(installation, "payer", 200, waived=11))
    channels.add_voucher(payer.account, voucher(installation, "payer", 200, waived=10))


def test_a_voucher_that_waives_nothing_reads_no_history(
    installation: ScriptedInstallation, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.fund(100, cap=0)
    monkeypatch.delattr(type(installation.view), "settled")
    installation.services.channels.add_voucher(payer.account, voucher(installation, "payer", 40))
    assert available(installation) == 40


def test_a_voucher_may_waive_only_what_no_refund_can_bring_back(
    installation: ScriptedInstallation, payer: Payer
) -> None:
    installation.fund(100, collected=10)
    installation.view.settled_lines[installation.channel] = 4
    channels = installation.services.channels
    with pytest.raises(Conflict, match=r"settled up to 0\.000000000004 dollars"):
        channels.add_voucher(payer.account, voucher(installation, "payer", 200, waived=5))
    channels.add_voucher(payer.account, voucher(installation, "payer", 200, waived=4))
