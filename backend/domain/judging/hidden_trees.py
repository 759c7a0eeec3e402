"""Trees of entries or balances whose leaves only their operator knows, brought out by demands.

`Search` finds a wrong leaf; `HiddenBalances` brings out every leaf of a parent whose data was withheld.

For a search we know the leaves that the tree ought to have, the committed root, and that both sums are the
same; answers to demands by key open leaves. Two facts make every search end after about log65(n) + 1 rounds
of 64 keys:

- An opening's left siblings are the whole subtrees left of its leaf. If they are ours too, everything left
  of it is right; so the first difference can be searched.
- Let the *lead* of a key be the sum left of it in their tree less that in ours. It is zero at both ends.
  Where it falls from one shown key to the next, a leaf between them is short, whatever else stands there;
  and where it falls nowhere it is zero everywhere, and the difference lies where the first search says.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from backend.domain.batch import Ledger
from backend.domain.disputes.lookups import is_of, leaf_hash
from backend.domain.disputes.witnesses import MAX_KEYS, Lookup
from backend.domain.ids import Account
from backend.domain.merkle import InvalidOpening, Opening, siblings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backend.domain.batch import Header
    from backend.domain.disputes.lookups import TreeRoot
    from backend.domain.merkle import SumTree

ACCOUNTS = 1 << 160
"""Keys of balances are below it; a committed tree may hold others."""


@dataclass(frozen=True, slots=True)
class Zero:
    """A leaf that is worth nothing, or has a node beside its path that is."""

    leaf_hash: bytes
    opening: Opening


@dataclass(frozen=True, slots=True)
class Disorder:
    """Two leaves whose keys do not rise with their places."""

    leaves: Lookup


@dataclass(frozen=True, slots=True)
class Shown:
    """The value under a key, zero if it has no leaf, and what shows it."""

    key: int
    value: int
    lookup: Lookup


class _Mark(NamedTuple):
    """A key that ought to be there, by its place among ours."""

    place: int
    lead: int
    is_same_up_to_here: bool


class Opened:
    """What answers show of a committed tree."""

    def __init__(self, root: TreeRoot, answers: Iterable[tuple[int, Lookup]]) -> None:
        """`answers`: key and lookup; one that does not belong to this tree counts for nothing."""
        self.root = root
        self.leaves: dict[int, tuple[int, Opening]] = {}
        """Key and opening by index."""
        self._shown: dict[int, Shown] = {}
        for key, lookup in answers:
            try:
                value, _ = root.find(key, lookup)
            except InvalidOpening:
                continue
            self._shown[key] = Shown(key, value, lookup)
            for found, opening in zip(lookup.keys, lookup.openings, strict=True):
                self.leaves[opening.index] = (found, opening)
        for found, opening in self.leaves.values():
            self._shown.setdefault(found, Shown(found, opening.value, Lookup((found,), (opening,))))

    def shown(self) -> Iterator[Shown]:
        """All keys of which the value is known, rising."""
        return (self._shown[key] for key in sorted(self._shown))

    def get(self, key: int) -> Shown | None:
        return self._shown.get(key)

    def contradiction(self) -> Zero | Disorder | None:
        """What no tree may have, if it shows already."""
        for key, opening in self.leaves.values():
            if opening.value == 0 or opening.has_zero_sibling:
                return Zero(leaf_hash(self.root.tag, key), opening)
        rising = [self.leaves[index] for index in sorted(self.leaves)]
        for (left, first), (right, second) in pairwise(rising):
            if left >= right:
                return Disorder(Lookup((left, right), (first, second)))
        return None


class Search:
    """Looks for the difference between a committed tree and `tree`, our own with the rising `keys`."""

    def __init__(self, opened: Opened, tree: SumTree, keys: Sequence[int]) -> None:
        self._opened, self._tree, self._keys = opened, tree, keys

    def next_keys(self) -> tuple[int, ...]:
        """What to demand, provided that nothing that is shown contradicts itself or ours.

        None only where nothing can be forced out: two keys of ours follow on each other without a gap, and an
        even number of leaves stands between them, all of them worth nothing.
        """
        first, last = self._gap()
        inside = last - first - 1
        if inside:
            return tuple(self._keys[first + 1 + place] for place in evenly(inside))
        beyond = self._keys[first] + 1 if first >= 0 else 0
        return () if self._opened.get(beyond) else (beyond,)

    def _gap(self) -> tuple[int, int]:
        """Places of two of our keys between which a leaf of theirs is short, or else the first difference."""
        marks = [_Mark(-1, 0, True), *self._marks(), _Mark(len(self._keys), 0, False)]
        steps = list(pairwise(marks))
        falls = [(a.place, b.place) for a, b in steps if b.lead < a.lead]
        if falls:
            return min(falls, key=lambda gap: gap[1] - gap[0])
        return next((a.place, b.place) for a, b in steps if a.is_same_up_to_here and not b.is_same_up_to_here)

    def _marks(self) -> Iterator[_Mark]:
        """Of our keys that are shown; rising, as nothing contradicts."""
        sums = list(accumulate((self._tree.value(i) for i in range(self._tree.count)), initial=0))
        for index in sorted(self._opened.leaves):
            key, opening = self._opened.leaves[index]
            place = bisect_left(self._keys, key)
            if place < len(self._keys) and self._keys[place] == key:
                prefix = self._opened.root.open_key(key, opening)
                is_same = place == index and self._is_same_left_of(opening)
                yield _Mark(place, prefix - sums[place], is_same)

    def _is_same_left_of(self, opening: Opening) -> bool:
        tree = self._tree
        return all(
            (at + 1) << level <= tree.count and tree.node(level, at) == node
            for level, at, node in siblings(self._opened.root.count, opening)
            if at << level < opening.index
        )


class HiddenBalances:
    """What demands showed of the balances of a batch whose own leaves cannot be foretold."""

    def __init__(self, header: Header, opened: Opened) -> None:
        self._header, self._opened = header, opened

    def ledger(self) -> Ledger | None:
        """After the batch, once every leaf is open. Of the channels it knows nothing."""
        leaves = self._opened.leaves
        if len(leaves) < self._opened.root.count:
            return None
        balances = {account_of(key): opening.value for key, opening in leaves.values()}
        header = self._header
        ledger = Ledger(header.number, header.hash, header.final_at, header.cumulative_total, balances)
        return ledger if is_of(ledger.balances_tree(), self._opened.root) else None

    def next_keys(self) -> list[int]:
        """Between each two open leaves that have others between them, as many keys as there may be leaves.

        The first of them is the smallest that can be there, so each round brings out one leaf at least.
        """
        leaves, count = self._opened.leaves, self._opened.root.count
        known = [(-1, -1), *((index, leaves[index][0]) for index in sorted(leaves)), (count, ACCOUNTS)]
        wanted: list[int] = []
        for (left, low), (right, high) in pairwise(known):
            num = min(right - left - 1, MAX_KEYS, high - low - 1)
            wanted += [low + 1 + i * (high - low - 1) // num for i in range(num)]
        return [key for key in wanted if self._opened.get(key) is None]


def evenly(count: int) -> list[int]:
    """Up to 64 places out of `count`, evenly spaced."""
    if count <= MAX_KEYS:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * MAX_KEYS) for i in range(MAX_KEYS)]


def account_of(key: int) -> Account:
    return Account(f"0x{key:040x}")
