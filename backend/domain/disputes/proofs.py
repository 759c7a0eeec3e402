"""Fraud proofs, each a call of the contract `Disputes`.

`function` is the name in the contract and `args` are its arguments. `holds` evaluates a proof as the contract
does: whether the call would convict a batch that is neither void nor final.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from backend.domain.batch import pack_spans
from backend.domain.disputes.lookups import InvalidWitness, TreeRoot, tree_of
from backend.domain.disputes.receipt_rules import (
    Registrations,
    charge_of,
    check_preimages,
    check_spans,
    checked_slice,
    fault_of,
    is_in_snapshot,
    is_misplaced,
    overlap,
    position_at,
)
from backend.domain.disputes.witnesses import (
    ITEM,
    Fault,
    Tree,
    balance_key,
    receipt_abi,
    unpack_list,
)
from backend.domain.entries import entry_key
from backend.domain.hashing import receipt_id, to_bytes
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, Account
from backend.domain.merkle import InvalidOpening
from backend.domain.money import mul_ppm_down

if TYPE_CHECKING:
    from backend.domain.batch import Header, Span
    from backend.domain.disputes.witnesses import (
        BalanceWitness,
        EntryPlace,
        Lookup,
        ReceiptWitness,
        SnapshotWitness,
    )
    from backend.domain.ids import DatanetId
    from backend.domain.merkle import Opening
    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import Receipt, VersionRecord
    from backend.domain.registries import Contribution

_FIRST_CONTRIBUTOR = 3
_U128 = (1 << 128) - 1


class ContractState(Registrations, Protocol):
    """State of other contracts that the evaluation reads."""

    def parameter_set(self, number: int) -> ParameterSet | None: ...

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None: ...

    def signed_for(self, receipt: Receipt, signature: str, committed_at: int) -> Account | None:
        """The operator whose receipt key signed the receipt, if any and if that key counts for a batch
        committed at `committed_at` (unix seconds).
        """
        ...

    def claimed_of(self, operator: Account, account: Account) -> int:
        """Micro-units that an account claimed from an operator so far."""
        ...


class Proof(Protocol):
    """One of the classes below."""

    @property
    def function(self) -> str:
        """Function of `Disputes`."""
        ...

    @property
    def header(self) -> Header:
        """Header of the batch that it convicts."""
        ...

    @property
    def args(self) -> tuple[Any, ...]:
        """Arguments of the function, for the chain client."""
        ...


@dataclass(frozen=True, slots=True)
class BadReceiptProof:
    """A receipt violates the rules, or is outside its place if the batch's `spans` are given."""

    function: ClassVar[str] = "proveBadReceipt"
    header: Header
    witness: ReceiptWitness
    spans: tuple[Span, ...] = ()

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.witness.abi, "0x" + pack_spans(self.spans).hex())

    @property
    def is_placing(self) -> bool:
        """Whether the proof claims that the receipt lies outside its place in the spans."""
        return bool(self.spans)

    def evaluate(self, state: ContractState) -> Fault:
        """The fault that the contract would find. Errors: `InvalidOpening` where it reverts."""
        prefix = _open_receipt(self.header, self.witness.receipt, self.witness.opening)
        if not self.is_placing:
            return fault_of(self.witness, self.header.committed_at, state)
        check_spans(self.spans, self.header.spans_hash)
        is_outside = is_misplaced(self.witness.receipt, self.spans, prefix)
        return Fault.PLACE if is_outside else Fault.NONE


@dataclass(frozen=True, slots=True)
class BadPositionProof:
    """Item `item` of a slice's attribution list is a contribution that is not in its snapshot."""

    function: ClassVar[str] = "proveBadPosition"
    header: Header
    witness: ReceiptWitness
    slice: int
    item: int
    snapshot: SnapshotWitness

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.witness.abi, self.slice, self.item, self.snapshot.abi)

    def evaluate(self, _state: ContractState) -> bool:
        _open_receipt(self.header, self.witness.receipt, self.witness.opening)
        check_preimages(self.witness)
        part = checked_slice(self.witness, self.slice)
        number, index = position_at(part.packed_list, self.item)
        return not is_in_snapshot(part.record, number, index, self.snapshot)


