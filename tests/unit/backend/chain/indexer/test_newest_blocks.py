"""The newest blocks, whose logs are read by their hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from tests.unit.backend.chain.indexer.support import FakeChain, indexer, replayed, state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.chain import BlockRef, ChainEvent


@pytest.mark.parametrize("num_missing", [1, 2])
def test_logs_of_blocks_that_a_node_does_not_have_are_waited_for(
    memory: Database, num_missing: int, caplog: pytest.LogCaptureFixture
) -> None:
    chain = FakeChain()
    chain.mine(6)
    chain.num_missing = num_missing
    following, first = indexer(chain, memory), chain.head().number - num_missing + 1
    following.catch_up()
    assert f"block {first} yet, or refuses its logs: eth_getLogs: unknown block" in caplog.text
    assert state(memory)[0] == chain.block(first - 1)
    chain.num_missing = 0
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_newest_blocks_that_a_node_does_not_have_are_waited_for(memory: Database) -> None:
    """Another node behind the same address names the head."""
    chain = FakeChain()
    following = indexer(chain, memory)
    following.catch_up()
    chain.mine(2)
    head = chain.head()
    chain.fork(depth=1, length=0)
    chain.head = lambda: head  # type: ignore[method-assign]
    following.catch_up()
    assert state(memory)[0] == chain.block(head.number - 1)
    del chain.head
    chain.mine()
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_a_newest_block_that_a_node_does_not_have_any_more_is_read_again(memory: Database) -> None:
    chain = FakeChain()
    block, newest = chain.block, chain.head().number

    def lacking_once(number: int) -> BlockRef | None:
        if number != newest:
            return block(number)
        chain.block = block  # type: ignore[method-assign]
        return None

    chain.block = lacking_once  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[0] == chain.head()
    assert state(memory)[1:] == replayed(chain)


def test_the_newest_blocks_are_read_together(memory: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.chain.indexer.NEWEST_BLOCKS", 50)
    chain = FakeChain()
    chain.mine(49)
    sizes, read = [], chain.block_events

    def counted(blocks: Sequence[BlockRef]) -> list[list[ChainEvent]]:
        sizes.append(len(blocks))
        return read(blocks)

    chain.block_events = counted  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert sizes == [50]


def test_a_node_that_answers_for_unknown_blocks_is_not_asked_for_the_newest(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(6)
    chain.is_hiding = True
    following = indexer(chain, memory)
    with pytest.raises(Unavailable, match="upgrade it"):
        following.catch_up()
    assert state(memory)[0] == chain.block(chain.head().number - 2)
    chain.is_hiding = False
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_newest_blocks_that_do_not_follow_each_other_are_not_indexed(memory: Database) -> None:
    chain, other = FakeChain(), FakeChain()
    other._count = 1_000
    for one in (chain, other):
        one.mine(6)
    following, blocks = indexer(chain, memory), chain.blocks
    chain.blocks = lambda first, last: [*other.blocks(first, last - 1), chain.head()]  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="contradicts itself about the parent of block"):
        following.catch_up()
    chain.blocks = blocks  # type: ignore[method-assign]
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_a_newest_block_that_does_not_follow_the_last_indexed_one_is_not_indexed(memory: Database) -> None:
    """The node that names our last block as its own is not the one that has the new block."""
    chain, other = FakeChain(), FakeChain()
    chain.mine(6)
    following, own = indexer(chain, memory), chain.block
    following.catch_up()
    before, last = state(memory), chain.head().number
    other._blocks, other._count = chain._blocks[:-1], 1_000
    other.mine(2)
    chain.block = lambda number: own(number) or other.block(number)  # type: ignore[method-assign]
    chain.head, chain.blocks = other.head, other.blocks  # type: ignore[method-assign]
    chain.block_events = other.block_events  # type: ignore[method-assign]
    assert chain.head().number == last + 1
    with pytest.raises(Unavailable, match="contradicts itself about the parent of block"):
        following.run_once()
    assert state(memory) == before
    following = indexer(other, memory)
    following.catch_up()
    assert state(memory)[1:] == replayed(other)
