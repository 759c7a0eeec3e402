"""Allocates kv_blocks to requests. The tensors are in `inference.model.kv_cache`.

A block is *free* (without reusable content), *held* by one or more block tables, or *idle*: named by its
content (see `inference.scheduling.prefix_cache`) and in no block table, so that it can be shared again or
evicted.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from inference.kernels.interface import NULL_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class BlockManager:
    """Allocates kv_blocks 1 .. num_blocks - 1. Block 0 pads block tables and is never allocated.

    Only full blocks are named, and a full block is never written again, so sharing needs no copy.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 2:
            raise ValueError("the KV budget must hold at least two blocks")
        self.block_size = block_size
        self.num_blocks = num_blocks - 1
        self._free = list(range(num_blocks - 1, NULL_BLOCK, -1))
        self._num_holders = [0] * num_blocks
        self._name_by_block: dict[int, bytes] = {}
        self._block_by_name: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now, idle ones included."""
        return len(self._free) + len(self._idle)

    @property
    def num_named(self) -> int:
        return len(self._name_by_block)

    @property
    def max_tokens(self) -> int:
        """Length of the longest sequence that fits if it runs alone."""
        return self.num_blocks * self.block_size

    def find(self, names: Iterable[bytes]) -> list[int]:
        """Blocks of the longest prefix of `names` that is cached."""
        found: list[int] = []
        for name in names:
            block = self._block_by_name.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def can_hold(self, found: Sequence[int], num_tokens: int) -> bool:
        """Whether enough blocks are free to share the cached blocks `found` and to extend them to
        `num_tokens`.
        """
        num_idle = sum(block in self._idle for block in found)
        return self._num_missing(found, num_tokens) <= self.num_free - num_idle

    def share(self, block_table: list[int], found: Sequence[int]) -> None:
        """Start the empty `block_table` with blocks that `find` returned."""
        for block in found:
            self._idle.pop(block, None)
            self._num_holders[block] += 1
        block_table.extend(found)

    def grow(self, block_table: list[int], num_tokens: int) -> list[int] | None:
        """Extend `block_table` to hold `num_tokens` and return the new blocks; None, without any change, if
        too few are free.
        """
        missing = self._num_missing(block_table, num_tokens)
        if missing > self.num_free:
            return None
        fresh = [self._take() for _ in range(missing)]
        block_table.extend(fresh)
        return fresh

    def release(self, block_table: list[int]) -> None:
        """Release all blocks of `block_table` and empty it. Its last block will be evicted first, because a
        block is only found together with all blocks before it.
        """
        for block in reversed(block_table):
            self._num_holders[block] -= 1
            if self._num_holders[block] == 0:
                self._put_back(block)
        block_table.clear()

    def name(self, block: int, name: bytes) -> None:
        """Name a held block that is full. Does nothing if another block has this name."""
        if name not in self._block_by_name:
            self._block_by_name[name] = block
            self._name_by_block[block] = name

    def forget(self, names: Iterable[bytes]) -> None:
        """Remove these names. Block tables that hold the blocks keep them."""
        for name in names:
            block = self._block_by_name.pop(name, None)
            if block is None:
                continue
            del self._name_by_block[block]
            if block in self._idle:
                del self._idle[block]
                self._free.append(block)

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Compare with the tables that hold blocks. Raises `AssertionError`."""
        tables = [list(table) for table in block_tables]
        if any(len(table) != len(set(table)) for table in tables):
            raise AssertionError("a block table holds a kv_block twice")
        holders = Counter(block for table in tables for block in table)
        if any(self._num_holders[block] != holders[block] for block in range(len(self._num_holders))):
            raise AssertionError(f"counts of holders differ from the block tables: {holders}")
        if sorted([*holders, *self._free, *self._idle]) != list(range(1, self.num_blocks + 1)):
            raise AssertionError(
                f"kv_blocks lost, or in two states: held {sorted(holders)}, free {sorted(self._free)}, "
                f"idle {sorted(self._idle)}"
            )
        if {block: name for name, block in self._block_by_name.items()} != self._name_by_block:
            raise AssertionError("names and named kv_blocks differ")
        if self._idle.keys() != self._name_by_block.keys() - holders.keys():
            raise AssertionError("an idle kv_block has no name, or an unused named one is not idle")

    def _num_missing(self, block_table: Sequence[int], num_tokens: int) -> int:
        return max(0, -(-num_tokens // self.block_size) - len(block_table))

    def _take(self) -> int:
        block = self._free.pop() if self._free else self._evict()
        self._num_holders[block] = 1
        return block

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._block_by_name[self._name_by_block.pop(block)]
        return block

    def _put_back(self, block: int) -> None:
        if block in self._name_by_block:
            self._idle[block] = None
        else:
            self._free.append(block)
