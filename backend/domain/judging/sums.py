"""Holds a batch's entries and balances to what its receipts make, once these are known."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from backend.domain.batch import Batch, Entries, Ledger, credited, entries_of, tree_of_receipts
from backend.domain.disputes.lookups import is_of, look_up, tree_of
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
from backend.domain.judging.case import Finding, Needs, Right, Wrong, in_demands
from backend.domain.judging.hidden_trees import ACCOUNTS, HiddenBalances, Opened, Search, Zero, account_of
from backend.domain.judging.receipts import snapshot_witness
from backend.domain.rules import Rules, from_position
from backend.domain.split import slice_charges

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.domain.judging.case import Case, Judgement, Registry
    from backend.domain.judging.hidden_trees import Shown
    from backend.domain.judging.shown_receipts import Known
    from backend.domain.merkle import SumTree
    from backend.domain.parameters import ParameterSet

_FIRST_CONTRIBUTOR = 3


def judge_sums(case: Case, receipts: Sequence[Known], registry: Registry, terms: ParameterSet) -> Judgement:
    """`receipts`: all of the batch's, none of them faulty."""
    rules = Rules(registry)
    signed = [known.signed for known in receipts]
    entries = entries_of(case.header.operator, terms, signed, rules)
    balances = _Balances(case, entries)
    if not is_of(entries.tree, tree_of(case.header, Tree.ENTRIES)):
        proving = _Entries(case, receipts, registry, terms, rules)
        return _search(case, Tree.ENTRIES, entries.tree, balances.entry_keys, proving.prove)
    if balances.ledger is None:
        return balances.compare()
    after = credited(balances.ledger.balances, entries.earned)
    tree = Ledger(balances=after).balances_tree()
    if not is_of(tree, tree_of(case.header, Tree.BALANCES)):
        return _search(case, Tree.BALANCES, tree, sorted(map(balance_key, after)), balances.prove)
    return Right(
        Batch(
            operator=case.header.operator,
            parent=balances.ledger,
            parameter_set=terms.id,
            spans=case.spans,
            receipts=tuple(signed),
            entry_keys=entries.keys,
            balances=after,
            receipts_tree=tree_of_receipts(signed),
            entries_tree=entries.tree,
            balances_tree=tree,
        )
    )


def _search(
    case: Case,
    tree: Tree,
    ours: SumTree,
    keys: Sequence[int],
    prove: Callable[[Shown, int], Wrong | None],
) -> Wrong | Needs:
    """In a committed tree that is not `ours`."""
    opened = _opened(case, tree)
    if wrong := _contradicted(case, tree, opened):
        return wrong
    for shown in opened.shown():
        place = bisect_left(keys, shown.key)
        is_ours = place < len(keys) and keys[place] == shown.key
        expected = ours.value(place) if is_ours else 0
        if shown.value != expected and (found := prove(shown, expected)):
            return found
    wanted = Search(opened, ours, keys).next_keys()
    return Needs(_hidden(tree, opened, ours), in_demands(tree, wanted))


def _opened(case: Case, tree: Tree) -> Opened:
    header = case.header if tree is not Tree.PARENT_BALANCES else case.parent or case.header
    lookups = {key: found for (of, key), found in case.answers.items() if of is tree}
    return Opened(
        tree_of(header, tree), ((key, one) for key, one in lookups.items() if isinstance(one, Lookup))
    )


def _contradicted(case: Case, tree: Tree, opened: Opened) -> Wrong | None:
    found = opened.contradiction()
    if found is None:
        return None
    what = f"{tree.name.lower()}_root"
    if isinstance(found, Zero):
        text = f"leaf {found.opening.index} of the {tree.name.lower()} is worth nothing"
        return Wrong(Finding(what, text), ZeroLeafProof(case.header, tree, found.leaf_hash, found.opening))
    left, right = (opening.index for opening in found.leaves.openings)
    text = f"leaves {left} and {right} of the {tree.name.lower()} are out of order"
    return Wrong(Finding(what, text), WrongOrderProof(case.header, tree, found.leaves))


def _hidden(tree: Tree, opened: Opened, ours: SumTree) -> Finding:
    name = tree.name.lower()
    if opened.root.count != ours.count:
        text = f"the batch has {opened.root.count} {name}, it must have {ours.count}"
        return Finding(f"{name}_count", text)
    return Finding(f"{name}_root", f"the {name} are not those that the receipts make")


