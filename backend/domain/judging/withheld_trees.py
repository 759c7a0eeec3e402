"""Determines leaves of a withheld tree of entries or balances by demands.

`DifferenceSearch` finds a wrong leaf. `WithheldBalances` recovers all leaves of a withheld tree of balances.

A search knows the expected leaves, the committed root, and that both trees have the same sum. Answers to
demands by key open leaves. Two facts end every search after about log65(n) + 1 rounds of 64 keys:

- The left siblings of an opening are the roots of all subtrees left of its leaf. If the expected tree has the
  same nodes, everything left of the leaf is right. So the first difference can be searched.
- Let the *lead* of a key be the sum left of it in the committed tree minus that in the expected tree. It is
  zero at both ends. If it falls from one proven key to the next, some leaf between them is too small. If it
  falls nowhere, it is zero everywhere, and the first difference is where the first fact locates it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from backend.domain.batch import OperatorLedger
from backend.domain.disputes.lookups import has_root, leaf_hash
from backend.domain.disputes.witnesses import MAX_KEYS, Lookup
from backend.domain.ids import Account
from backend.domain.merkle import InvalidOpening, Opening, siblings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backend.domain.batch import Header
    from backend.domain.disputes.lookups import TreeRoot
    from backend.domain.merkle import SumTree

ACCOUNTS, KEYS = 1 << 160, 1 << 256
"""Upper bounds of the keys of accounts, and of all keys. A committed tree of balances may have any key."""


@dataclass(frozen=True, slots=True)
class ZeroLeaf:
    """A leaf without value, or with a node without value next to its path."""

    leaf_hash: bytes
    opening: Opening


@dataclass(frozen=True, slots=True)
class UnsortedLeaves:
    """Two leaves whose keys are not in the order of their indices."""

    leaves: Lookup


@dataclass(frozen=True, slots=True)
class ProvenValue:
    """The value under a key (zero if it has no leaf) and its proof."""

    key: int
    value: int
    lookup: Lookup


class _Landmark(NamedTuple):
    """An expected key with an opened leaf."""

    key_index: int
    """Index among the expected keys."""
    lead: int
    is_equal_left_of_it: bool


class PartialTree:
    """The part of a committed tree that answers prove."""

    def __init__(self, root: TreeRoot, answers: Iterable[tuple[int, Lookup]]) -> None:
        """`answers` are keys with lookups. Lookups that are not of this tree are ignored."""
        self.root = root
        self.leaves: dict[int, tuple[int, Opening]] = {}
        """Key and opening by leaf index."""
        self._values: dict[int, ProvenValue] = {}
        for key, lookup in answers:
            try:
                value, _ = root.find(key, lookup)
            except InvalidOpening:
                continue
            self._values[key] = ProvenValue(key, value, lookup)
            for found, opening in zip(lookup.keys, lookup.openings, strict=True):
                self.leaves[opening.index] = (found, opening)
        for found, opening in self.leaves.values():
            self._values.setdefault(found, ProvenValue(found, opening.value, Lookup((found,), (opening,))))

    def values(self) -> Iterator[ProvenValue]:
        """Proven values by rising key."""
        return (self._values[key] for key in sorted(self._values))

    def get(self, key: int) -> ProvenValue | None:
        return self._values.get(key)

    def find_malformed(self) -> ZeroLeaf | UnsortedLeaves | None:
        """Leaves that no valid tree has."""
        for key, opening in self.leaves.values():
            if opening.value == 0 or opening.has_zero_sibling:
                return ZeroLeaf(leaf_hash(self.root.tag, key), opening)
        rising = [self.leaves[index] for index in sorted(self.leaves)]
        for (left, first), (right, second) in pairwise(rising):
            if left >= right:
                return UnsortedLeaves(Lookup((left, right), (first, second)))
        return None


class DifferenceSearch:
    """Searches the difference between a committed tree and the expected `tree` with the rising `keys`."""

    def __init__(self, opened: PartialTree, tree: SumTree, keys: Sequence[int]) -> None:
        self._opened, self._tree, self._keys = opened, tree, keys

    def next_keys(self) -> tuple[int, ...]:
        """Keys to demand, if no proven value is malformed or differs from the expected one.

        Empty only if no demand can yield more: two expected keys are adjacent integers, and between their
        leaves the committed tree has an even number of leaves without value.
        """
        first, last = self._gap()
        inside = last - first - 1
        if inside:
            return tuple(self._keys[first + 1 + offset] for offset in spread_evenly(inside))
        next_key = self._keys[first] + 1 if first >= 0 else 0
        return () if self._opened.get(next_key) else (next_key,)

    def _gap(self) -> tuple[int, int]:
        """Indices of two expected keys around a too small leaf, or else around the first difference."""
        landmarks = [_Landmark(-1, 0, True), *self._landmarks(), _Landmark(len(self._keys), 0, False)]
        steps = list(pairwise(landmarks))
        falls = [(a.key_index, b.key_index) for a, b in steps if b.lead < a.lead]
        if falls:
            return min(falls, key=lambda gap: gap[1] - gap[0])
        return next(
            (a.key_index, b.key_index)
            for a, b in steps
            if a.is_equal_left_of_it and not b.is_equal_left_of_it
        )

    def _landmarks(self) -> Iterator[_Landmark]:
        """Landmarks by rising index; the leaves are sorted, as none is malformed."""
        for index in sorted(self._opened.leaves):
            key, opening = self._opened.leaves[index]
            place = bisect_left(self._keys, key)
            if place < len(self._keys) and self._keys[place] == key:
                prefix = self._opened.root.open_key(key, opening)
                is_equal = place == index and self._is_equal_left_of(opening)
                yield _Landmark(place, prefix - self._tree.sum_before(place), is_equal)

    def _is_equal_left_of(self, opening: Opening) -> bool:
        tree = self._tree
        return all(
            (at + 1) << level <= tree.count and tree.node(level, at) == node
            for level, at, node in siblings(self._opened.root.count, opening)
            if at << level < opening.index
        )


class WithheldBalances:
    """Recovers the balances of a batch whose expected leaves are not known."""

    def __init__(self, header: Header, opened: PartialTree) -> None:
        self._header, self._opened = header, opened

    def ledger(self) -> OperatorLedger | None:
        """The ledger after the batch, without its channels, once every leaf is open."""
        leaves = self._opened.leaves
        if len(leaves) < self._opened.root.count:
            return None
        balances = {account_of(key): opening.value for key, opening in leaves.values()}
        header = self._header
        ledger = OperatorLedger(header.number, header.hash, header.cumulative_total, balances)
        return ledger if has_root(ledger.balances_tree(), self._opened.root) else None

    def next_keys(self) -> list[int]:
        """For each gap between open leaves, as many keys as it may have leaves.

        The first is the smallest key that the gap can have, so each round opens at least one leaf per gap.
        """
        leaves, count = self._opened.leaves, self._opened.root.count
        known = [(-1, -1), *((index, leaves[index][0]) for index in sorted(leaves))]
        known.append((count, ACCOUNTS if known[-1][1] < ACCOUNTS - 1 else KEYS))
        wanted: list[int] = []
        for (left, low), (right, high) in pairwise(known):
            num = min(right - left - 1, MAX_KEYS, high - low - 1)
            wanted += [low + 1 + i * (high - low - 1) // num for i in range(num)]
        return [key for key in wanted if self._opened.get(key) is None]


def spread_evenly(count: int) -> list[int]:
    """Up to 64 evenly spaced indices below `count`."""
    if count <= MAX_KEYS:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * MAX_KEYS) for i in range(MAX_KEYS)]


def account_of(key: int) -> Account:
    """The account with this key in a tree of balances; a larger key as `OperatorLedger` has it."""
    return Account(f"0x{key:040x}" if key < ACCOUNTS else f"0x{key:064x}")
