"""Merkle-sum trees, whose root commits to all leaves and to their sum. Source: docs/protocol.md.

A level is one byte string of nodes, `sum 16 ‖ hash 32` each. So the bytes hashed for a parent are those of
its two children, and a tree of a million leaves takes 100 MB instead of a gigabyte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sha3 import keccak_256

from backend.domain.errors import InvalidInput
from backend.domain.hashing import keccak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NODE = 48
"""Bytes of a node."""
FOLD = 5
"""Levels of a `FoldedTree` that are not stored."""
MAX_SUM = (1 << 128) - 1

RECEIPTS_TAG = keccak(b"loraledger.receipts")
ENTRIES_TAG = keccak(b"loraledger.entries")
BALANCES_TAG = keccak(b"loraledger.balances")


class InvalidOpening(InvalidInput):
    """An opening whose index, path length or sums are impossible in a tree with that number of leaves."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Proof of one leaf. `path` has its siblings from the leaf upwards, `sum 16 ‖ hash 32` each."""

    index: int
    value: int
    path: bytes

    @property
    def has_zero_sibling(self) -> bool:
        """Whether a sibling has sum zero, which means that all leaves below it have value zero."""
        return any(not any(self.path[at : at + 16]) for at in range(0, len(self.path), NODE))

    @property
    def abi(self) -> dict[str, int | str]:
        """The opening in the ABI form of Solidity's `Opening`."""
        return {"index": self.index, "value": self.value, "path": "0x" + self.path.hex()}


@dataclass(frozen=True, slots=True)
class ResolvedLeaf:
    """Root and total that an opening implies, and the sum of the leaves before its leaf (`prefix`)."""

    root: bytes
    total: int
    prefix: int


class SumTree:
    """A tree of leaves `(key 32, value)` in their order, without padding."""

    def __init__(self, tag: bytes, leaves: Iterable[tuple[bytes, int]]) -> None:
        """Errors: ValueError without leaves or if the sum does not fit uint128; OverflowError if a value
        does not.
        """
        level = _leaf_level(tag, leaves)
        self.count = len(level) // NODE
        self._levels = _levels(level)

    @property
    def root(self) -> bytes:
        return self._levels[-1][16:]

    @property
    def total(self) -> int:
        return int.from_bytes(self._levels[-1][:16], "big")

    def open(self, index: int) -> Opening:
        """The opening of leaf `index`. Errors: IndexError."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        # A node is empty if its sibling is the last of an odd level.
        path = (self.node(level, index >> level ^ 1) for level in range(_height(self.count)))
        return Opening(index, self.value(index), b"".join(path))

    def node(self, level: int, index: int) -> bytes:
        """The node at `level` and `index`, `sum 16 ‖ hash 32`; b"" if there is none."""
        if level >= len(self._levels):
            return b""
        return self._levels[level][index * NODE : (index + 1) * NODE]

    def value(self, index: int) -> int:
        """Value of leaf `index`."""
        return int.from_bytes(self.node(0, index)[:16], "big")

    def sum_before(self, index: int) -> int:
        """Sum of the values of the leaves before leaf `index`."""
        lefts = (
            self.node(level, (index >> level) - 1)
            for level in range(index.bit_length())
            if index >> level & 1
        )
        return sum(int.from_bytes(node[:16], "big") for node in lefts)


class FoldedTree(SumTree):
    """A tree that stores the nodes from level `FOLD` on, and computes those below when they are asked for: of
    a million leaves, it takes 3 MB besides the leaves.
    """

    def __init__(
        self, tag: bytes, count: int, leaves: Callable[[int, int], Iterable[tuple[bytes, int]]]
    ) -> None:
        """`leaves` returns the leaves `(key 32, value)` from one index up to another or to the last, as often
        as it is called. Errors: as `SumTree`.
        """
        self._tag, self._leaves, self.count = tag, leaves, count
        folded = bytearray()
        for start in range(0, self.count, 1 << FOLD):
            folded += self._fold(start, FOLD)
        self._levels = _levels(bytes(folded))

    def node(self, level: int, index: int) -> bytes:
        if level > _height(self.count):
            return b""
        return super().node(level - FOLD, index) if level >= FOLD else self._fold(index << level, level)

    def _fold(self, start: int, level: int) -> bytes:
        """The node of `level` above the leaves from `start` on; b"" if there are none."""
        nodes = _leaf_level(self._tag, self._leaves(start, start + (1 << level)))
        while len(nodes) > NODE:
            nodes = _parents(nodes)
        return nodes


def resolve(tag: bytes, key: bytes, count: int, opening: Opening) -> ResolvedLeaf:
    """Resolve an opening of `key`. Errors: `InvalidOpening` if it fits no tree of `count` leaves."""
    return resolve_leaf(keccak(tag + key), count, opening)


def resolve_leaf(leaf: bytes, count: int, opening: Opening) -> ResolvedLeaf:
    """Like `resolve`, but takes the leaf's hash instead of its tag and key."""
    if not 0 <= opening.index < count:
        raise InvalidOpening(f"the tree has {count} leaves, so it has no leaf {opening.index}", "index")
    node, total, prefix = leaf, opening.value, 0
    index, width, at = opening.index, count, 0
    while width > 1:
        if index ^ 1 < width:
            sibling = opening.path[at : at + NODE]
            if len(sibling) != NODE:
                raise InvalidOpening("the path is too short", "path")
            at += NODE
            amount = int.from_bytes(sibling[:16], "big")
            own = _packed(total, node)
            node = keccak(sibling + own if index & 1 else own + sibling)
            prefix += amount if index & 1 else 0
            total += amount
        index, width = index >> 1, (width + 1) >> 1
    if at != len(opening.path):
        raise InvalidOpening("the path is too long", "path")
    _packed(total, node)  # checks the root's sum
    return ResolvedLeaf(node, total, prefix)


