"""Answers that get lost: dropped by the pool, out of gas, reorganised away, or held back by a price limit."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.chain.sending.pool import STUCK_BLOCKS
from backend.deployment.deployment_file import save_deployment
from backend.domain.disputes.witnesses import Tree
from backend.domain.hashing import keccak, to_hash
from backend.installation.installation import Installation
from backend.installation.watcher import WatchOptions, open_watcher
from backend.settings import Settings
from backend.storage.embedded import EmbeddedStore
from tests.support.faulty_rpc import Answer, Faults, RealNode, serving
from tools.attack.attack_market import WATCHER, AttackMarket, Forgery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.services.watch.watcher import Watcher

CURIOUS = local_account(11)
CONFIRMATIONS = 1


class LosingNode(Faults):
    """Loses the next transactions, or has them run out of gas; an honest node otherwise."""

    def __init__(self) -> None:
        super().__init__(seed=0, rate=0)
        self.num_lost = 0
        """Transactions to accept and drop."""
        self.num_starved = 0
        """Estimates of gas to understate."""

    def take_in(self, method: str) -> None:
        if method == "eth_sendRawTransaction" and self.num_lost:
            self.num_lost -= 1
            result = {"jsonrpc": "2.0", "id": 0, "result": to_hash(keccak(b"taken"))}
            raise Answer(200, json.dumps(result).encode())

    def pass_on(self, method: str, result: Any) -> Any:
        if method == "eth_estimateGas" and self.num_starved:
            self.num_starved -= 1
            return hex(int(result, 16) // 2)
        return result


class AnswersHarness:
    """A committed batch of the watcher's own operator, with an open demand for its first receipt."""

    def __init__(self, chain: ChainClient, rpc_url: str, folder: Path) -> None:
        self.chain, self._url, self._home = chain, rpc_url, folder / "home"
        self._home.mkdir()
        save_deployment(chain.deployment, self._home / "deployment.json")
        blobs = EmbeddedStore(self._home / "ipfs", is_durable=False)
        self.market = AttackMarket(chain, blobs, folder)
        batch = self.market.build(self.market.serve_round())
        self.header = self.market.commit(Forgery.of(batch))

    def demand(self, *indices: int) -> None:
        self.market.demand(CURIOUS, self.header.abi, Tree.RECEIPTS, indices)

    @contextmanager
    def watcher(self, **settings: Any) -> Iterator[Watcher]:
        installation = Installation(
            Settings(home=self._home, rpc_url=self._url, confirmations=CONFIRMATIONS, **settings)
        )
        try:
            with open_watcher(installation, WatchOptions(), threading.Event()) as watcher:
                yield watcher
        finally:
            installation.close()

    def num_sent(self) -> int:
        return self.chain.node.num_transactions(WATCHER.account)

    def num_open(self) -> int:
        return len(self.market.open_demands())

    def mine(self, blocks: int = 1) -> None:
        """Blocks a second apart, however long the test took: answers are due within 15 seconds."""
        rpc = self.chain.node.rpc
        for _ in range(blocks):
            rpc.request("evm_setNextBlockTimestamp", hex(self.chain.head().timestamp + 1))
            rpc.request("hardhat_mine", "0x1")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.services.watch.transactions.MINED_SECONDS", 0.3)


@pytest.fixture
def losing() -> LosingNode:
    return LosingNode()


@pytest.fixture
def harness(
    chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path, losing: LosingNode
) -> Iterator[AnswersHarness]:
    with serving(RealNode(hardhat_node.url), losing) as url:
        opened = AnswersHarness(chain, url, tmp_path)
        yield opened
        opened.market.close()


def what(watcher: Watcher) -> list[str]:
    return [one.what for one in watcher.run_once()]


def test_finding3_an_answer_that_the_pool_dropped_is_sent_again(
    harness: AnswersHarness, losing: LosingNode
) -> None:
    harness.demand(0)
    losing.num_lost = 1_000
    with harness.watcher() as watcher:
        assert what(watcher) == ["pending", "right"]
        assert harness.num_open() == 1
    losing.num_lost = 0
    with harness.watcher() as successor:
        assert what(successor) == ["right"]
    assert harness.num_open() == 0


def test_finding3_an_answer_that_ran_out_of_gas_is_sent_again(
    harness: AnswersHarness, losing: LosingNode
) -> None:
    harness.demand(0)
    before = harness.num_sent()
    losing.num_starved = 2  # the check before it is queued, and the sender's own estimate
    with harness.watcher() as watcher:
        assert what(watcher) == ["refused", "right"]
        assert what(watcher) == []
        assert harness.num_sent() == before + 1  # nothing while its block may still be replaced
        harness.mine(CONFIRMATIONS)
        assert what(watcher) == ["answered"]
    assert (harness.num_sent(), harness.num_open()) == (before + 2, 0)


@pytest.mark.parametrize("depth", [0, CONFIRMATIONS])
def test_finding3_an_answer_that_a_reorganisation_removed_is_sent_again(
    harness: AnswersHarness, depth: int
) -> None:
    """`depth`: confirmations that the answer had."""
    harness.demand(0)
    before = harness.chain.node.rpc.request("evm_snapshot")
    with harness.watcher() as watcher:
        assert what(watcher) == ["answered", "right"]
        harness.mine(depth)
        assert what(watcher) == []
    harness.chain.node.rpc.request("evm_revert", before)
    harness.mine(depth + 1)
    assert harness.num_open() == 1
    with harness.watcher() as successor:
        list(successor.run_once())
        harness.mine(STUCK_BLOCKS)  # until then, a gap in the nonces may still close by itself
        for _ in range(2):
            list(successor.run_once())
    assert harness.num_open() == 0


def test_finding3_an_answer_on_its_way_is_not_sent_twice(harness: AnswersHarness) -> None:
    """Neither by later passes nor by a successor, though the demand is open on the chain."""
    harness.demand(0)
    before, rpc = harness.num_sent(), harness.chain.node.rpc
    rpc.request("evm_setAutomine", False)
    try:
        for _ in range(2):
            with harness.watcher() as watcher:
                for _ in range(3):
                    list(watcher.run_once())
        assert harness.num_sent() == before + 1
        harness.mine(1 + CONFIRMATIONS)
    finally:
        rpc.request("evm_setAutomine", True)
    with harness.watcher() as watcher:
        assert "answered" not in what(watcher)
    assert (harness.num_sent(), harness.num_open()) == (before + 1, 0)


def test_finding12_a_price_limit_does_not_hold_back_the_own_operators_answers(
    harness: AnswersHarness,
) -> None:
    harness.demand(0)
    price = harness.chain.gas_price()
    harness.chain.node.rpc.request("hardhat_setNextBlockBaseFeePerGas", hex(10 * 10**9 + price))
    harness.mine()
    dear = {"watch_max_gas_price": 1}
    with harness.watcher(**dear, watch_coin_units=10**18) as watcher:  # worth more than all at stake
        assert what(watcher) == ["refused", "right"]
    with harness.watcher(**dear, watch_coin_units=1) as watcher:
        assert what(watcher) == ["answered", "right"]
    harness.demand(1)
    with harness.watcher(**dear) as watcher:
        assert what(watcher) == ["answered", "right"]
