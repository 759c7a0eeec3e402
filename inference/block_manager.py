"""Which kv_blocks belong to whom. Bookkeeping only; the tensors are `inference.model.kv_cache`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.model.kv_cache import NULL_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class BlockManager:
    """Hands out kv_blocks 1 .. num_blocks - 1; block 0 pads block tables and belongs to nobody."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 2:
            raise ValueError("the KV budget must hold at least two blocks")
        self.block_size = block_size
        self.num_blocks = num_blocks - 1
        self._free = list(range(num_blocks - 1, NULL_BLOCK, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def max_tokens(self) -> int:
        """The longest sequence that fits when it is alone."""
        return self.num_blocks * self.block_size

    def num_missing(self, block_table: Sequence[int], num_tokens: int) -> int:
        """How many blocks `block_table` lacks to hold `num_tokens`."""
        return max(0, -(-num_tokens // self.block_size) - len(block_table))

    def grow(self, block_table: list[int], num_tokens: int) -> list[int] | None:
        """Extend `block_table` to hold `num_tokens`. The new blocks, or None, and nothing changed, if too few
        are free.
        """
        missing = self.num_missing(block_table, num_tokens)
        if missing > len(self._free):
            return None
        fresh = [self._free.pop() for _ in range(missing)]
        block_table.extend(fresh)
        return fresh

    def release(self, block_table: list[int]) -> None:
        """Return all blocks of `block_table`, leaving it empty."""
        self._free.extend(reversed(block_table))
        block_table.clear()

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Every block is free or in exactly one of `block_tables`. Raises `AssertionError`."""
        held = [block for table in block_tables for block in table]
        if sorted(held + self._free) != list(range(1, self.num_blocks + 1)):
            raise AssertionError(f"kv_blocks lost or shared: held {sorted(held)}, free {sorted(self._free)}")