def siblings(count: int, opening: Opening) -> Iterator[tuple[int, int, bytes]]:
    """Level, index in the level, and `sum ‖ hash` of each node of an opening's path."""
    level, index, width, at = 0, opening.index, count, 0
    while width > 1:
        if index ^ 1 < width:
            yield level, index ^ 1, opening.path[at : at + NODE]
            at += NODE
        level, index, width = level + 1, index >> 1, (width + 1) >> 1


def _packed(total: int, node: bytes) -> bytes:
    if not 0 <= total <= MAX_SUM:
        raise InvalidOpening("the sum does not fit uint128", "value")
    return total.to_bytes(16, "big") + node


def _height(count: int) -> int:
    """The number of levels above the leaves."""
    return (count - 1).bit_length()


def _levels(level: bytes) -> list[bytes]:
    """A level and all above it. Errors: ValueError if it is empty, or if the sum does not fit uint128."""
    if not level:
        raise ValueError("a tree has at least one leaf")
    found = [level]
    while len(found[-1]) > NODE:
        found.append(_parents(found[-1]))
    return found


def _leaf_level(tag: bytes, leaves: Iterable[tuple[bytes, int]]) -> bytes:
    nodes = bytearray()
    for key, value in leaves:
        nodes += value.to_bytes(16, "big")
        nodes += keccak_256(tag + key).digest()
    return bytes(nodes)


def _parents(level: bytes) -> bytes:
    nodes, read = bytearray(), int.from_bytes
    paired = len(level) - len(level) % (2 * NODE)
    for at in range(0, paired, 2 * NODE):
        total = read(level[at : at + 16], "big") + read(level[at + NODE : at + NODE + 16], "big")
        if total > MAX_SUM:
            raise ValueError("the sum exceeds uint128")
        nodes += total.to_bytes(16, "big")
        nodes += keccak_256(level[at : at + 2 * NODE]).digest()
    return bytes(nodes) + level[paired:]
