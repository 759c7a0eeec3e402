"""Signing in with a contract wallet (EIP-1271), on a real chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.chain.contract_wallets import WalletCalls
from backend.chain.keys import local_account, recover
from backend.domain.errors import InvalidInput, Unauthenticated, Unavailable
from backend.domain.hashing import keccak
from backend.domain.sign_in_message import personal_digest
from backend.services.accounts.sessions import Sessions
from backend.services.accounts.sign_in import SignIn, SignInPolicy
from backend.services.transactions.consent import Consent
from tests.support.contract_wallets import ACCEPTS_ALL, DISHONEST, owned_by, place
from tests.support.fakes import ORIGIN, FakeClock
from tests.support.market import CHAIN_ID, some_account

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.db.unit_of_work import Database

OWNER, OTHER = local_account(3), local_account(4)
WALLET = some_account("contract wallet")
DIGEST = keccak(b"something to sign")


@pytest.fixture
def wallets(hardhat_node: LocalNode, chain: ChainClient) -> Iterator[WalletCalls]:
    """Calls to contract wallets, on a chain that is reverted after the test."""
    found = WalletCalls.connect(hardhat_node.url)
    yield found
    found.close()


@pytest.fixture
def sessions(sqlite_database: Database) -> Sessions:
    return Sessions(sqlite_database, FakeClock())


@pytest.fixture
def sign_in(sqlite_database: Database, sessions: Sessions, wallets: WalletCalls) -> SignIn:
    consent, policy = Consent(recover, wallets), SignInPolicy((ORIGIN,), CHAIN_ID)
    return SignIn(sqlite_database, sessions, consent, FakeClock(), policy)


def test_a_contract_wallet_signs_in_by_its_owners_signature(
    chain: ChainClient, sign_in: SignIn, sessions: Sessions
) -> None:
    place(chain.node, WALLET, owned_by(OWNER.account))
    message = sign_in.challenge(WALLET).message
    with pytest.raises(Unauthenticated, match="EIP-1271") as caught:
        sign_in.sign_in(message, OTHER.sign(personal_digest(message)))
    assert caught.value.param == "signature"
    tokens = sign_in.sign_in(message, OWNER.sign(personal_digest(message)))
    assert sessions.of(tokens.access).account == WALLET


def test_a_wallet_with_a_new_owner_refuses_the_old_one(chain: ChainClient, sign_in: SignIn) -> None:
    message = sign_in.challenge(WALLET).message
    signature = OWNER.sign(personal_digest(message))
    place(chain.node, WALLET, owned_by(OTHER.account))
    with pytest.raises(Unauthenticated):
        sign_in.sign_in(message, signature)


def test_an_account_without_code_signs_with_its_key_only(sign_in: SignIn) -> None:
    message = sign_in.challenge(WALLET).message
    with pytest.raises(Unauthenticated, match=f"{OWNER.account} signed, not {WALLET}"):
        sign_in.sign_in(message, OWNER.sign(personal_digest(message)))
    with pytest.raises(InvalidInput, match="malformed"):
        sign_in.sign_in(message, "0x1234")


def test_an_account_with_delegated_code_keeps_its_keys_signatures(
    chain: ChainClient, sign_in: SignIn, sessions: Sessions
) -> None:
    """EIP-7702: the account's code only validates signatures that its key did not make."""
    place(chain.node, OWNER.account, DISHONEST["reverts"])
    message = sign_in.challenge(OWNER.account).message
    tokens = sign_in.sign_in(message, OWNER.sign(personal_digest(message)))
    assert sessions.of(tokens.access).account == OWNER.account


@pytest.mark.parametrize("code", DISHONEST.values(), ids=DISHONEST)
def test_only_the_exact_magic_value_is_a_valid_signature(
    chain: ChainClient, wallets: WalletCalls, code: str
) -> None:
    place(chain.node, WALLET, code)
    assert wallets.accepts(WALLET, DIGEST, "0x" + "11" * 65) is False


@pytest.mark.parametrize("num_bytes", [0, 1, 64, 66, 8192])
def test_a_contract_signature_has_any_form_up_to_the_size_limit(
    chain: ChainClient, wallets: WalletCalls, num_bytes: int
) -> None:
    place(chain.node, WALLET, ACCEPTS_ALL)
    assert wallets.accepts(WALLET, DIGEST, "0x" + "22" * num_bytes) is True


@pytest.mark.parametrize("signature", ["0x" + "22" * 8193, "0xzz", "\ud800"])
def test_malformed_contract_signatures_are_refused(
    chain: ChainClient, wallets: WalletCalls, signature: str
) -> None:
    place(chain.node, WALLET, ACCEPTS_ALL)
    with pytest.raises(InvalidInput):
        wallets.accepts(WALLET, DIGEST, signature)


def test_an_unreachable_chain_is_a_retryable_error() -> None:
    wallets = WalletCalls.connect("http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="not reachable"):
        wallets.accepts(WALLET, DIGEST, "0x")
    wallets.close()
