"""Tests of the indexer: confirmed blocks, its end, and several indexers of one database."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from backend.chain.indexer import FIRST_RANGE, Indexer
from tests.unit.backend.chain.indexer.support import GENESIS, FakeChain, indexer, replayed, state

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.chain import BlockRef, ChainEvent


def test_only_confirmed_blocks_are_read(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(5)
    indexer(chain, memory, confirmations=2).catch_up()
    cursor, num_events, _ = state(memory)
    assert cursor == chain.block(chain.head().number - 2)
    assert num_events == chain.head().number - 2 - GENESIS + 1


def test_catching_up_ends_where_blocks_come_faster_than_steps(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(5)
    at_first, head = chain.head(), chain.head

    def ever_higher() -> BlockRef:
        chain.mine()
        assert head().number < 50
        return head()

    chain.head = ever_higher  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[0] == chain.block(at_first.number + 1)


@pytest.mark.parametrize("is_counted", [False, True])
def test_one_indexer_of_an_installation_is_counted(memory: Database, is_counted: bool) -> None:
    names = ("indexed_events_total", "reorgs_total", "reorged_events_total")

    def counts() -> list[float]:
        return [REGISTRY.get_sample_value(f"loraledger_{name}") or 0.0 for name in names]

    chain, before = FakeChain(), counts()
    chain.mine(4)
    following = Indexer(chain, memory.event_log, chain.deployment, 0, is_counted=is_counted)
    following.catch_up()
    chain.fork(depth=1, length=2)
    following.catch_up()
    added = [after - earlier for after, earlier in zip(counts(), before, strict=True)]
    assert added == ([8, 1, 2] if is_counted else [0, 0, 0])


def test_two_indexers_store_each_event_once(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(4)
    other, read = indexer(chain, memory), chain.events

    def read_while_the_other_is_faster(first: int, last: int) -> list[ChainEvent]:
        chain.events = read  # type: ignore[method-assign]
        other.catch_up()
        return read(first, last)

    chain.events = read_while_the_other_is_faster  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_racing_indexers_store_each_event_once(database: Database) -> None:
    chain = FakeChain(most_blocks=3)
    chain.mine(40)
    rivals = [Thread(target=indexer(chain, database).catch_up) for _ in range(3)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert state(database)[0] == chain.head()
    assert state(database)[1:] == replayed(chain)


def test_an_index_that_is_stopped_leaves_the_rest_to_the_next_one(memory: Database) -> None:
    chain, stop = FakeChain(), Event()
    chain.mine(3 * FIRST_RANGE)
    stop.set()
    indexer(chain, memory).catch_up(stop)
    assert state(memory)[0] is None
    following, read = indexer(chain, memory), chain.events

    def interrupted(first: int, last: int) -> list[ChainEvent]:
        stop.set()
        return read(first, last)

    stop.clear()
    chain.events = interrupted  # type: ignore[method-assign]
    following.catch_up(stop)
    assert chain.requested_sizes == [FIRST_RANGE]
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)
