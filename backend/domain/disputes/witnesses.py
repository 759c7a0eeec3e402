"""Trees, faults, witnesses and demands of disputes. Source: `contracts/interfaces/IDisputes.sol`.

Keys of leaves are 256-bit integers: the index of a receipt, the key of an entry, an account. `abi` returns a
struct with its Solidity field names, as an argument of a contract call; `from_chain` is the inverse.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from backend.domain.batch import camel_case
from backend.domain.hashing import (
    attribution_words,
    keccak,
    method_name,
    pack_list,
    pack_slices,
    record_argument,
    to_bytes,
    to_hash,
    word,
    words,
)
from backend.domain.ids import ZERO_HASH, Account, DatanetId, Hash32, SnapshotId, VersionId
from backend.domain.merkle import Opening
from backend.domain.receipt import PackedShares, Receipt, Share, SignedReceipt, Slice, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.domain.batch import Header

MAX_KEYS = 64
"""Keys that are demanded together, in one call: a search narrows a tree by so many parts in each round."""
SLICE, ITEM = 36, 8
"""Bytes of a packed slice, and of an item of a packed attribution list."""


class Tree(IntEnum):
    """Trees whose leaves can be demanded."""

    RECEIPTS = 0
    ENTRIES = 1
    BALANCES = 2
    PARENT_BALANCES = 3


class Fault(IntEnum):
    """Faults of a receipt, in the order of the checks."""

    NONE = 0
    VALUE = 1
    ZERO_CHARGE = 2
    SLICES = 3
    ATTRIBUTION = 4
    VERSION = 5
    LIST = 6
    PRICE = 7
    PLACE = 8
    POSITION = 9


@dataclass(frozen=True, slots=True)
class Lookup:
    """Proves the value under a key by its leaf, or its absence by the edge leaf or two adjacent leaves."""

    keys: tuple[int, ...]
    openings: tuple[Opening, ...]

    @property
    def abi(self) -> dict[str, Any]:
        return {"keys": list(map(key_word, self.keys)), "openings": [o.abi for o in self.openings]}

    @classmethod
    def from_chain(cls, values: Mapping[str, Any]) -> Lookup:
        keys = tuple(int(key, 16) for key in values["keys"])
        return cls(keys, tuple(map(opening_from_chain, values["openings"])))


NO_LOOKUP = Lookup((), ())
"""Placeholder where the contract reads no lookup."""


@dataclass(frozen=True, slots=True)
class SnapshotWitness:
    """Preimage of a snapshot's id. `accepted` has its accept bits in words of 32 bytes."""

    datanet: DatanetId
    count: int
    accepted: bytes

    @property
    def abi(self) -> dict[str, Any]:
        return {"datanetId": self.datanet, "count": self.count, "accepted": _hex(self.accepted)}


NO_SNAPSHOT = SnapshotWitness(DatanetId(0), 0, b"")


@dataclass(frozen=True, slots=True)
class SliceWitness:
    """Preimages of one slice: the version's record and the packed attribution list."""

    record: VersionRecord
    packed_list: bytes

    @property
    def abi(self) -> dict[str, Any]:
        return {"record": record_argument(self.record), "list": _hex(self.packed_list)}

    @classmethod
    def from_chain(cls, values: Mapping[str, Any]) -> SliceWitness:
        return cls(record_from_chain(values["record"]), to_bytes(values["list"]))


@dataclass(frozen=True, slots=True)
class ReceiptWitness:
    """A receipt of a batch with the preimages of its hashes."""

    receipt: Receipt
    opening: Opening
    slices: bytes
    attribution: bytes
    parts: tuple[SliceWitness, ...]

    @property
    def abi(self) -> dict[str, Any]:
        return {
            "receipt": receipt_abi(self.receipt),
            "opening": self.opening.abi,
            "slices": _hex(self.slices),
            "attribution": _hex(self.attribution),
            "parts": [part.abi for part in self.parts],
        }

    @classmethod
    def from_chain(cls, values: Mapping[str, Any]) -> ReceiptWitness:
        return cls(
            receipt=receipt_from_chain(values["receipt"]),
            opening=opening_from_chain(values["opening"]),
            slices=to_bytes(values["slices"]),
            attribution=to_bytes(values["attribution"]),
            parts=tuple(map(SliceWitness.from_chain, values["parts"])),
        )

    @classmethod
    def of(cls, signed: SignedReceipt, opening: Opening, records: Sequence[VersionRecord]) -> ReceiptWitness:
        """`records` are those of the slices in order; missing trailing ones are left out of the witness."""
        lists = (pack_list(s.shares) for s in signed.slices)
        return cls(
            receipt=signed.receipt,
            opening=opening,
            slices=pack_slices(signed.slices),
            attribution=attribution_words(signed.method, signed.slices),
            parts=tuple(map(SliceWitness, records, lists)),
        )