@dataclass(frozen=True, slots=True)
class WrongEntryProof:
    """The entry for a part of a receipt's charge differs from the split."""

    function: ClassVar[str] = "proveWrongEntry"
    header: Header
    witness: ReceiptWitness
    place: EntryPlace
    lookup: Lookup

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.witness.abi, self.place.abi, self.lookup.abi)

    def evaluate(self, state: ContractState) -> bool:
        _open_receipt(self.header, self.witness.receipt, self.witness.opening)
        check_preimages(self.witness)
        checked_slice(self.witness, self.place.slice)
        account, expected = self._earned(state)
        place = (self.witness.opening.index, self.place.slice, self.place.part)
        key = int.from_bytes(entry_key(to_bytes(account), *place), "big")
        return tree_of(self.header, Tree.ENTRIES).find(key, self.lookup)[0] != expected

    def _earned(self, state: ContractState) -> tuple[Account, int]:
        """The account that earns the part, and the amount."""
        terms = state.parameter_set(self.header.parameter_set)
        if terms is None:
            raise InvalidWitness(f"there is no parameter set {self.header.parameter_set}", "parameter_set")
        part, number = self.witness.parts[self.place.slice], self.place.part
        amounts = _parts(charge_of(self.witness, self.place.slice), terms.fee_ppm, part.record)
        if number < _FIRST_CONTRIBUTOR:
            return (terms.treasury, self.header.operator, part.record.creator)[number], amounts[number]
        item, pool = number - _FIRST_CONTRIBUTOR, amounts[_FIRST_CONTRIBUTOR]
        if not part.record.snapshots:
            if item != 0:
                raise InvalidWitness("there is no such part", "part")
            return terms.treasury, pool
        if item >= len(part.packed_list) // ITEM:
            raise InvalidWitness("there is no such part", "part")
        return self._contributor(state, item), _pool_part(pool, part.packed_list, item)

    def _contributor(self, state: ContractState, item: int) -> Account:
        part, snapshot = self.witness.parts[self.place.slice], self.place.snapshot
        number, index = position_at(part.packed_list, item)
        if not is_in_snapshot(part.record, number, index, snapshot):
            raise InvalidWitness("the contribution is not in the snapshot", "snapshot")
        contribution = state.contribution(snapshot.datanet, index)
        if contribution is None or contribution.content_hash != self.place.content_hash:
            raise InvalidWitness("not the content hash of that contribution", "content_hash")
        return contribution.contributor


@dataclass(frozen=True, slots=True)
class WrongBalanceProof:
    """An account's balance is not its balance in the parent plus its entries."""

    function: ClassVar[str] = "proveWrongBalance"
    header: Header
    witness: BalanceWitness

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.witness.abi)

    def evaluate(self, _state: ContractState) -> bool:
        witness, key = self.witness, balance_key(self.witness.account)
        earlier = self._earlier(key)
        entries = tree_of(self.header, Tree.ENTRIES)
        _, start = entries.find(key << 64, witness.entries_from)
        _, until = entries.find((key + 1) << 64, witness.entries_until)
        value, _ = tree_of(self.header, Tree.BALANCES).find(key, witness.later)
        return until < start or earlier + until - start != value

    def _earlier(self, key: int) -> int:
        if self.header.parent == ZERO_HASH:
            return 0
        if self.witness.parent.hash != self.header.parent:
            raise InvalidWitness("not the header of the parent", "parent")
        return tree_of(self.witness.parent, Tree.PARENT_BALANCES).find(key, self.witness.earlier)[0]


@dataclass(frozen=True, slots=True)
class BelowClaimedProof:
    """An account's balance is below what the account already claimed from the operator."""

    function: ClassVar[str] = "proveBelowClaimed"
    header: Header
    account: Account
    lookup: Lookup

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.account, self.lookup.abi)

    def evaluate(self, state: ContractState) -> bool:
        value, _ = tree_of(self.header, Tree.BALANCES).find(balance_key(self.account), self.lookup)
        return value < state.claimed_of(self.header.operator, self.account)


@dataclass(frozen=True, slots=True)
class WrongOrderProof:
    """Two leaves of the entries or balances, in the order of their indices, whose keys do not rise."""

    function: ClassVar[str] = "proveWrongOrder"
    header: Header
    tree: Tree
    leaves: Lookup

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, int(self.tree), self.leaves.abi)

    def evaluate(self, _state: ContractState) -> bool:
        root = _tree_among(self.header, self.tree, {Tree.ENTRIES, Tree.BALANCES})
        if min(len(self.leaves.keys), len(self.leaves.openings)) < 2:
            raise InvalidWitness("two leaves are needed", "leaves")
        (left, right), (first, second) = self.leaves.keys[:2], self.leaves.openings[:2]
        root.open_key(left, first)
        root.open_key(right, second)
        return first.index < second.index and left >= right


