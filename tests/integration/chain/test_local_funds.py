"""Test dollars and coin of the local network: once for each account, in one transaction of the operator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.sending.sender import Sender
from backend.domain.chain import Reverted
from backend.domain.errors import Forbidden
from backend.services.accounts.local_funds import UNITS, WEI, LocalFunds
from tests.support.market import some_account
from tools.local_market import OPERATOR

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account

NEWCOMER = some_account("newcomer")


@pytest.fixture
def funds(chain: ChainClient, sqlite_database: Database) -> LocalFunds:
    return LocalFunds(sqlite_database, chain, OPERATOR.account)


@pytest.fixture
def sender(chain: ChainClient, sqlite_database: Database) -> Sender:
    signers = {OPERATOR.account: OPERATOR}
    return Sender(chain, sqlite_database.send_queue, signers.get, confirmations=0)


def held(chain: ChainClient, account: Account) -> tuple[int, int]:
    return chain.call("TestUSD", "balanceOf", account), chain.balance(account)


def test_an_account_gets_dollars_and_coin_once(
    funds: LocalFunds, sender: Sender, chain: ChainClient, sqlite_database: Database
) -> None:
    assert funds.are_open(NEWCOMER)
    queued = funds.request(NEWCOMER)
    assert funds.request(NEWCOMER) == queued
    assert not funds.are_open(NEWCOMER)
    for _ in range(2):
        sender.run_once()
    assert held(chain, NEWCOMER) == (UNITS, WEI)
    assert funds.request(NEWCOMER) == queued
    sender.run_once()
    assert held(chain, NEWCOMER) == (UNITS, WEI)
    with sqlite_database.read() as tx:
        assert [one.id for one in tx.transactions.requested(NEWCOMER, None, 10)] == [queued]


def test_an_account_asks_again_when_its_transaction_failed(
    funds: LocalFunds, sqlite_database: Database
) -> None:
    first = funds.request(NEWCOMER)
    with sqlite_database.send_queue() as queue:
        queue.mark_failed(first, {"error": "Reverted", "message": "by the test", "args": {}})
    assert funds.are_open(NEWCOMER)
    assert funds.request(NEWCOMER) != first


def test_a_contract_that_takes_no_coin_is_refused_and_nothing_is_queued(
    funds: LocalFunds, chain: ChainClient
) -> None:
    settlement = chain.address("Settlement")
    with pytest.raises(Reverted, match="FailedCall"):
        funds.request(settlement)
    assert funds.are_open(settlement)


def test_no_other_chain_has_test_dollars(sqlite_database: Database) -> None:
    elsewhere: Any = SimpleNamespace(chain_id=10)
    funds = LocalFunds(sqlite_database, elsewhere, OPERATOR.account)
    assert not funds.are_open(NEWCOMER)
    with pytest.raises(Forbidden, match="on chain 31337 only, not 10"):
        funds.request(NEWCOMER)
