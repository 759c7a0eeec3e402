"""Deposits on a real chain: sent by the payer, and relayed with a signature."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data

from backend.chain.client import ChainClient
from backend.chain.indexer import Indexer
from backend.chain.keys import local_account, recover
from backend.chain.node import Fees
from backend.chain.sending.sender import Sender
from backend.chain.transactions import UnsignedTransaction, sign
from backend.domain.chain import Reverted
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.hashing import TypedDomain, to_bytes
from backend.domain.money import UNIT
from backend.domain.transactions import TransactionState
from backend.domain.voucher import SignedVoucher, Voucher
from backend.services.channels.admission import Admission, Counterparty, Payer
from backend.services.channels.channels import Channels
from backend.services.channels.deposits import (
    MIN_RELAYED_UNITS,
    ChannelEmpty,
    Deposits,
    InsufficientTokens,
    SessionGrant,
    SessionTerms,
)
from backend.services.channels.ledger import InsufficientAuthorisation
from tests.support.contract_wallets import owned_by, place
from tests.support.fakes import FakeHeldKeys, some_key
from tests.support.market import some_account, some_hash
from tests.support.relays import relays_of

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Account
    from backend.domain.transactions import ChainTransaction, PreparedTransaction
    from backend.services.channels.balance import ChannelBalance
    from backend.services.channels.deposits import PreparedDeposit

OPERATOR, PAYER = local_account(1), local_account(7)
CONFIRMATIONS = 2
UNITS = 3_000_000
EXPIRY = 4_000_000_000


STATES_NONE = frozenset({"eip712Domain", "version"})
"""Functions that a token may lack and still sign."""
TAKES_NONE = frozenset({"authorizationState"})


class LimitedToken(ChainClient):
    """The chain as it would be if the payment token lacked these functions."""

    lacks: frozenset[str] = frozenset()

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        if contract == "PaymentToken" and function in self.lacks:
            raise Reverted(f"no {function}")
        return super().call(contract, function, *args, block=block)


class DepositHarness:
    """The services of deposits on a deployed market; the test sends, mines and indexes."""

    def __init__(self, chain: ChainClient, deployment: Deployment, database: Database) -> None:
        self.chain, self.database = chain, database
        self.held_keys = FakeHeldKeys()
        settlement = chain.address("Settlement")
        counterparty = Counterparty(OPERATOR.account, settlement, TypedDomain(chain.chain_id, settlement))
        self.vouchers = TypedDomain(chain.chain_id, chain.address("PaymentVault"))

        def clock() -> datetime:
            return datetime.fromtimestamp(chain.head().timestamp, UTC)

        relays = relays_of(database, chain, OPERATOR.account)
        self.deposits = Deposits(database, chain, counterparty, relays, self.held_keys, clock)
        self.channels = Channels(database, counterparty, self.vouchers, recover, clock, lambda _: ())
        self.admission = Admission(database, counterparty, lambda _: some_key("receipts"), clock, 900, 60)
        self.sender = Sender(chain, database.send_queue, {OPERATOR.account: OPERATOR}.get, CONFIRMATIONS)
        self.indexer = Indexer(chain, database.event_log, deployment, CONFIRMATIONS)

    def send(self, prepared: PreparedTransaction) -> None:
        """As the payer's wallet would."""
        node = self.chain.node
        unsigned = UnsignedTransaction(
            chain_id=prepared.chain_id,
            nonce=node.num_transactions(PAYER.account),
            to=prepared.to,
            data=to_bytes(prepared.data),
            gas=prepared.gas or 500_000,
            fees=Fees(10**11, 10**9),
            value=prepared.value,
        )
        signed = sign(PAYER, unsigned)
        node.broadcast(signed.raw)
        found = node.tx_receipt(signed.hash)
        assert found is not None
        assert found.is_success

    def settle_down(self) -> None:
        """Everything queued is sent, confirmed and indexed."""
        for _ in range(3):
            self.sender.run_once()
            self.chain.node.rpc.request("hardhat_mine", hex(CONFIRMATIONS))
        self.indexer.catch_up()

    def transaction(self, number: int) -> ChainTransaction:
        with self.database.read() as tx:
            return tx.transactions.get(number)

    def balance(self) -> ChannelBalance:
        return self.channels.list(PAYER.account)[0].balance


