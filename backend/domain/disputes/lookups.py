"""Proofs of the value under a key of a committed tree, or of its absence.

Twin of `contracts/libraries/Lookups.sol`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.disputes.witnesses import Lookup, Tree
from backend.domain.hashing import keccak, to_bytes, word
from backend.domain.merkle import (
    BALANCES_TAG,
    ENTRIES_TAG,
    RECEIPTS_TAG,
    InvalidOpening,
    Opening,
    SumTree,
    resolve_leaf,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.batch import Header


class InvalidWitness(InvalidOpening):
    """A witness that does not match the chain or the batch; the contract reverts on it."""


@dataclass(frozen=True, slots=True)
class TreeRoot:
    """A tree as a header commits to it."""

    tag: bytes
    root: bytes
    count: int
    total: int

    def open_key(self, key: int, opening: Opening) -> int:
        """Sum of the leaves left of the key's leaf. Errors: `InvalidOpening` if it is not of this tree."""
        return self.open_leaf(leaf_hash(self.tag, key), opening)

    def open_leaf(self, leaf: bytes, opening: Opening) -> int:
        """As `open_key`, for a leaf whose key may be unknown."""
        opened = resolve_leaf(leaf, self.count, opening)
        if (opened.root, opened.total) != (self.root, self.total):
            raise InvalidWitness("the opening leads to another root", "opening")
        return opened.prefix

    def find(self, key: int, lookup: Lookup) -> tuple[int, int]:
        """The value under a key (zero if it has no leaf), and the sum of the leaves with smaller keys.

        Errors: `InvalidOpening` unless the lookup proves them.
        """
        num = len(lookup.openings)
        if num != len(lookup.keys) or num not in (1, 2):
            raise InvalidWitness("a lookup has one or two openings", "lookup")
        first, found = lookup.openings[0], lookup.keys[0]
        prefix = self.open_key(found, first)
        if num == 2:
            return 0, self._between(key, lookup)
        if found == key:
            return first.value, prefix
        is_edge = first.index == 0 if found > key else first.index + 1 == self.count
        if not is_edge:
            raise InvalidWitness("the leaf is not at the edge", "lookup")
        return 0, 0 if found > key else self.total

    def _between(self, key: int, lookup: Lookup) -> int:
        (left, right), (first, second) = lookup.keys, lookup.openings
        if not left < key < right or first.index + 1 != second.index:
            raise InvalidWitness("the leaves are not adjacent to each other around the key", "lookup")
        return self.open_key(right, second)


def leaf_hash(tag: bytes, key: int) -> bytes:
    return keccak(tag + word(key))


def tree_of(header: Header, tree: Tree) -> TreeRoot:
    """A tree that a header commits to. For `PARENT_BALANCES` pass the parent's header."""
    if tree is Tree.RECEIPTS:
        return TreeRoot(RECEIPTS_TAG, to_bytes(header.receipts_root), header.receipts_count, header.total)
    if tree is Tree.ENTRIES:
        return TreeRoot(ENTRIES_TAG, to_bytes(header.entries_root), header.entries_count, header.total)
    total = header.cumulative_total
    return TreeRoot(BALANCES_TAG, to_bytes(header.balances_root), header.balances_count, total)


def has_root(tree: SumTree, root: TreeRoot) -> bool:
    """Whether the tree has this root, leaf count and total."""
    return (tree.root, tree.count, tree.total) == (root.root, root.count, root.total)


def look_up(tree: SumTree, keys: Sequence[int], key: int) -> Lookup:
    """Prove the value under a key of a tree with these rising keys."""
    at = bisect_left(keys, key)
    has_leaf = at < len(keys) and keys[at] == key
    indices = [at] if has_leaf else [i for i in (at - 1, at) if 0 <= i < len(keys)]
    return Lookup(tuple(keys[i] for i in indices), tuple(map(tree.open, indices)))