@dataclass(frozen=True, slots=True)
class ZeroLeafProof:
    """A leaf without value (its key may be unknown), or with a node without value next to its path."""

    function: ClassVar[str] = "proveZeroLeaf"
    header: Header
    tree: Tree
    leaf_hash: bytes
    opening: Opening

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, int(self.tree), "0x" + self.leaf_hash.hex(), self.opening.abi)

    def evaluate(self, _state: ContractState) -> bool:
        root = _tree_among(self.header, self.tree, {Tree.RECEIPTS, Tree.ENTRIES, Tree.BALANCES})
        root.open_leaf(self.leaf_hash, self.opening)
        return self.opening.value == 0 or self.opening.has_zero_sibling


@dataclass(frozen=True, slots=True)
class EquivocationProof:
    """The operator signed another receipt that overlaps a receipt of the batch."""

    function: ClassVar[str] = "proveEquivocation"
    header: Header
    receipt: Receipt
    opening: Opening
    other: Receipt
    signature: str

    @property
    def args(self) -> tuple[Any, ...]:
        receipt, other = receipt_abi(self.receipt), receipt_abi(self.other)
        return (self.header.abi, receipt, self.opening.abi, other, self.signature)

    def evaluate(self, state: ContractState) -> bool:
        receipt, other = self.receipt, self.other
        _open_receipt(self.header, receipt, self.opening)
        operator = state.signed_for(other, self.signature, self.header.committed_at)
        if operator in (None, ZERO_ACCOUNT) or operator != self.header.operator:
            raise InvalidWitness("not signed by the batch's operator", "signature")
        if receipt == other or receipt.channel_id != other.channel_id:
            raise InvalidWitness("the receipts are equal or of different channels", "other")
        if receipt.cumulative < receipt.charge or other.cumulative < other.charge:
            raise InvalidWitness("a receipt begins before zero", "cumulative")
        return overlap(receipt, other)


BatchProof = (
    BadReceiptProof
    | BadPositionProof
    | WrongEntryProof
    | WrongBalanceProof
    | BelowClaimedProof
    | WrongOrderProof
    | ZeroLeafProof
)
"""Proofs that need only the batch and the chain."""


def holds(proof: BatchProof | EquivocationProof, state: ContractState) -> bool:
    """Whether the contract would convict, if the batch is neither void nor final."""
    try:
        return bool(proof.evaluate(state))
    except InvalidOpening:
        return False


def _open_receipt(header: Header, receipt: Receipt, opening: Opening) -> int:
    return tree_of(header, Tree.RECEIPTS).open_key(int(receipt_id(receipt), 16), opening)


def _tree_among(header: Header, tree: Tree, allowed: set[Tree]) -> TreeRoot:
    if tree not in allowed:
        raise InvalidWitness(f"the proof is not about the tree {tree.name}", "tree")
    return tree_of(header, tree)


def _parts(charge: int, fee_ppm: int, record: VersionRecord) -> tuple[int, int, int, int]:
    """Amounts of fee, operator, creator and the contributors' pool.

    The record may be unregistered, so its ratios are not validated. Errors: `InvalidWitness` if they exceed
    the whole.
    """
    fee = mul_ppm_down(charge, fee_ppm)
    rest = charge - fee
    operator, creator = mul_ppm_down(rest, record.operator_ppm), mul_ppm_down(rest, record.creator_ppm)
    pool = rest - operator - creator
    if min(rest, pool) < 0:
        raise InvalidWitness("the record's ratios exceed the whole", "record")
    return fee, operator, creator, pool


def _pool_part(pool: int, packed_list: bytes, item: int) -> int:
    """A contributor's part of the pool, as the contract computes it for a list that may be malformed."""
    ppms = [share.ppm for share in unpack_list(packed_list)]
    amounts = [mul_ppm_down(pool, ppm) for ppm in ppms]
    if item != ppms.index(max(ppms)):
        return amounts[item] & _U128
    rest = amounts[item] + pool - sum(amounts)
    if rest < 0:
        raise InvalidWitness("the list's parts exceed the whole", "list")
    return rest & _U128