@pytest.fixture
def harness(chain: ChainClient, deployment: Deployment, sqlite_database: Database) -> DepositHarness:
    return DepositHarness(chain, deployment, sqlite_database)


def on_public_record(chain: ChainClient, lacks: frozenset[str] = frozenset()) -> LimitedToken:
    """With the token under the name that the record of a public market has for it."""
    addresses = dict(chain.deployment.addresses)
    addresses["PaymentToken"] = addresses.pop("TestUSD")
    client = LimitedToken(chain.node, replace(chain.deployment, addresses=addresses))
    client.lacks = lacks
    return client


def signed(prepared: PreparedDeposit) -> str:
    digest = _hash_eip191_message(encode_typed_data(full_message=prepared.typed_data))
    return PAYER.sign(digest)


def test_a_wallet_deposits_in_two_transactions(harness: DepositHarness) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY))
    approve, deposit = prepared.transactions
    assert (approve.decoded["function"], deposit.decoded["function"]) == ("approve", "deposit")
    for transaction in prepared.transactions:
        harness.send(transaction)
    harness.settle_down()
    assert harness.balance().balance == harness.balance().available == UNITS * UNIT
    (session,) = harness.channels.list(PAYER.account)[0].grants
    assert session.key in harness.held_keys.keys


def test_a_wallet_that_has_approved_deposits_in_one(harness: DepositHarness) -> None:
    vault = harness.chain.address("PaymentVault")
    harness.send(harness.chain.prepare("TestUSD", "approve", vault, UNITS, sender=PAYER.account))
    (deposit,) = harness.deposits.prepare(PAYER.account, UNITS, None).transactions
    assert deposit.gas is not None
    harness.send(deposit)


def test_a_relayed_deposit_costs_the_payer_one_signature(harness: DepositHarness) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY, cap=UNIT))
    number = harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    assert harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared)) == number
    harness.settle_down()
    assert harness.transaction(number).state is TransactionState.CONFIRMED
    assert harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared)) == number
    assert (harness.balance().balance, harness.balance().authorised) == (UNITS * UNIT, UNIT)
    asyncio.run(harness.admission.reserve(Payer(PAYER.account), UNIT))
    with pytest.raises(InsufficientAuthorisation):
        asyncio.run(harness.admission.reserve(Payer(PAYER.account), 1))


@pytest.mark.parametrize("lacks", [frozenset(), STATES_NONE])
def test_a_public_markets_token_is_deposited_by_signature(
    chain: ChainClient, sqlite_database: Database, lacks: frozenset[str]
) -> None:
    client = on_public_record(chain, lacks)
    harness = DepositHarness(client, client.deployment, sqlite_database)
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY))
    assert prepared.relay is not None
    number = harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    harness.settle_down()
    assert harness.transaction(number).state is TransactionState.CONFIRMED
    assert harness.balance().balance == UNITS * UNIT


def test_a_token_that_takes_no_signature_is_deposited_by_the_wallet_alone(
    chain: ChainClient, sqlite_database: Database
) -> None:
    client = on_public_record(chain, TAKES_NONE)
    harness = DepositHarness(client, client.deployment, sqlite_database)
    prepared = harness.deposits.prepare(PAYER.account, UNITS, None)
    assert (prepared.relay, prepared.typed_data) == (None, None)
    for transaction in prepared.transactions:
        harness.send(transaction)
    harness.settle_down()
    assert harness.balance().balance == UNITS * UNIT


def test_a_contract_wallet_deposits_by_its_owners_signature(harness: DepositHarness) -> None:
    """The token asks the wallet (EIP-1271), as USDC does."""
    wallet = some_account("contract wallet")
    place(harness.chain.node, wallet, owned_by(PAYER.account))
    harness.send(harness.chain.prepare("TestUSD", "mint", wallet, UNITS, sender=PAYER.account))
    prepared = harness.deposits.prepare(wallet, UNITS, None)
    assert prepared.relay is not None
    with pytest.raises(Reverted):
        harness.deposits.relay(wallet, prepared.relay, "0x" + "11" * 66)
    number = harness.deposits.relay(wallet, prepared.relay, signed(prepared))
    harness.settle_down()
    assert harness.transaction(number).state is TransactionState.CONFIRMED
    assert harness.channels.list(wallet)[0].balance.balance == UNITS * UNIT


