"""The indexer behind an RPC with refusals, broken connections, delays and contradictions."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from backend.chain.client import ChainClient
from backend.chain.indexer import Indexer
from backend.chain.node import Node
from backend.chain.rpc import Rpc
from tests.support.chain_events import state_hash
from tests.support.databases import chain_database
from tests.support.faulty_rpc import SLOW_SECONDS, Faults, HonestChain, MixedNodes, serving

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Hash32

CONFIRMATIONS = 1


def indexer(url: str, chain: HonestChain, database: Database) -> Indexer:
    client = ChainClient(Node(Rpc(url, retries=1)), chain.deployment)
    return Indexer(client, database.event_log, chain.deployment, CONFIRMATIONS)


def state(database: Database) -> tuple[int, Hash32]:
    with database.read() as tx:
        return tx.event_log.num_events(), state_hash(tx)


def follow(database: Database, seed: int, num_forks: int, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Index a growing and forking chain, compare it with a fault-free replay, and return the faults."""
    monkeypatch.setattr("backend.chain.indexer.SLOW_SECONDS", SLOW_SECONDS)
    monkeypatch.setattr("backend.chain.indexer.NEWEST_BLOCKS", 8)
    chain, faults, chance = HonestChain(seed), Faults(seed, 0.3), random.Random(seed)
    chain.mine(40)
    nodes = MixedNodes(chain, seed, 0.3)
    with serving(nodes, faults) as url:
        stop = threading.Event()
        following = threading.Thread(target=indexer(url, chain, database).run, args=(stop, 0.001))
        following.start()
        for _ in range(num_forks):
            time.sleep(chance.uniform(0, 0.1))
            chain.fork(chance.randint(0, 6))
            chain.mine(chance.randint(0, 5))
        time.sleep(0.5)
        faults.rate = nodes.rate = 0
        try:
            with chain_database() as replayed:
                indexer(url, chain, replayed).catch_up()
                while state(database) != state(replayed):  # the test's own time limit ends it
                    assert following.is_alive()
                    time.sleep(0.01)
        finally:
            stop.set()
            following.join()
    return faults.met


def test_any_faults_end_like_a_fault_free_replay(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert follow(database, seed=1, num_forks=12, monkeypatch=monkeypatch)


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_many_faults_of_every_kind_end_like_a_fault_free_replay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = follow(database, seed=2, num_forks=300, monkeypatch=monkeypatch)
    assert met == set(Faults(0, 0)._kinds)
