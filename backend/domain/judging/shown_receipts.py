"""Which receipts of a batch are known, from what was published and from what demands brought out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.batch import tree_of_receipts
from backend.domain.disputes.lookups import TreeRoot, is_of, leaf_hash, tree_of
from backend.domain.disputes.witnesses import AnsweredReceipt, Tree
from backend.domain.hashing import keccak, receipt_id, to_bytes
from backend.domain.judging.hidden_trees import evenly
from backend.domain.merkle import NODE, InvalidOpening, Opening, SumTree, siblings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backend.domain.disputes.witnesses import Lookup
    from backend.domain.judging.case import Case
    from backend.domain.receipt import SignedReceipt


@dataclass(frozen=True, slots=True)
class Known:
    """A receipt in its place; `prefix`: the sum of the receipts before it, its first unit on the line."""

    index: int
    signed: SignedReceipt
    opening: Opening
    prefix: int


class ShownReceipts:
    """The receipts that provably stand in the batch's tree, by index.

    Published receipts that do not make the committed tree are still used: what an answer's path shows of the
    committed tree and the published ones make as well is known by them.
    """

    def __init__(self, case: Case) -> None:
        self.root = tree_of(case.header, Tree.RECEIPTS)
        self.published = case.receipts or ()
        self._tree = _tree(self.published)
        self.is_published = self._tree is not None and is_of(self._tree, self.root)
        self._answered = dict(_answered(case.answers, self.root))
        self._nodes: dict[tuple[int, int], bytes] = {}
        """Of the committed tree, as far as answers show it, by level and place."""
        self._known = set(range(self.root.count)) if self.is_published else set[int]()
        if not self.is_published:
            for index, answer in self._answered.items():
                self._learn(index, answer)

    @property
    def num_answered(self) -> int:
        return len(self._answered)

    def missing(self) -> list[int]:
        """Indices of the receipts that are not known."""
        return [i for i in range(self.root.count) if i not in self._known and i not in self._answered]

    def next_keys(self) -> tuple[int, ...]:
        """Which of the missing to demand: first a few that show where the published ones differ."""
        missing = self.missing()
        if self._answered or self._twin() is None:
            return tuple(missing)
        return tuple(missing[place] for place in evenly(len(missing)))

    def is_answered(self, index: int) -> bool:
        return index in self._answered

    def as_published(self) -> Iterator[Known]:
        """The published receipts as if they were the batch's."""
        prefix = 0
        if self._tree is None:
            return
        for index, signed in enumerate(self.published):
            opening = self._tree.open(index)
            yield Known(index, signed, opening, prefix)
            prefix += opening.value

    def known(self) -> Iterator[Known]:
        """Rising."""
        prefix = 0
        for index in range(self.root.count):
            if index in self._answered:
                answer = self._answered[index]
                signed, opening = answer.signed, answer.witness.opening
            elif index in self._known:
                signed, opening = self.published[index], self._open(index)
            else:
                continue
            if not self.is_published:
                prefix = self.root.open_key(int(receipt_id(signed.receipt), 16), opening)
            yield Known(index, signed, opening, prefix)
            prefix += opening.value

    def _twin(self) -> SumTree | None:
        """The published receipts' tree if it has the committed one's shape."""
        return self._tree if self._tree is not None and self._tree.count == self.root.count else None

    def _learn(self, index: int, answer: AnsweredReceipt) -> None:
        """What an answer's path shows."""
        count, opening, twin = self.root.count, answer.witness.opening, self._twin()
        leaf = leaf_hash(self.root.tag, int(receipt_id(answer.witness.receipt), 16))
        own = opening.value.to_bytes(16, "big") + leaf
        for level, place, node in siblings(count, opening):
            self._nodes[level, index >> level], self._nodes[level, place] = own, node
            pair = node + own if index >> level & 1 else own + node
            total = int.from_bytes(pair[:16], "big") + int.from_bytes(pair[NODE : NODE + 16], "big")
            own = total.to_bytes(16, "big") + keccak(pair)
            if twin is not None and twin.node(level, place) == node:
                self._known.update(range(place << level, min((place + 1) << level, count)))

    def _open(self, index: int) -> Opening:
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
    """Those that stand in this tree, as the contract saw to."""
    for (tree, index), answer in answers.items():
        if tree is Tree.RECEIPTS and isinstance(answer, AnsweredReceipt):
            key = to_bytes(receipt_id(answer.witness.receipt))
            try:
                root.open_key(int.from_bytes(key, "big"), answer.witness.opening)
            except InvalidOpening:
                continue
            if answer.witness.opening.index == index:
                yield index, answer
