"""Compares a batch's entries and balances with those that follow from its receipts."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from backend.domain.batch import (
    Batch,
    OperatorLedger,
    add_earnings,
    entries_of,
    tree_of_entries,
    tree_of_receipts,
)
from backend.domain.disputes.lookups import has_root, look_up, tree_of
from backend.domain.disputes.proofs import WrongBalanceProof, WrongEntryProof, WrongOrderProof, ZeroLeafProof
from backend.domain.disputes.witnesses import (
    NO_LOOKUP,
    BalanceWitness,
    EntryPlace,
    Lookup,
    ReceiptWitness,
    Tree,
    balance_key,
)
from backend.domain.hashing import to_bytes
from backend.domain.judging.case import Finding, Right, Undecided, Wrong, in_demands
from backend.domain.judging.claims import unknown_claimed
from backend.domain.judging.receipts import snapshot_witness
from backend.domain.judging.withheld_trees import (
    ACCOUNTS,
    DifferenceSearch,
    PartialTree,
    WithheldBalances,
    ZeroLeaf,
    account_of,
)
from backend.domain.rules import Rules, from_position
from backend.domain.split import slice_charges

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.domain.entries import Entries
    from backend.domain.judging.case import Case, Judgement, Registry
    from backend.domain.judging.known_receipts import KnownReceipt
    from backend.domain.judging.withheld_trees import ProvenValue
    from backend.domain.merkle import SumTree
    from backend.domain.parameters import ParameterSet

_FIRST_CONTRIBUTOR = 3


def judge_sums(
    case: Case, receipts: Sequence[KnownReceipt], registry: Registry, terms: ParameterSet
) -> Judgement:
    """`receipts` are all receipts of the batch, without faults."""
    rules = Rules(registry)
    signed = [known.signed for known in receipts]
    entries = entries_of(case.header.operator, terms, signed, rules)
    entries_tree = tree_of_entries(entries)
    if not has_root(entries_tree, tree_of(case.header, Tree.ENTRIES)):
        proving = _Entries(case, receipts, registry, terms, rules)
        return _search(case, Tree.ENTRIES, entries_tree, entries.keys, proving.prove)
    balances = _Balances(case, entries, entries_tree)
    if balances.ledger is None:
        return balances.compare()
    after = add_earnings(balances.ledger.balances, balances.earned)
    tree = OperatorLedger(balances=after).balances_tree()
    if not has_root(tree, tree_of(case.header, Tree.BALANCES)):
        return _search(case, Tree.BALANCES, tree, sorted(map(balance_key, after)), balances.prove)
    return Right(
        Batch(
            operator=case.header.operator,
            parent=balances.ledger,
            parameter_set=terms.id,
            spans=case.spans,
            receipts=tuple(signed),
            entries=entries,
            balances=after,
            receipts_tree=tree_of_receipts(signed),
            entries_tree=entries_tree,
            balances_tree=tree,
        )
    )


def _search(
    case: Case,
    tree: Tree,
    computed: SumTree,
    keys: Sequence[int],
    prove: Callable[[ProvenValue, int], Wrong | None],
) -> Wrong | Undecided:
    """Find a wrong leaf in a committed tree that is not the `computed` one."""
    opened = partial_tree(case, tree)
    if wrong := _find_malformed(case, tree, opened):
        return wrong
    for proven in opened.values():
        place = bisect_left(keys, proven.key)
        is_expected = place < len(keys) and keys[place] == proven.key
        expected = computed.value(place) if is_expected else 0
        if proven.value != expected and (found := prove(proven, expected)):
            return found
    wanted = DifferenceSearch(opened, computed, keys).next_keys()
    return Undecided(_difference(tree, opened, computed), in_demands(tree, wanted))


def partial_tree(case: Case, tree: Tree) -> PartialTree:
    """The part of one of the batch's trees that answers to demands opened."""
    header = case.header if tree is not Tree.PARENT_BALANCES else case.parent or case.header
    lookups = {key: found for (of, key), found in case.answers.items() if of is tree}
    return PartialTree(
        tree_of(header, tree), ((key, one) for key, one in lookups.items() if isinstance(one, Lookup))
    )


def _find_malformed(case: Case, tree: Tree, opened: PartialTree) -> Wrong | None:
    found = opened.find_malformed()
    if found is None:
        return None
    what = f"{tree.name.lower()}_root"
    if isinstance(found, ZeroLeaf):
        text = f"leaf {found.opening.index} of the {tree.name.lower()} has no value"
        return Wrong(Finding(what, text), ZeroLeafProof(case.header, tree, found.leaf_hash, found.opening))
    left, right = (opening.index for opening in found.leaves.openings)
    text = f"leaves {left} and {right} of the {tree.name.lower()} are out of order"
    return Wrong(Finding(what, text), WrongOrderProof(case.header, tree, found.leaves))


def _difference(tree: Tree, opened: PartialTree, computed: SumTree) -> Finding:
    name = tree.name.lower()
    if opened.root.count != computed.count:
        text = f"the batch has {opened.root.count} {name}, it must have {computed.count}"
        return Finding(f"{name}_count", text)
    return Finding(f"{name}_root", f"the {name} do not follow from the receipts")