@pytest.mark.parametrize("signature", ["", "0x", "0x1", "xx", "0x" + "11" * 4097])
def test_a_signature_that_is_no_hex_or_too_long_is_refused(harness: DepositHarness, signature: str) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, None)
    with pytest.raises(InvalidInput, match="signature must be hex"):
        harness.deposits.relay(PAYER.account, prepared.relay, signature)
    with pytest.raises(Reverted):
        harness.deposits.relay(PAYER.account, prepared.relay, "0x12")


def test_a_deposit_does_not_count_before_it_is_deep_enough(harness: DepositHarness) -> None:
    for transaction in harness.deposits.prepare(PAYER.account, UNITS, None).transactions:
        harness.send(transaction)
    harness.chain.node.rpc.request("hardhat_mine", hex(CONFIRMATIONS - 1))
    harness.indexer.catch_up()
    assert harness.balance().balance == 0
    harness.settle_down()
    assert harness.balance().balance == UNITS * UNIT


@pytest.mark.parametrize("field", ["units", "cap", "salt"])
def test_a_relayer_cannot_change_the_deposit(harness: DepositHarness, field: str) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY, cap=UNIT))
    relay = prepared.relay
    changed = {
        "units": replace(relay, units=UNITS + 1),
        "cap": replace(relay, grant=replace(relay.grant, cap=2 * UNIT)),
        "salt": replace(relay, salt=some_hash("another salt")),
    }[field]
    with pytest.raises(Reverted):
        harness.deposits.relay(PAYER.account, changed, signed(prepared))


def test_the_same_session_key_is_raised_by_a_signature(harness: DepositHarness) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY, cap=UNIT))
    harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    harness.settle_down()
    grant, nonce, message = harness.deposits.prepare_grant(PAYER.account, SessionTerms(EXPIRY))
    assert grant.key == prepared.relay.grant.key
    digest = _hash_eip191_message(encode_typed_data(full_message=message))
    harness.deposits.relay_grant(PAYER.account, grant, nonce, PAYER.sign(digest))
    harness.settle_down()
    assert harness.balance().authorised == UNITS * UNIT
    assert len(harness.held_keys.keys) == 1


def test_a_revoked_session_ends_and_the_next_has_another_key(harness: DepositHarness) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY))
    harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    harness.settle_down()
    transaction, _, _ = harness.deposits.prepare_revocation(PAYER.account, prepared.relay.grant.key)
    harness.send(transaction)
    harness.settle_down()
    assert harness.balance().authorised == 0
    grant, _, _ = harness.deposits.prepare_grant(PAYER.account, SessionTerms(EXPIRY))
    assert grant.key != prepared.relay.grant.key


def test_a_session_is_revoked_by_a_signature_too(harness: DepositHarness) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY))
    harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    harness.settle_down()
    key = prepared.relay.grant.key
    _, nonce, message = harness.deposits.prepare_revocation(PAYER.account, key)
    signature = PAYER.sign(_hash_eip191_message(encode_typed_data(full_message=message)))
    harness.deposits.relay_revocation(PAYER.account, key, nonce, signature)
    harness.settle_down()
    assert harness.balance().authorised == 0
    with pytest.raises(Reverted):
        harness.deposits.relay_revocation(PAYER.account, some_key("another").account, nonce, signature)


def test_a_client_that_keeps_its_session_key_sends_vouchers(harness: DepositHarness) -> None:
    own = some_key("client's own")
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY, key=own.account))
    harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    harness.settle_down()
    assert harness.held_keys.keys == {}
    assert harness.balance().authorised == 0
    voucher = Voucher(prepared.channel_id, 0, 5 * UNIT)
    signature = own.sign(harness.vouchers.voucher_digest(voucher))
    harness.channels.add_voucher(PAYER.account, SignedVoucher(voucher, signature))
    assert harness.balance().authorised == min(UNITS, 5) * UNIT


