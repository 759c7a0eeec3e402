"""The fraud proofs as calls of `Disputes`, and what each of them shows.

`verb` is the function, `args` its arguments. `holds` is the twin of the contract's evaluation: whether the
call would convict, provided that the batch stands and is not final yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from backend.domain.disputes import receipt_abi

if TYPE_CHECKING:
    from backend.domain.batch import Header
    from backend.domain.disputes import (
        BalanceWitness,
        Demand,
        EntryPlace,
        Lookup,
        ReceiptWitness,
        SnapshotWitness,
        Tree,
    )
    from backend.domain.merkle import Opening
    from backend.domain.receipt import Receipt


class Proof(Protocol):
    """Any of the classes below."""

    verb: ClassVar[str]
    """Function of `Disputes`."""

    @property
    def header(self) -> Header:
        """Of the batch that falls by it."""
        ...

    @property
    def args(self) -> tuple[Any, ...]:
        """Of the function, ready for the chain client."""
        ...


@dataclass(frozen=True, slots=True)
class BadReceiptProof:
    """A receipt is faulty in itself, or off its place if the packed `spans` are given."""

    verb: ClassVar[str] = "badReceipt"
    header: Header
    witness: ReceiptWitness
    spans: bytes = b""

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.witness.abi, "0x" + self.spans.hex())


@dataclass(frozen=True, slots=True)
class BadPositionProof:
    """Entry `item` of a slice's list names a contribution that is not in its snapshot."""

    verb: ClassVar[str] = "badPosition"
    header: Header
    witness: ReceiptWitness
    slice: int
    item: int
    snapshot: SnapshotWitness

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.witness.abi, self.slice, self.item, self.snapshot.abi)


@dataclass(frozen=True, slots=True)
class WrongEntryProof:
    """The entry of a part of a receipt's charge is not what the split makes of it."""

    verb: ClassVar[str] = "wrongEntry"
    header: Header
    witness: ReceiptWitness
    place: EntryPlace
    lookup: Lookup

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.witness.abi, self.place.abi, self.lookup.abi)


@dataclass(frozen=True, slots=True)
class WrongBalanceProof:
    """An account's balance is not its balance in the parent and its entries."""

    verb: ClassVar[str] = "wrongBalance"
    header: Header
    witness: BalanceWitness

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, self.witness.abi)


@dataclass(frozen=True, slots=True)
class WrongOrderProof:
    """Two leaves of the entries or the balances, the one further left first, whose keys do not rise."""

    verb: ClassVar[str] = "wrongOrder"
    header: Header
    tree: Tree
    leaves: Lookup

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, int(self.tree), self.leaves.abi)


@dataclass(frozen=True, slots=True)
class ZeroLeafProof:
    """A leaf that is worth nothing; its key may be unknown."""

    verb: ClassVar[str] = "zeroLeaf"
    header: Header
    tree: Tree
    leaf_hash: bytes
    opening: Opening

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.header.abi, int(self.tree), "0x" + self.leaf_hash.hex(), self.opening.abi)


@dataclass(frozen=True, slots=True)
class EquivocationProof:
    """The operator signed another receipt over money that a receipt of the batch covers."""

    verb: ClassVar[str] = "equivocation"
    header: Header
    receipt: Receipt
    opening: Opening
    other: Receipt
    signature: str

    @property
    def args(self) -> tuple[Any, ...]:
        receipt, other = receipt_abi(self.receipt), receipt_abi(self.other)
        return (self.header.abi, receipt, self.opening.abi, other, self.signature)


@dataclass(frozen=True, slots=True)
class UnansweredProof:
    """A demand whose deadline passed without an answer to each key."""

    verb: ClassVar[str] = "unanswered"
    demand: Demand
    header: Header

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.demand.abi, self.header.abi)
