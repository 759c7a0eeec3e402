"""Changes of payout wallets, by signature and by transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data

from backend.chain.sending.sender import Sender
from backend.domain.chain import Reverted
from backend.domain.ids import ZERO_ACCOUNT
from backend.services.accounts.claims import NothingToClaim
from backend.services.accounts.payouts import Payouts
from tests.support.fakes import FakeClaims
from tests.support.market import some_account
from tests.support.relays import relays_of
from tools.local_market import CONTRIBUTORS, OPERATOR

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database

ACCOUNT, COLD = CONTRIBUTORS[0], some_account("cold wallet")


@pytest.fixture
def payouts(chain: ChainClient, sqlite_database: Database) -> Payouts:
    claims: Any = FakeClaims()  # 45 units
    return Payouts(chain, claims, relays_of(sqlite_database, chain, OPERATOR.account))


def test_a_signature_changes_the_wallet_and_the_account_pays_no_gas(
    payouts: Payouts, chain: ChainClient, sqlite_database: Database
) -> None:
    assert payouts.wallet_of(ACCOUNT.account) == ACCOUNT.account
    prepared = payouts.prepare(ACCOUNT.account, COLD)
    assert prepared.transaction.decoded["function"] == "setPayoutWallet"
    signature = ACCOUNT.sign(_hash_eip191_message(encode_typed_data(full_message=prepared.typed_data)))
    terms = (prepared.nonce, prepared.deadline, signature)
    with pytest.raises(Reverted):
        payouts.relay(ACCOUNT.account, OPERATOR.account, *terms, min_units=10)
    queued = payouts.relay(ACCOUNT.account, COLD, *terms, min_units=10)
    assert payouts.relay(ACCOUNT.account, COLD, *terms, min_units=10) == queued
    sender = Sender(chain, sqlite_database.send_queue, {OPERATOR.account: OPERATOR}.get, 0)
    for _ in range(2):
        sender.run_once()
    assert payouts.wallet_of(ACCOUNT.account) == COLD
    assert payouts.relay(ACCOUNT.account, COLD, *terms, min_units=10) == queued, (
        "sent again after it was mined"
    )
    assert payouts.prepare(ACCOUNT.account, ZERO_ACCOUNT).nonce == prepared.nonce + 1


def test_refused_changes_and_low_earnings_are_reported_before_anything_is_sent(
    payouts: Payouts, chain: ChainClient
) -> None:
    with pytest.raises(Reverted) as refused:
        payouts.prepare(ACCOUNT.account, chain.address("PaymentVault"))
    assert refused.value.error == "InvalidWallet"
    with pytest.raises(NothingToClaim):
        payouts.relay(ACCOUNT.account, COLD, 0, 0, "0x", min_units=46)
