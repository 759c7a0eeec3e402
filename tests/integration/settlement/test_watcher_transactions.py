"""The watcher's transactions: limits, waiting, and what a successor takes over from a killed watcher."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.chain.sending.pool import STUCK_BLOCKS
from backend.chain.sending.sender import Sender
from backend.domain.transactions import Call
from backend.services.watch.transactions import GasLimits, WatcherTransactions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database

WATCHER = local_account(9)
GWEI = 10**9
GENEROUS = GasLimits(gas=10_000_000, price=100 * GWEI)
CONFIRMATIONS = 1


def transactions(
    chain: ChainClient,
    database: Database,
    limits: GasLimits = GENEROUS,
    stop: threading.Event | None = None,
    num_kept: int = 1,
) -> WatcherTransactions:
    sender = Sender(chain, database.send_queue, {WATCHER.account: WATCHER}.get, CONFIRMATIONS)
    return WatcherTransactions(database, chain, WATCHER.account, sender.run_once, limits, stop, num_kept)


def mint(units: int) -> Call:
    return Call("TestUSD", "mint", (WATCHER.account, units))


def dollars(chain: ChainClient) -> int:
    balance: int = chain.call("TestUSD", "balanceOf", WATCHER.account)
    return balance


def mine(chain: ChainClient, blocks: int = 1) -> None:
    chain.node.rpc.request("hardhat_mine", hex(blocks))


def stopped() -> threading.Event:
    """A watcher that is told to stop does not wait for its transactions."""
    stop = threading.Event()
    stop.set()
    return stop


@contextmanager
def manual_mining(chain: ChainClient) -> Iterator[None]:
    chain.node.rpc.request("evm_setAutomine", False)
    try:
        yield
    finally:
        chain.node.rpc.request("evm_setAutomine", True)


def test_calls_are_sent_in_order_and_waited_for(chain: ChainClient, database: Database) -> None:
    before = dollars(chain)
    sent = transactions(chain, database).send([mint(1), mint(2), mint(3)])
    assert all(one.is_done and one.tx_hash for one in sent)
    assert dollars(chain) == before + 6


def test_a_call_that_would_revert_is_never_sent(chain: ChainClient, sqlite_database: Database) -> None:
    nonce = chain.node.num_transactions(WATCHER.account)
    too_much = Call("TestUSD", "transfer", (chain.address("Disputes"), 10**30))
    watcher = transactions(chain, sqlite_database)
    assert "ERC20InsufficientBalance" in watcher.refusal(too_much)
    (sent,) = watcher.send([too_much])
    assert (sent.tx_hash, sent.reverted) == (None, "ERC20InsufficientBalance")
    assert chain.node.num_transactions(WATCHER.account) == nonce


@pytest.mark.parametrize("limits", [GasLimits(gas=40_000, price=1_000 * GWEI), GasLimits(gas=10**7, price=1)])
def test_a_call_above_the_limits_is_never_sent(
    chain: ChainClient, sqlite_database: Database, limits: GasLimits
) -> None:
    nonce = chain.node.num_transactions(WATCHER.account)
    (sent,) = transactions(chain, sqlite_database, limits).send([mint(1)])
    assert (sent.tx_hash, sent.reverted) == (None, "")
    assert "above the limit" in sent.error
    assert chain.node.num_transactions(WATCHER.account) == nonce


def test_fees_stay_below_the_limit(chain: ChainClient, sqlite_database: Database) -> None:
    price = chain.gas_price()
    (sent,) = transactions(chain, sqlite_database, GasLimits(10**7, price)).send([mint(1)])
    found = chain.node.rpc.request("eth_getTransactionByHash", sent.tx_hash)
    assert int(found["maxFeePerGas"], 16) == price


def test_finding12_a_call_may_cost_its_worth_above_the_price_limit(
    chain: ChainClient, sqlite_database: Database
) -> None:
    watcher = transactions(chain, sqlite_database, GasLimits(gas=10**7, price=1))
    gas = chain.prepare("TestUSD", "mint", WATCHER.account, 1, sender=WATCHER.account).gas or 0
    cost = gas * chain.gas_price()
    (refused,) = watcher.send([mint(1)], worth=cost - gas)
    assert "above the limit" in refused.error
    (sent,) = watcher.send([mint(1)], worth=cost + gas)
    assert sent.is_done
    assert watcher.send([mint(2)], worth=None)[0].is_done


def test_a_call_that_is_worth_it_may_need_more_gas_than_the_limit(
    chain: ChainClient, sqlite_database: Database
) -> None:
    """On Arbitrum the gas of an answer includes the fee of its data, which multiplies while that is dear."""
    watcher = transactions(chain, sqlite_database, GasLimits(gas=40_000, price=100 * GWEI))
    gas = chain.prepare("TestUSD", "mint", WATCHER.account, 1, sender=WATCHER.account).gas or 0
    cost = gas * chain.gas_price()
    (refused,) = watcher.send([mint(1)], worth=cost - gas)
    assert f"it needs {gas} gas, above the limit of 40000" in refused.error
    (sent,) = watcher.send([mint(1)], worth=cost + gas)
    assert sent.is_done
    found = chain.node.rpc.request("eth_getTransactionByHash", sent.tx_hash)
    assert int(found["maxFeePerGas"], 16) * gas <= cost + gas
    assert watcher.send([mint(2)], worth=None)[0].is_done


def test_a_call_is_on_its_way_until_the_view_has_its_block(
    chain: ChainClient, sqlite_database: Database
) -> None:
    watcher, head = transactions(chain, sqlite_database, stop=stopped()), chain.head().number

    def is_unseen_at(number: int) -> bool:
        view: Any = SimpleNamespace(cursor=lambda: SimpleNamespace(number=number))
        return watcher.is_on_its_way(view, "TestUSD", "mint")

    with manual_mining(chain):
        watcher.send([mint(1)])
        assert is_unseen_at(head + 1)
        mine(chain)
    for _ in ("mined", "confirmed"):
        watcher.send_pending()
        assert (is_unseen_at(head), is_unseen_at(head + 1)) == (True, False)
        mine(chain, CONFIRMATIONS)


def test_bonds_leave_the_gas_of_some_transactions(chain: ChainClient, sqlite_database: Database) -> None:
    gas = GENEROUS.gas * chain.gas_price()
    watcher = transactions(chain, sqlite_database, num_kept=3)
    assert watcher.funds() == chain.balance(WATCHER.account) - 3 * gas


def test_a_stuck_call_is_replaced_by_a_successor_up_to_its_ceiling(
    chain: ChainClient, database: Database
) -> None:
    before, fees = dollars(chain), chain.node.fees()
    with manual_mining(chain):
        (waiting,) = transactions(chain, database, stop=stopped()).send([mint(5)])
        assert waiting.is_pending
        for _ in range(STUCK_BLOCKS):
            chain.node.rpc.request("hardhat_setNextBlockBaseFeePerGas", hex(fees.max_fee + 1))
            mine(chain)
        assert dollars(chain) == before
        (replaced,) = transactions(chain, database, stop=stopped()).send([mint(5)])
        assert replaced.is_pending
        assert replaced.tx_hash != waiting.tx_hash
        mine(chain)
    assert transactions(chain, database).send([mint(5)])[0].tx_hash == replaced.tx_hash
    assert dollars(chain) == before + 5


def test_a_call_that_waits_behind_a_cheaper_one_lifts_its_ceiling(
    chain: ChainClient, database: Database
) -> None:
    before, low = dollars(chain), chain.gas_price()
    with manual_mining(chain):
        cheap = transactions(chain, database, GasLimits(10**7, low), stopped())
        cheap.send([mint(1)])
        chain.node.rpc.request("hardhat_setNextBlockBaseFeePerGas", hex(2 * low))
        mine(chain)
        assert cheap.send([mint(2)], worth=None)[0].is_pending
        for _ in range(12):
            mine(chain, STUCK_BLOCKS)
            cheap.send_pending()
    transactions(chain, database).send([mint(2)])
    assert dollars(chain) == before + 3


def test_a_reservation_is_the_hash_that_the_contract_computes(
    chain: ChainClient, sqlite_database: Database
) -> None:
    watcher = transactions(chain, sqlite_database)
    reservation = watcher.reservation(mint(1))
    assert watcher.send([Call("Disputes", "reserve", (reservation,))])[0].is_done
    assert chain.call("Disputes", "reservedAt", reservation) == chain.head().number
