from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.scheduling.block_manager import BlockManager


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=40), st.integers(1, 8))
def test_blocks_are_never_lost(operations: list[tuple[int, int]], block_size: int) -> None:
    """Grow a sequence to so many tokens, or release it (0); after every step the books balance."""
    blocks = BlockManager(num_blocks=20, block_size=block_size)
    tables: list[list[int]] = [[] for _ in range(6)]
    for sequence, num_tokens in operations:
        table, before = tables[sequence], list(tables[sequence])
        if num_tokens == 0:
            blocks.release(table)
        elif (fresh := blocks.grow(table, num_tokens)) is None:
            assert table == before
        else:
            assert table == before + fresh
            assert len(table) * block_size >= num_tokens
        blocks.check_integrity(tables)


def test_the_null_block_is_never_handed_out() -> None:
    blocks = BlockManager(num_blocks=5, block_size=2)
    table: list[int] = []
    assert blocks.grow(table, blocks.max_tokens) is not None
    assert sorted(table) == [1, 2, 3, 4]
    assert blocks.grow([], 1) is None


def named(blocks: BlockManager, *names: bytes) -> list[int]:
    """A table of blocks of these names."""
    table: list[int] = []
    blocks.grow(table, len(names) * blocks.block_size)
    for block, name in zip(table, names, strict=True):
        blocks.name(block, name)
    return table


def test_a_named_block_is_shared_until_it_is_evicted() -> None:
    blocks = BlockManager(num_blocks=5, block_size=2)
    table = named(blocks, b"a", b"ab")
    other: list[int] = []
    blocks.share(other, blocks.find([b"a", b"ab", b"abc"]))
    assert other == table
    blocks.release(table)
    assert blocks.num_free == 2
    blocks.release(other)
    blocks.check_integrity([])
    assert (blocks.num_free, blocks.num_named) == (4, 2)
    blocks.grow(table, 6)  # two that are free, and one that is idle: the end of the chain goes first
    assert len(blocks.find([b"a", b"ab"])) == 1
    blocks.check_integrity([table])


def test_a_prefix_is_found_from_its_beginning_only() -> None:
    blocks = BlockManager(num_blocks=5, block_size=2)
    table = named(blocks, b"a", b"ab")
    assert blocks.find([b"x", b"ab"]) == []
    assert blocks.find([b"a", b"x", b"ab"]) == table[:1]


def test_idle_blocks_that_are_to_be_shared_do_not_count_as_room() -> None:
    blocks = BlockManager(num_blocks=5, block_size=2)
    blocks.release(named(blocks, b"a", b"ab", b"abc"))
    found = blocks.find([b"a", b"ab", b"abc"])
    assert blocks.can_hold(found, 8)
    assert not blocks.can_hold(found[:2], 9)
    blocks.share(table := [], found[:2])
    assert blocks.can_hold([], 4)
    assert not blocks.can_hold([], 5)
    blocks.check_integrity([table])


def test_a_forgotten_block_is_not_found_again_but_stays_with_its_holder() -> None:
    blocks = BlockManager(num_blocks=5, block_size=2)
    table = named(blocks, b"a", b"ab")
    blocks.release(idle := named(blocks, b"x"))
    blocks.forget([b"a", b"ab", b"x", b"unknown"])
    assert blocks.find([b"a"]) == blocks.find([b"x"]) == idle == []
    blocks.check_integrity([table])
    blocks.release(table)
    assert (blocks.num_free, blocks.num_named) == (4, 0)


def test_of_two_blocks_with_the_same_content_one_is_kept() -> None:
    blocks = BlockManager(num_blocks=5, block_size=2)
    first, second = named(blocks, b"a"), named(blocks, b"a")
    assert blocks.find([b"a"]) == first
    blocks.release(first)
    blocks.release(second)
    blocks.check_integrity([])
    assert blocks.num_named == 1


def test_integrity_check_notices_what_is_wrong() -> None:
    blocks = BlockManager(num_blocks=5, block_size=2)
    table = named(blocks, b"a", b"ab")
    for wrong in ([table, table], [table[:1]], [table + table[:1]]):
        with pytest.raises(AssertionError):
            blocks.check_integrity(wrong)
    blocks._block_by_name[b"other"] = table[0]
    with pytest.raises(AssertionError, match="names"):
        blocks.check_integrity([table])
    del blocks._block_by_name[b"other"]
    blocks.release(table)
    blocks._idle.popitem()
    with pytest.raises(AssertionError, match="lost"):
        blocks.check_integrity([])