@dataclass(frozen=True)
class _Entries:
    """Proves entries wrong."""

    case: Case
    receipts: Sequence[Known]
    registry: Registry
    terms: ParameterSet
    rules: Rules

    def prove(self, shown: Shown, expected: int) -> Wrong | None:
        """None for a leaf that stands for no part of any receipt: of such a surplus there is no proof."""
        account, index = account_of(shown.key >> 64), shown.key >> 32 & 0xFFFFFFFF
        number, part = shown.key >> 16 & 0xFFFF, shown.key & 0xFFFF
        if shown.key >> 224 or not self._is_part(to_bytes(account), index, number, part):
            return None
        known = self.receipts[index]
        records = [self.rules.record(s.version_id) for s in known.signed.slices]
        witness = ReceiptWitness.of(known.signed, known.opening, records)
        proof = WrongEntryProof(self.case.header, witness, self._place(known, number, part), shown.lookup)
        text = f"receipt {index} earns {account} {shown.value} by part {part} of slice {number}"
        return Wrong(Finding("entry", f"{text}, it must be {expected}", index, known.prefix), proof)

    def _is_part(self, account: bytes, index: int, number: int, part: int) -> bool:
        """Whether that part is the account's, if only nothing of it."""
        if index >= len(self.receipts):
            return False
        signed = self.receipts[index].signed
        records = [self.rules.record(s.version_id) for s in signed.slices]
        receipt = signed.receipt
        charges = slice_charges(signed.slices, records, receipt.prompt_tokens, receipt.completion_tokens)
        earned = self.rules.earnings(signed, charges, self.case.header.operator, self.terms)
        return number < len(earned) and part < len(earned[number]) and earned[number][part][0] == account

    def _place(self, known: Known, number: int, part: int) -> EntryPlace:
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
    """Proves balances wrong, where the entries are right."""

    def __init__(self, case: Case, entries: Entries) -> None:
        self._case, self._entries = case, entries
        self._parent = _opened(case, Tree.PARENT_BALANCES)

    @cached_property
    def entry_keys(self) -> list[int]:
        keys = self._entries.keys
        return [int.from_bytes(keys[at : at + 32], "big") for at in range(0, len(keys), 32)]

    @cached_property
    def ledger(self) -> Ledger | None:
        """After the parent, as the parent's header has it; None if it is not known."""
        case = self._case
        if case.parent is None:
            return Ledger()
        known = case.ledger
        if known and known.balances and is_of(known.balances_tree(), self._parent.root):
            return known
        return HiddenBalances(case.parent, self._parent).ledger()

    def prove(self, shown: Shown, expected: int) -> Wrong | None:
        """None for a leaf whose key is no account's: of such a surplus there is no proof."""
        if shown.key >= ACCOUNTS:
            return None
        account, header = account_of(shown.key), self._case.header
        entries = (
            look_up(self._entries.tree, self.entry_keys, key << 64) for key in (shown.key, shown.key + 1)
        )
        parent = self._case.parent or header
        witness = BalanceWitness(account, parent, self._earlier(shown.key), shown.lookup, *entries)
        text = f"the balance of {account} is {shown.value}, it must be {expected}"
        return Wrong(Finding("balance", text), WrongBalanceProof(header, witness))

    def compare(self) -> Wrong | Needs:
        """Account by account beside a parent that is not wholly known."""
        opened = _opened(self._case, Tree.BALANCES)
        if wrong := _contradicted(self._case, Tree.BALANCES, opened):
            return wrong
        wanted: dict[Tree, list[int]] = {Tree.PARENT_BALANCES: [], Tree.BALANCES: []}
        for key in self._accounts(opened):
            before, after = self._parent.get(key), opened.get(key)
            if before is None:
                wanted[Tree.PARENT_BALANCES].append(key)
            if after is None:
                wanted[Tree.BALANCES].append(key)
            if before is None or after is None:
                continue
            expected = before.value + self._entries.earned.get(account_of(key), 0)
            if after.value != expected and (found := self.prove(after, expected)):
                return found
        if self._case.parent is not None:
            wanted[Tree.PARENT_BALANCES] += HiddenBalances(self._case.parent, self._parent).next_keys()
        finding = Finding("parent_data", "the balances of the batch before it are not known")
        demands = (in_demands(tree, sorted(set(keys))) for tree, keys in wanted.items())
        return Needs(finding, tuple(one for group in demands for one in group))

    def _accounts(self, opened: Opened) -> list[int]:
        """All that have a leaf in either tree, as far as we know, or earn in this batch."""
        leaves = (*self._parent.leaves.values(), *opened.leaves.values())
        heard = {key for key, _ in leaves if key < ACCOUNTS}
        return sorted(heard.union(map(balance_key, self._entries.earned)))

    def _earlier(self, key: int) -> Lookup:
        if self._case.parent is None:
            return NO_LOOKUP
        if (shown := self._parent.get(key)) is not None:
            return shown.lookup
        if self.ledger is None:
            raise ValueError("the parent's balances are not known")
        keys = sorted(map(balance_key, self.ledger.balances))
        return look_up(self.ledger.balances_tree(), keys, key)