@dataclass(frozen=True)
class _Entries:
    """Builds proofs that entries are wrong."""

    case: Case
    receipts: Sequence[KnownReceipt]
    registry: Registry
    terms: ParameterSet
    rules: Rules

    def prove(self, proven: ProvenValue, expected: int) -> Wrong | None:
        """None for a surplus leaf, whose key is of no part of any receipt: it cannot be proved wrong."""
        account, index = account_of(proven.key >> 64), proven.key >> 32 & 0xFFFFFFFF
        number, part = proven.key >> 16 & 0xFFFF, proven.key & 0xFFFF
        if proven.key >> 224 or not self._is_part(to_bytes(account), index, number, part):
            return None
        known = self.receipts[index]
        records = [self.rules.record(s.version_id) for s in known.signed.slices]
        witness = ReceiptWitness.of(known.signed, known.opening, records)
        proof = WrongEntryProof(self.case.header, witness, self._place(known, number, part), proven.lookup)
        text = f"receipt {index} earns {account} {proven.value} by part {part} of slice {number}"
        return Wrong(Finding("entry", f"{text}, it must be {expected}", index, known.prefix), proof)

    def _is_part(self, account: bytes, index: int, number: int, part: int) -> bool:
        """Whether part `part` of slice `number` of receipt `index` is for `account`, even if it is zero."""
        if index >= len(self.receipts):
            return False
        signed = self.receipts[index].signed
        records = [self.rules.record(s.version_id) for s in signed.slices]
        receipt = signed.receipt
        charges = slice_charges(signed.slices, records, receipt.prompt_tokens, receipt.completion_tokens)
        earned = self.rules.earnings(signed, charges, self.case.header.operator, self.terms)
        return number < len(earned) and part < len(earned[number]) and earned[number][part][0] == account

    def _place(self, known: KnownReceipt, number: int, part: int) -> EntryPlace:
        slice_ = known.signed.slices[number]
        if part < _FIRST_CONTRIBUTOR or not slice_.shares:
            return EntryPlace(number, part)
        which, index = from_position(slice_.shares[part - _FIRST_CONTRIBUTOR].position)
        snapshot = self.rules.record(slice_.version_id).snapshots[which]
        witness = snapshot_witness(self.registry, snapshot)
        contribution = self.registry.contribution(witness.datanet, index)
        if contribution is None:
            raise ValueError(f"contribution {index} of datanet {witness.datanet} is not known")
        return EntryPlace(number, part, witness, contribution.content_hash)


class _Balances:
    """Builds proofs that balances are wrong, if the entries are right."""

    def __init__(self, case: Case, entries: Entries, tree: SumTree) -> None:
        self._case, self._entries, self._tree = case, entries, tree
        self.earned = entries.sums()
        self._parent = partial_tree(case, Tree.PARENT_BALANCES)

    @cached_property
    def ledger(self) -> OperatorLedger | None:
        """The ledger that the parent's header commits to; None if it is not known."""
        case = self._case
        if case.parent is None:
            return OperatorLedger()
        known = case.ledger
        if known and known.balances and has_root(known.balances_tree(), self._parent.root):
            return known
        return WithheldBalances(case.parent, self._parent).ledger()

    def prove(self, proven: ProvenValue, expected: int) -> Wrong | None:
        """None for a surplus leaf, whose key is not an account: it cannot be proved wrong."""
        if proven.key >= ACCOUNTS:
            return None
        account, header = account_of(proven.key), self._case.header
        keys = self._entries.keys
        entries = (look_up(self._tree, keys, key << 64) for key in (proven.key, proven.key + 1))
        parent = self._case.parent or header
        witness = BalanceWitness(account, parent, self._earlier(proven.key), proven.lookup, *entries)
        text = f"the balance of {account} is {proven.value}, it must be {expected}"
        return Wrong(Finding("balance", text), WrongBalanceProof(header, witness))

    def compare(self) -> Wrong | Undecided:
        """Compare account by account, if the parent's balances are only partly known."""
        opened = partial_tree(self._case, Tree.BALANCES)
        if wrong := _find_malformed(self._case, Tree.BALANCES, opened):
            return wrong
        claimed = unknown_claimed(self._case, opened)
        wanted: dict[Tree, list[int]] = {Tree.PARENT_BALANCES: [], Tree.BALANCES: []}
        for key in self._accounts(opened):
            before, after = self._parent.get(key), opened.get(key)
            if before is None:
                wanted[Tree.PARENT_BALANCES].append(key)
            if after is None and key not in claimed:
                wanted[Tree.BALANCES].append(key)
            if before is None or after is None:
                continue
            expected = before.value + self.earned.get(account_of(key), 0)
            if after.value != expected and (found := self.prove(after, expected)):
                return found
        if self._case.parent is not None:
            wanted[Tree.PARENT_BALANCES] += WithheldBalances(self._case.parent, self._parent).next_keys()
        finding = Finding("parent_data", "the balances of the batch before it are not known")
        demands = (in_demands(tree, sorted(set(keys))) for tree, keys in wanted.items())
        others = (one for group in demands for one in group)
        return Undecided(finding, (*in_demands(Tree.BALANCES, claimed), *others))

    def _accounts(self, opened: PartialTree) -> list[int]:
        """Keys of the accounts with a known leaf in either tree or with earnings in this batch."""
        leaves = (*self._parent.leaves.values(), *opened.leaves.values())
        with_leaf = {key for key, _ in leaves if key < ACCOUNTS}
        return sorted(with_leaf.union(map(balance_key, self.earned)))

    def _earlier(self, key: int) -> Lookup:
        if self._case.parent is None:
            return NO_LOOKUP
        if (proven := self._parent.get(key)) is not None:
            return proven.lookup
        if self.ledger is None:
            raise ValueError("the parent's balances are not known")
        keys = sorted(map(balance_key, self.ledger.balances))
        return look_up(self.ledger.balances_tree(), keys, key)
