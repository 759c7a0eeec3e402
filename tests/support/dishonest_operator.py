"""A dishonest operator: commits forged batches and answers demands only where its trees permit it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from backend.domain.disputes.lookups import tree_of
from backend.domain.disputes.receipt_rules import fault_of
from backend.domain.disputes.witnesses import (
    AnsweredReceipt,
    Fault,
    Lookup,
    ReceiptWitness,
    Tree,
    balance_key,
)
from backend.domain.hashing import keccak, receipt_id, to_bytes, to_hash, word
from backend.domain.ids import ZERO_HASH
from backend.domain.judging.case import Case, Right, Undecided, Wrong
from backend.domain.judging.judge import judge
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, InvalidOpening, SumTree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.batch import Batch, CommitTerms, Header, OperatorLedger, Span
    from backend.domain.ids import Account
    from backend.domain.judging.case import Judgement
    from backend.domain.receipt import SignedReceipt
    from tests.support.batch_factory import BatchFactory

MAX_ROUNDS = 6
"""Maximum rounds of demands within a dispute window of eight answer periods."""

Leaves = list[tuple[int, int]]
"""Keys and values, in the order of the tree."""


@dataclass
class Draft:
    """A batch before its commit: honest at first, then corrupted by the test."""

    batch: Batch
    receipts: list[SignedReceipt]
    values: list[int]
    """Values of the receipts' leaves."""
    entries: Leaves
    balances: Leaves
    spans: tuple[Span, ...]
    fields: dict[str, Any] = field(default_factory=dict)
    """Header fields that override those derived from the trees."""
    published: list[SignedReceipt] | None = None

    @classmethod
    def of(cls, batch: Batch) -> Draft:
        leaves = batch.entries.leaves(0, len(batch.entries))
        entries = [(int.from_bytes(key, "big"), value) for key, value in leaves]
        balances = sorted((balance_key(account), value) for account, value in batch.balances.items())
        receipts = list(batch.receipts)
        values = [s.receipt.charge for s in receipts]
        return cls(batch, receipts, values, entries, balances, batch.spans, published=receipts)

    def commit(self, terms: CommitTerms, parent: DisputedBatch | None = None) -> DisputedBatch:
        """Build the header as the contract does."""
        trees = self.trees()
        header = self.batch.header(terms, ZERO_HASH)
        fields = {
            f"{name}_{part}": value
            for name, tree in trees.items()
            for part, value in (("root", to_hash(tree.root)), ("count", tree.count))
        }
        return DisputedBatch(self, replace(header, **(fields | self.fields)), trees, parent)

    def trees(self) -> dict[str, SumTree]:
        receipts = [
            (to_bytes(receipt_id(s.receipt)), value)
            for s, value in zip(self.receipts, self.values, strict=True)
        ]
        return {
            "receipts": SumTree(RECEIPTS_TAG, receipts),
            "entries": SumTree(ENTRIES_TAG, ((word(k), v) for k, v in self.entries)),
            "balances": SumTree(BALANCES_TAG, ((word(k), v) for k, v in self.balances)),
        }


@dataclass
class DisputedBatch:
    """A committed batch with the operator's trees, from which it answers demands."""

    draft: Draft
    header: Header
    trees: dict[str, SumTree]
    parent: DisputedBatch | None = None
    random: Random = field(default_factory=lambda: Random(0))
    """Selects one of the answers that the contract would accept."""

    def answer(self, tree: Tree, key: int, factory: BatchFactory) -> Lookup | AnsweredReceipt | None:
        """An answer that the contract accepts, or None."""
        if tree is Tree.RECEIPTS:
            return self._receipt(key, factory)
        if tree is Tree.PARENT_BALANCES:
            return self.parent.answer(Tree.BALANCES, key, factory) if self.parent else None
        leaves = self.draft.entries if tree is Tree.ENTRIES else self.draft.balances
        found = look_ups(leaves, self.trees[tree.name.lower()], key)
        taken = [one for one in found if self._is_taken(tree, key, one)]
        return self.random.choice(taken) if taken else None

    def _is_taken(self, tree: Tree, key: int, lookup: Lookup) -> bool:
        try:
            tree_of(self.header, tree).find(key, lookup)
        except InvalidOpening:
            return False
        return True

    def _receipt(self, index: int, factory: BatchFactory) -> AnsweredReceipt | None:
        signed = self.draft.receipts[index] if index < len(self.draft.receipts) else None
        if signed is None or not factory.is_signed(signed):
            return None
        records = [factory.version(s.version_id) for s in signed.slices]
        witness = ReceiptWitness.of(signed, self.trees["receipts"].open(index), [r for r in records if r])
        try:
            tree_of(self.header, Tree.RECEIPTS).open_key(int(receipt_id(signed.receipt), 16), witness.opening)
            fault = fault_of(witness, self.header.committed_at, factory)
        except InvalidOpening:
            return None
        return AnsweredReceipt(witness, signed.signature) if fault is Fault.NONE else None


def look_ups(leaves: Leaves, tree: SumTree, key: int) -> list[Lookup]:
    """All lookups for a key. An unordered tree may permit several, or none."""
    keys, last = [k for k, _ in leaves], len(leaves) - 1
    shown = [(i,) for i in range(len(keys)) if keys[i] == key]
    shown += [(0,)] if keys[0] > key else []
    shown += [(last,)] if keys[-1] < key else []
    pairs = [(i, i + 1) for i in range(last) if keys[i] < key < keys[i + 1]]
    return [
        Lookup(tuple(keys[i] for i in places), tuple(map(tree.open, places))) for places in (*shown, *pairs)
    ]


@dataclass(frozen=True)
class Unanswered:
    """The batch is voided because the operator cannot answer `missing`, one of the demanded keys."""

    tree: Tree
    keys: tuple[int, ...]
    missing: int


@dataclass(frozen=True)
class Outcome:
    end: Right | Wrong | Unanswered
    num_rounds: int
    num_keys: int
    needs: list[Undecided]


def try_to_convict(case: Case, disputed: DisputedBatch, factory: BatchFactory) -> Outcome:
    """Judge, demand missing evidence and judge again until there is a verdict or an unanswered demand."""
    needs: list[Undecided] = []
    num_keys = 0
    for num_rounds in range(MAX_ROUNDS + 1):
        found: Judgement = judge(case, factory, factory.terms, factory.is_signed)
        if not isinstance(found, Undecided):
            return Outcome(found, num_rounds, num_keys, needs)
        needs.append(found)
        assert found.demands, found
        answers = dict(case.answers)
        for tree, keys in found.demands:
            assert 1 <= len(keys) <= 64
            num_keys += len(keys)
            for key in keys:
                assert (tree, key) not in answers, (tree, key)
                answer = disputed.answer(tree, key, factory)
                if answer is None:
                    return Outcome(Unanswered(tree, keys, key), num_rounds + 1, num_keys, needs)
                answers[tree, key] = answer
        case = replace(case, answers=answers)
    raise AssertionError(f"no verdict after {MAX_ROUNDS} rounds: {found}")


def case_of(
    disputed: DisputedBatch, ledger: OperatorLedger | None, claimed: Mapping[Account, int] | None = None
) -> Case:
    """The case with public information only."""
    published = disputed.draft.published
    return Case(
        header=disputed.header,
        parent=disputed.parent.header if disputed.parent else None,
        spans=disputed.draft.spans,
        receipts=None if published is None else tuple(published),
        ledger=ledger,
        claimed=claimed or {},
    )


def random_root(label: str) -> str:
    return to_hash(keccak(label.encode()))
