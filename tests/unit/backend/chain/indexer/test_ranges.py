"""Ranges of blocks that an indexer asks a node for, and their logs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.chain.indexer import FIRST_RANGE, MAX_RANGE, Indexer
from backend.domain.errors import Unavailable
from backend.domain.ids import Hash32
from tests.unit.backend.chain.indexer.support import FakeChain, indexer, replayed, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database
    from backend.domain.chain import ChainEvent


def test_refused_ranges_are_halved_and_grow_again(memory: Database) -> None:
    chain = FakeChain(most_blocks=10)
    chain.mine(102)
    indexer(chain, memory).catch_up()
    assert state(memory)[1] == chain.head().number
    refused, accepted = (
        [n for n in chain.requested_sizes if n > 10],
        [n for n in chain.requested_sizes if n <= 10],
    )
    assert refused[:4] == [100, 50, 25, 12]
    assert accepted[0] == 6
    assert len(accepted) < 101 / 5


def test_a_node_that_refuses_a_single_block_is_an_error(memory: Database) -> None:
    chain = FakeChain(most_blocks=0)
    chain.mine(2)
    with pytest.raises(Unavailable, match="refuses the logs of block 1: query returned more than"):
        indexer(chain, memory).catch_up()


def test_slow_answers_shorten_the_range(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(3 * MAX_RANGE)
    ticks = iter(range(0, 10**6, 60))
    slow = Indexer(chain, memory.event_log, chain.deployment, 0, clock=lambda: next(ticks))
    assert slow.run_once()
    assert slow.run_once()
    assert chain.requested_sizes == [FIRST_RANGE, FIRST_RANGE // 2]


def test_the_first_request_is_for_few_blocks_and_each_success_doubles_the_next(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(1002)
    indexer(chain, memory).catch_up()
    assert chain.requested_sizes == [100, 200, 400, 301]


def test_many_events_shorten_the_range(memory: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.chain.indexer.MANY_EVENTS", 40)
    chain = FakeChain()
    chain.mine(1000)
    indexer(chain, memory).catch_up()
    assert chain.requested_sizes[:5] == [100, 50, 25, 50, 25]
    assert state(memory)[1] == chain.head().number


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda events: [*events, events[-1]],
        lambda events: events[::-1],
        lambda events: [*events[:-1], replace(events[-1], block_hash=Hash32(f"0x{9:064x}"))],
        lambda events: [*events, replace(events[-1], block_number=99)],
        lambda events: [replace(events[0], block_number=0), *events],
    ],
    ids=["twice", "out of order", "of another fork", "after the range", "before the range"],
)
def test_inconsistent_logs_are_not_indexed(
    memory: Database, corrupt: Callable[[list[ChainEvent]], list[ChainEvent]]
) -> None:
    chain = FakeChain()
    chain.mine(5)
    read = chain.events
    chain.events = lambda first, last: corrupt(read(first, last))  # type: ignore[method-assign]
    following = indexer(chain, memory)
    with pytest.raises(Unavailable, match="contradicts itself"):
        following.catch_up()
    assert state(memory)[:2] == (None, 0)
    chain.events = read  # type: ignore[method-assign]
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)
