from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.chain.client import ChainClient
from backend.chain.dispute_sender import ChainDisputeSender, GasLimits
from backend.chain.keys import local_account
from backend.domain.transactions import Call
from tests.support.market import some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

WATCHER = local_account(9)
GENEROUS = GasLimits(gas=10_000_000, price=100 * 10**9)


def mint(units: int) -> Call:
    return Call("TestUSD", "mint", (WATCHER.account, units))


def dollars(chain: ChainClient) -> int:
    balance: int = chain.call("TestUSD", "balanceOf", WATCHER.account)
    return balance


def test_a_public_markets_token_pays_the_bonds(chain: ChainClient) -> None:
    addresses = dict(chain.deployment.addresses)
    addresses["PaymentToken"] = addresses.pop("TestUSD")
    dispute_sender = ChainDisputeSender(
        ChainClient(chain.node, replace(chain.deployment, addresses=addresses)), WATCHER, GENEROUS
    )
    assert dispute_sender.units() == dollars(chain) > 0
    approval = dispute_sender.approval(7)
    assert approval is not None
    assert dispute_sender.send([approval])[0].is_done
    assert dispute_sender.approval(7) is None
    assert dispute_sender.approval(8) == Call("PaymentToken", "approve", (chain.address("Disputes"), 8))


@contextmanager
def manual_mining(chain: ChainClient) -> Iterator[None]:
    chain.node.rpc.request("evm_setAutomine", False)
    try:
        yield
    finally:
        chain.node.rpc.request("evm_setAutomine", True)


def test_calls_are_sent_in_order_and_waited_for(chain: ChainClient) -> None:
    before = dollars(chain)
    sent = ChainDisputeSender(chain, WATCHER, GENEROUS).send([mint(1), mint(2), mint(3)])
    assert all(s.is_done and s.tx_hash for s in sent)
    assert dollars(chain) == before + 6


def test_a_call_that_would_revert_is_never_sent(chain: ChainClient) -> None:
    reserve = Call("Disputes", "reserve", (some_hash("a call"),))
    dispute_sender = ChainDisputeSender(chain, WATCHER, GENEROUS)
    first, second = dispute_sender.send([reserve, reserve])
    assert first.is_done
    assert (second.tx_hash, second.reverted) == (None, "AlreadyReserved")


@pytest.mark.parametrize("limits", [GasLimits(gas=40_000, price=10**12), GasLimits(gas=10**7, price=1)])
def test_a_call_above_the_limits_is_never_sent(chain: ChainClient, limits: GasLimits) -> None:
    nonce = chain.node.num_transactions(WATCHER.account)
    (sent,) = ChainDisputeSender(chain, WATCHER, limits).send([mint(1)])
    assert (sent.tx_hash, sent.reverted) == (None, "")
    assert "above the limit" in sent.error
    assert chain.node.num_transactions(WATCHER.account) == nonce


def test_fees_stay_below_the_limit(chain: ChainClient) -> None:
    fees = chain.node.fees()
    price = (fees.max_fee - fees.priority_fee) // 2 + fees.priority_fee
    (sent,) = ChainDisputeSender(chain, WATCHER, GasLimits(10**7, price)).send([mint(1)])
    found = chain.node.rpc.request("eth_getTransactionByHash", sent.tx_hash)
    assert int(found["maxFeePerGas"], 16) == price


def test_a_stuck_call_is_replaced_with_higher_fees(chain: ChainClient) -> None:
    before = dollars(chain)
    fees = chain.node.fees()
    rpc = chain.node.rpc
    stop = threading.Event()
    dispute_sender = ChainDisputeSender(chain, WATCHER, GENEROUS, stop)
    with manual_mining(chain):
        rpc.request("hardhat_setNextBlockBaseFeePerGas", hex(3 * fees.max_fee))
        rpc.request("hardhat_mine", "0x1")
        stop.set()
        (waiting,) = dispute_sender.send([mint(5)])
        assert waiting.error == "it is not mined yet"
        assert dollars(chain) == before
    rpc.request("hardhat_mine", "0x1")
    assert dollars(chain) == before + 5


def test_a_reservation_is_the_hash_that_the_contract_computes(chain: ChainClient) -> None:
    dispute_sender = ChainDisputeSender(chain, WATCHER, GENEROUS)
    reservation = dispute_sender.reservation(mint(1))
    assert dispute_sender.send([Call("Disputes", "reserve", (reservation,))])[0].is_done
    assert chain.call("Disputes", "reservedAt", reservation) == chain.head().number


def test_bonds_are_approved_once(chain: ChainClient) -> None:
    dispute_sender = ChainDisputeSender(chain, WATCHER, GENEROUS)
    approval = dispute_sender.approval(100)
    assert approval is not None
    assert dispute_sender.send([approval, mint(7)])[0].is_done
    assert dispute_sender.approval(100) is None
    assert dispute_sender.units() >= 7
