"""Collects the known receipts of a batch, from the published data and from answers to demands."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from backend.domain.batch import tree_of_receipts
from backend.domain.disputes.lookups import TreeRoot, has_root, leaf_hash, tree_of
from backend.domain.disputes.witnesses import AnsweredReceipt, Tree
from backend.domain.hashing import keccak, receipt_id, to_bytes
from backend.domain.judging.withheld_trees import spread_evenly
from backend.domain.merkle import NODE, InvalidOpening, Opening, SumTree, siblings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from backend.domain.disputes.witnesses import Lookup
    from backend.domain.judging.case import Case
    from backend.domain.receipt import SignedReceipt


MAX_UNKNOWN = 4096
"""Unknown receipts that are demanded at a time, in order."""


@dataclass(frozen=True, slots=True)
class KnownReceipt:
    """A receipt of a batch. `prefix` is the sum of the charges before it."""

    index: int
    signed: SignedReceipt
    prefix: int
    _open: Callable[[int], Opening]

    @property
    def opening(self) -> Opening:
        """Computed when it is asked for: that of each receipt of a large batch would take a kilobyte."""
        return self._open(self.index)


class KnownReceipts:
    """Receipts that are provably in the batch's tree, by index.

    Published receipts are used even if they do not make the committed tree: a subtree whose node appears in
    the path of an answer and has the same hash in the published tree is known from the published receipts.
    """

    def __init__(self, case: Case) -> None:
        self.root = tree_of(case.header, Tree.RECEIPTS)
        self.published = case.receipts or ()
        self._tree = _tree(self.published)
        self.is_published = self._tree is not None and has_root(self._tree, self.root)
        self._answered = dict(_answered(case.answers, self.root))
        self._nodes: dict[tuple[int, int], bytes] = {}
        """Nodes of the committed tree that answers contain, by level and index in the level."""
        self._known = set(range(self.root.count)) if self.is_published else set[int]()
        if not self.is_published:
            for index, answer in self._answered.items():
                self._add_path(index, answer)

    def missing(self, most: int) -> list[int]:
        """Indices of the first unknown receipts. A header may state four billion."""
        places = range(self.root.count)
        return list(islice((i for i in places if i not in self._known and i not in self._answered), most))

    def next_keys(self) -> tuple[int, ...]:
        """Unknown receipts to demand: at first a sample, which locates where the published ones differ."""
        if self._answered or self._comparable_tree() is None:
            return tuple(self.missing(MAX_UNKNOWN))
        missing = self.missing(len(self.published))
        return tuple(missing[place] for place in spread_evenly(len(missing)))

    def is_answered(self, index: int) -> bool:
        return index in self._answered

    def as_published(self) -> Iterator[KnownReceipt]:
        """The published receipts with openings in their own tree."""
        prefix = 0
        if self._tree is None:
            return
        for index, signed in enumerate(self.published):
            yield KnownReceipt(index, signed, prefix, self._tree.open)
            prefix += self._tree.value(index)

    def receipts(self) -> Iterator[KnownReceipt]:
        """The known receipts, by rising index."""
        prefix = 0
        for index in sorted(self._known | self._answered.keys()):
            answer = self._answered.get(index)
            signed = self.published[index] if answer is None else answer.signed
            if not self.is_published:
                prefix = self.root.open_key(int(receipt_id(signed.receipt), 16), self._open(index))
            yield KnownReceipt(index, signed, prefix, self._open)
            prefix += signed.receipt.charge

    def _comparable_tree(self) -> SumTree | None:
        """The tree of the published receipts, if it has the same number of leaves as the committed one."""
        return self._tree if self._tree is not None and self._tree.count == self.root.count else None

    def _add_path(self, index: int, answer: AnsweredReceipt) -> None:
        """Store the nodes of an answer's path, and mark the published receipts under equal nodes as known."""
        count, opening, published = self.root.count, answer.witness.opening, self._comparable_tree()
        leaf = leaf_hash(self.root.tag, int(receipt_id(answer.witness.receipt), 16))
        own = opening.value.to_bytes(16, "big") + leaf
        for level, place, node in siblings(count, opening):
            self._nodes[level, index >> level], self._nodes[level, place] = own, node
            pair = node + own if index >> level & 1 else own + node
            total = int.from_bytes(pair[:16], "big") + int.from_bytes(pair[NODE : NODE + 16], "big")
            own = total.to_bytes(16, "big") + keccak(pair)
            if published is not None and published.node(level, place) == node:
                self._known.update(range(place << level, min((place + 1) << level, count)))

    def _open(self, index: int) -> Opening:
        if index in self._answered:
            return self._answered[index].witness.opening
        tree = self._tree
        if tree is None:
            raise ValueError("nothing is published")
        ours = tree.open(index)
        if self.is_published:
            return ours
        path = (self._nodes.get((level, at), node) for level, at, node in siblings(tree.count, ours))
        return Opening(index, ours.value, b"".join(path))


def _tree(receipts: tuple[SignedReceipt, ...]) -> SumTree | None:
    try:
        return tree_of_receipts(receipts)
    except ValueError:
        return None


def _answered(
    answers: Mapping[tuple[Tree, int], Lookup | AnsweredReceipt], root: TreeRoot
) -> Iterator[tuple[int, AnsweredReceipt]]:
    """Answers whose receipt is in this tree, which the contract also checks."""
    for (tree, index), answer in answers.items():
        if tree is Tree.RECEIPTS and isinstance(answer, AnsweredReceipt):
            key = to_bytes(receipt_id(answer.witness.receipt))
            try:
                root.open_key(int.from_bytes(key, "big"), answer.witness.opening)
            except InvalidOpening:
                continue
            if answer.witness.opening.index == index:
                yield index, answer