@dataclass(frozen=True, slots=True)
class AnsweredReceipt:
    """A receipt from an answer to a demand. The contract has checked its form."""

    witness: ReceiptWitness
    signature: str

    @property
    def signed(self) -> SignedReceipt:
        """The receipt in the form of batch data."""
        raw, attribution = self.witness.slices, self.witness.attribution
        lists = [part.packed_list for part in self.witness.parts]
        slices = tuple(
            Slice(
                VersionId(to_hash(raw[at : at + 32])),
                int.from_bytes(raw[at + 32 : at + SLICE], "big"),
                unpack_list(lists[n]),
            )
            for n, at in enumerate(range(0, len(raw), SLICE))
        )
        return SignedReceipt(self.witness.receipt, method_name(attribution[:32]), slices, self.signature)

    @classmethod
    def from_chain(cls, args: Mapping[str, Any]) -> AnsweredReceipt:
        """Build from the named arguments of `answerReceipt`."""
        return cls(ReceiptWitness.from_chain(args["witness"]), args["signature"])


@dataclass(frozen=True, slots=True)
class EntryPlace:
    """A part of a receipt's charge, with the contribution that earns it, if any."""

    slice: int
    part: int
    snapshot: SnapshotWitness = NO_SNAPSHOT
    content_hash: Hash32 = ZERO_HASH

    @property
    def abi(self) -> dict[str, Any]:
        return {
            "slice": self.slice,
            "part": self.part,
            "snapshot": self.snapshot.abi,
            "contentHash": self.content_hash,
        }


@dataclass(frozen=True, slots=True)
class BalanceWitness:
    """Lookups that determine an account's balance. For batch 1 the contract does not read the parent."""

    account: Account
    parent: Header
    earlier: Lookup
    later: Lookup
    entries_from: Lookup
    entries_until: Lookup

    @property
    def abi(self) -> dict[str, Any]:
        lookups = {name: getattr(self, name).abi for name in ("earlier", "later")}
        entries = {"entriesFrom": self.entries_from.abi, "entriesUntil": self.entries_until.abi}
        return {"account": self.account, "parent": self.parent.abi, **lookups, **entries}


def leaf_id(batch_hash: Hash32, tree: Tree, key: int) -> Hash32:
    """Id of a leaf that is demanded: `keccak(abi.encode(batchHash, tree, key))`."""
    return to_hash(keccak(words(batch_hash, int(tree), key)))


def key_word(key: int) -> Hash32:
    """A leaf's key as `bytes32`."""
    return to_hash(word(key))


def balance_key(account: Account) -> int:
    """Key of an account in a tree of balances."""
    return int(account, 16)


def receipt_abi(receipt: Receipt) -> dict[str, Any]:
    """Solidity's `Receipt`."""
    return {camel_case(f.name): getattr(receipt, f.name) for f in fields(Receipt)}


def receipt_from_chain(values: Mapping[str, Any]) -> Receipt:
    """Build from a mapping with Solidity's field names; integers may be decimal strings."""
    named: dict[str, Any] = {}
    for field in fields(Receipt):
        value = values[camel_case(field.name)]
        named[field.name] = int(value) if field.type == "int" else value
    return Receipt(**named)


def opening_from_chain(values: Mapping[str, Any]) -> Opening:
    return Opening(int(values["index"]), int(values["value"]), to_bytes(values["path"]))


def unpack_list(packed: bytes) -> tuple[Share, ...]:
    """The inverse of `pack_list`. Bytes after the last whole item are ignored."""
    return tuple(PackedShares(packed[: len(packed) - len(packed) % ITEM]))


def record_from_chain(values: Mapping[str, Any]) -> VersionRecord:
    """The inverse of `record_argument`."""
    return VersionRecord(
        creator=values["creator"],
        name=method_name(to_bytes(values["name"])),
        adapter_digest=values["adapterDigest"],
        cid_digest=values["cidDigest"],
        base_model=values["baseModel"],
        snapshots=tuple(SnapshotId(s) for s in values["snapshots"]),
        prompt_price=int(values["promptPrice"]),
        completion_price=int(values["completionPrice"]),
        operator_ppm=int(values["operatorPpm"]),
        creator_ppm=int(values["creatorPpm"]),
    )


def _hex(raw: bytes) -> str:
    return "0x" + raw.hex()