def test_what_thaws_cannot_be_spent(harness: DepositHarness) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY))
    harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    harness.settle_down()
    harness.send(harness.deposits.prepare_thaw(PAYER.account, 2 * UNIT))
    harness.settle_down()
    assert harness.balance().available == (UNITS - 2) * UNIT
    (shown,) = harness.channels.list(PAYER.account)
    on_chain = harness.chain.call("PaymentVault", "channelOf", shown.id)
    assert shown.thawed_at == on_chain["thawedAt"] > 0
    with pytest.raises(Reverted, match="StillThawing"):
        harness.deposits.prepare_withdrawal(PAYER.account)


def test_deposits_and_sessions_that_make_no_sense_are_refused(harness: DepositHarness) -> None:
    for units in (0, 1 << 128):
        with pytest.raises(InvalidInput) as caught:
            harness.deposits.prepare(PAYER.account, units, None)
        assert caught.value.param == "amount"
    for terms, param in ((SessionTerms(1), "session.expiry"), (SessionTerms(EXPIRY, cap=0), "session.cap")):
        with pytest.raises(InvalidInput) as caught:
            harness.deposits.prepare(PAYER.account, 1, terms)
        assert caught.value.param == param


def test_a_default_session_never_lowers_what_its_key_has(harness: DepositHarness) -> None:
    prepared = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY, cap=9 * UNITS * UNIT))
    harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    harness.settle_down()
    again = harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY - 1))
    assert again.relay.grant == prepared.relay.grant
    harness.deposits.relay(PAYER.account, again.relay, signed(again))
    with pytest.raises(InvalidInput, match="at least 27 dollars"):
        harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY, cap=UNIT))


def test_a_session_is_not_granted_on_an_empty_channel(harness: DepositHarness) -> None:
    with pytest.raises(ChannelEmpty):
        harness.deposits.prepare_grant(PAYER.account, SessionTerms(EXPIRY))
    with pytest.raises(ChannelEmpty):
        harness.deposits.relay_grant(PAYER.account, SessionGrant(PAYER.account, UNIT, EXPIRY), 0, "0x")
    assert harness.held_keys.keys == {}


def test_a_deposit_too_small_to_relay_is_the_wallets_own_to_send(harness: DepositHarness) -> None:
    prepared = harness.deposits.prepare(PAYER.account, MIN_RELAYED_UNITS - 1, None)
    with pytest.raises(InvalidInput, match=r"at least 0\.001 dollars"):
        harness.deposits.relay(PAYER.account, prepared.relay, signed(prepared))
    harness.send(prepared.transactions[0])


def test_no_key_is_made_for_a_deposit_that_cannot_come(harness: DepositHarness) -> None:
    with pytest.raises(InsufficientTokens):
        harness.deposits.prepare(some_key("poor").account, UNITS, SessionTerms(EXPIRY))
    assert harness.held_keys.keys == {}


def test_however_often_a_deposit_is_prepared_one_key_waits_for_it(harness: DepositHarness) -> None:
    create = harness.held_keys.create

    def slowly() -> Account:
        time.sleep(0.05)  # so that the other calls arrive
        return create()

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(harness.held_keys, "create", slowly)
        terms = SessionTerms(EXPIRY)
        waiting = [pool.submit(harness.deposits.prepare, PAYER.account, UNITS, terms) for _ in range(4)]
        grants = {one.result().relay.grant for one in waiting}
    assert len(grants) == len(harness.held_keys.keys) == 1


def test_a_key_that_takes_too_long_is_asked_for_again(harness: DepositHarness) -> None:
    with pytest.MonkeyPatch.context() as patch, harness.deposits._creating:
        patch.setattr("backend.services.channels.deposits.KEY_WAIT_SECONDS", 0.01)
        with pytest.raises(Unavailable):
            harness.deposits.prepare(PAYER.account, UNITS, SessionTerms(EXPIRY))
