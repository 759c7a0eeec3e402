from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.block_manager import BlockManager


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=40), st.integers(1, 8))
def test_blocks_are_never_lost_or_shared(operations: list[tuple[int, int]], block_size: int) -> None:
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


def test_integrity_check_notices_a_shared_and_a_lost_block() -> None:
    blocks = BlockManager(num_blocks=5, block_size=2)
    table: list[int] = []
    blocks.grow(table, 4)
    for wrong in ([table, table], [table[:1]]):
        with pytest.raises(AssertionError, match="lost or shared"):
            blocks.check_integrity(wrong)
