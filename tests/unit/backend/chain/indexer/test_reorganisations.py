"""Chains that replace their blocks, also while the indexer reads or dies."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chain.indexer import Indexer
from backend.domain.chain import BlockRef, ChainEvent, ChainReplaced
from tests.support.databases import chain_database
from tests.unit.backend.chain.indexer.support import FakeChain, indexer, replayed, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from backend.db.event_log import EventLog
    from backend.db.unit_of_work import Database

    Transaction = Callable[[], AbstractContextManager[EventLog]]


class Killed(BaseException):
    """Simulates SIGKILL."""


def test_the_indexer_waits_for_a_shorter_chain_to_grow(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(5)
    indexer(chain, memory).catch_up()
    before = state(memory)
    chain.fork(depth=3, length=1)
    assert not indexer(chain, memory).run_once()
    assert state(memory) == before
    chain.mine(4)
    indexer(chain, memory).catch_up()
    assert state(memory)[0] == chain.head()
    assert state(memory)[1:] == replayed(chain)


def test_a_replaced_chain_is_an_error_and_loses_nothing(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(3)
    indexer(chain, memory).catch_up()
    before = state(memory)
    other = FakeChain()
    other._count = 1_000
    other._blocks.clear()
    other.mine(10)
    other.is_replaced = True
    with pytest.raises(ChainReplaced):
        indexer(other, memory).catch_up()
    assert state(memory) == before


def test_a_reorg_while_a_range_is_read_leaves_no_mixture(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(6)
    read = chain.events

    def read_and_fork(first: int, last: int) -> list[ChainEvent]:
        events = read(first, last)
        chain.events = read  # type: ignore[method-assign]
        chain.fork(depth=4, length=4)
        return events

    chain.events = read_and_fork  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_a_reorg_between_the_check_of_the_cursor_and_the_read_leaves_no_mixture(memory: Database) -> None:
    """The blocks that are read are of one fork, and the cursor's of another."""
    chain = FakeChain()
    chain.mine(6)
    indexer(chain, memory).catch_up()
    chain.mine(2)
    blocks = chain.blocks

    def fork_before_the_read(first: int, last: int) -> list[BlockRef]:
        chain.blocks = blocks  # type: ignore[method-assign]
        chain.fork(depth=4, length=4)
        return blocks(first, last)

    chain.blocks = fork_before_the_read  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[1:] == replayed(chain)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=8), st.integers(0, 3))
def test_any_reorgs_end_as_a_fresh_replay(forks: list[tuple[int, int]], confirmations: int) -> None:
    chain = FakeChain(most_blocks=4)
    with chain_database() as database:
        following = indexer(chain, database, confirmations)
        for depth, length in forks:
            chain.fork(depth, length)
            following.catch_up()
        chain.mine(10)
        following.catch_up()
        cursor, *rest = state(database)
    assert cursor == chain.block(chain.head().number - confirmations)
    assert tuple(rest) == replayed(chain, confirmations)


def test_an_indexer_killed_at_any_step_loses_and_repeats_nothing(memory: Database) -> None:
    """For every n, the process dies before or just after its n-th commit, across a reorganisation."""
    for is_committed in (False, True):
        for fatal in range(1, 12):
            chain = FakeChain(most_blocks=3)
            chain.mine(8)
            with chain_database() as database:
                indexer(chain, database).catch_up()
                chain.fork(depth=5, length=7)
                dying = Indexer(
                    chain,
                    _dies_at(database.event_log, fatal, is_committed),
                    chain.deployment,
                    confirmations=0,
                )
                try:
                    dying.catch_up()
                except Killed:
                    indexer(chain, database).catch_up()
                assert state(database)[1:] == replayed(chain)


def _dies_at(event_log: Transaction, fatal: int, is_committed: bool) -> Transaction:
    count = 0

    @contextmanager
    def dying() -> Iterator[EventLog]:
        nonlocal count
        count += 1
        with event_log() as log:
            yield log
            if count == fatal and not is_committed:
                raise Killed
        if count == fatal:
            raise Killed

    return dying
