"""Builds invalid batches and the proofs against them, for the dispute figures of `tools/gas.py`.

The proofs are valid: one batch is wrong in a receipt's price, in an entry and in a balance. Its receipts and
entries are full trees; its balances tree has one known opening with arbitrary siblings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from backend.domain.disputes.proofs import (
    BadReceiptProof,
    Proof,
    WrongBalanceProof,
    WrongEntryProof,
    ZeroLeafProof,
)
from backend.domain.disputes.witnesses import (
    BalanceWitness,
    EntryPlace,
    Lookup,
    ReceiptWitness,
    SnapshotWitness,
    Tree,
)
from backend.domain.entries import entry_key
from backend.domain.hashing import (
    accepted_hash,
    accepted_words,
    ascii_word,
    attribution_hash,
    keccak,
    receipt_id,
    record_argument,
    slices_hash,
    snapshot_id,
    to_bytes,
    to_hash,
    version_id,
    word,
)
from backend.domain.ids import Account, ChannelId, DatanetId
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, Opening, SumTree, resolve
from backend.domain.money import PPM
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice, VersionRecord

if TYPE_CHECKING:
    from backend.domain.batch import Header
    from tools.gas_market import Chain

NUM_RECEIPTS = 10_000
NUM_ENTRIES = 670_000
ENTRIES_EACH = 67
DEPTH = 20
"""Depth of the balances tree."""
NUM_SLICES = 4
LIST_ITEMS = 64
TOTAL = 10**9
"""Total of the batch in micro-units."""
INDEX = 5_000
"""Index of the faulty receipt."""
SLICE, ITEM = 2, 32
"""Slice, and item of its list, of the wrong entry."""
FIRST_CONTRIBUTOR = 3
DATANET = DatanetId(2)
METHOD = "hidden-cosine"
SOME = to_hash(keccak(b"some"))


def deep_opening(account: Account, value: int, total: int) -> tuple[Opening, bytes]:
    """Return an opening of one of 2^20 balances that sum to `total`, and the root that it implies."""
    part = (total - value) // DEPTH
    sums = [part + (total - value) % DEPTH, *[part] * (DEPTH - 1)]
    path = b"".join(s.to_bytes(16, "big") + keccak(bytes([i])) for i, s in enumerate(sums))
    opening = Opening(0xA5A5A, value, path)
    return opening, resolve(BALANCES_TAG, word(account), 2**DEPTH, opening).root


def zero_receipts(total: int) -> SumTree:
    """Return a tree of two receipts, of which the second has value zero."""
    return SumTree(RECEIPTS_TAG, [(word(1), total), (word(2), 0)])


def zero_leaf_proof(header: Header) -> Proof:
    """Return the proof against a batch whose receipts are `zero_receipts`."""
    leaf = keccak(RECEIPTS_TAG + word(2))
    return ZeroLeafProof(header, Tree.RECEIPTS, leaf, zero_receipts(header.total).open(1))


@dataclass(frozen=True)
class Provenance:
    """A snapshot of `LIST_ITEMS` contributions of one contributor, and the versions trained on it."""

    contributor: Account
    contents: tuple[bytes, ...]
    snapshot: SnapshotWitness
    records: tuple[VersionRecord, ...]

    @classmethod
    def recorded(cls, chain: Chain) -> Provenance:
        contributor = chain.fresh("contributor of the list")
        contents = tuple(keccak(f"listed {i}".encode()) for i in range(LIST_ITEMS))
        chain.send(
            chain.operator, "DatasetRegistry", "createDatanet", ascii_word("listed"), keccak(b"folder")
        )
        for content in contents:
            parts = (DATANET, content, keccak(b"folder"), ascii_word("MIT"), 100)
            chain.send(contributor, "DatasetRegistry", "contribute", parts)
        reviews = [(content, True, 0) for content in contents]
        chain.send(chain.operator, "DatasetRegistry", "review", DATANET, reviews)
        chain.send(chain.operator, "DatasetRegistry", "freeze", DATANET, LIST_ITEMS)
        snapshot = SnapshotWitness(DATANET, LIST_ITEMS, accepted_words([True] * LIST_ITEMS))
        return cls(contributor.account, contents, snapshot, _registered(chain))

    def slices(self) -> tuple[Slice, ...]:
        """Return slices of an answer in which all versions and contributions have equal shares."""
        shares = tuple(Share(i, PPM // LIST_ITEMS) for i in range(LIST_ITEMS))
        return tuple(Slice(version_id(record), PPM // NUM_SLICES, shares) for record in self.records)


def _registered(chain: Chain) -> tuple[VersionRecord, ...]:
    creator = chain.fresh("creator of four")
    snapshot = snapshot_id(DATANET, LIST_ITEMS, accepted_hash([True] * LIST_ITEMS))
    records = tuple(
        VersionRecord(
            creator=creator.account,
            name=f"listed-{i}",
            adapter_digest=SOME,
            cid_digest=SOME,
            base_model=SOME,
            snapshots=(snapshot,),
            prompt_price=1_500_000,
            completion_price=2_000_000,
            operator_ppm=200_000,
            creator_ppm=300_000,
        )
        for i in range(NUM_SLICES)
    )
    for record in records:
        chain.send(creator, "AdapterRegistry", "register", record_argument(record))
    return records


class WrongBatch:
    """An invalid batch. `earlier` is the cumulative total of its parent with the root `parent_balances`."""

    def __init__(self, provenance: Provenance, channel: ChannelId, earlier: int) -> None:
        self._provenance = provenance
        self._account = provenance.contributor
        self._signed = _answer(provenance.slices(), channel)
        self._earlier, self.parent_balances = deep_opening(self._account, earlier // 2, earlier)
        # The balance lacks the account's entries of this batch.
        self._later, self._balances = deep_opening(self._account, earlier // 2, earlier + TOTAL)

    @property
    def roots(self) -> dict[str, tuple[bytes, int]]:
        receipts, entries = self._receipts, self._entries
        return {
            "receipts": (receipts.root, receipts.count),
            "entries": (entries.root, entries.count),
            "balances": (self._balances, 2**DEPTH),
        }

    def bad_receipt(self, header: Header) -> Proof:
        return BadReceiptProof(header, self._witness)

    def wrong_entry(self, header: Header) -> Proof:
        content = to_hash(self._provenance.contents[ITEM])
        place = EntryPlace(SLICE, FIRST_CONTRIBUTOR + ITEM, self._provenance.snapshot, content)
        lookup = self._lookup(self._keys.index(_entry(self._account, ITEM)))
        return WrongEntryProof(header, self._witness, place, lookup)

    def wrong_balance(self, header: Header, parent: Header) -> Proof:
        key, first = int(self._account, 16), self._keys.index(_entry(self._account, 0))
        last = first + ENTRIES_EACH - 1
        witness = BalanceWitness(
            account=self._account,
            parent=parent,
            earlier=Lookup((key,), (self._earlier,)),
            later=Lookup((key,), (self._later,)),
            entries_from=self._lookup(first - 1, first),
            entries_until=self._lookup(last, last + 1),
        )
        return WrongBalanceProof(header, witness)

    @cached_property
    def _keys(self) -> list[bytes]:
        numbers = range(1, NUM_ENTRIES // ENTRIES_EACH)
        made_up = [Account("0x" + keccak(word(number))[:20].hex()) for number in numbers]
        accounts = sorted([*made_up, self._account])
        return [_entry(account, item) for account in accounts for item in range(ENTRIES_EACH)]

    @cached_property
    def _entries(self) -> SumTree:
        values = [1] * (NUM_ENTRIES - 1)
        return SumTree(ENTRIES_TAG, zip(self._keys, [*values, TOTAL - len(values)], strict=True))

    @cached_property
    def _receipts(self) -> SumTree:
        charge = self._signed.receipt.charge
        leaves = [(word(i), 1) for i in range(NUM_RECEIPTS)]
        leaves[INDEX] = (to_bytes(receipt_id(self._signed.receipt)), charge)
        leaves[-1] = (word(NUM_RECEIPTS), TOTAL - charge - (NUM_RECEIPTS - 2))
        return SumTree(RECEIPTS_TAG, leaves)

    @cached_property
    def _witness(self) -> ReceiptWitness:
        return ReceiptWitness.of(self._signed, self._receipts.open(INDEX), self._provenance.records)

    def _lookup(self, *places: int) -> Lookup:
        keys = tuple(int.from_bytes(self._keys[place], "big") for place in places)
        return Lookup(keys, tuple(map(self._entries.open, places)))


def _entry(account: Account, item: int) -> bytes:
    return entry_key(to_bytes(account), INDEX, SLICE, FIRST_CONTRIBUTOR + item)


def _answer(slices: tuple[Slice, ...], channel: ChannelId) -> SignedReceipt:
    """Return a receipt for 20 and 200 tokens that charges one micro-unit above the price."""
    receipt = Receipt(
        channel_id=channel,
        cumulative=TOTAL,
        charge=20 * 1_500_000 + 200 * 2_000_000 + 1,
        request_hash=SOME,
        response_hash=SOME,
        slices_hash=slices_hash(slices),
        prompt_tokens=20,
        completion_tokens=200,
        attribution_hash=attribution_hash(METHOD, slices),
        served_at=1_800_000_000,
    )
    return SignedReceipt(receipt, METHOD, slices, "0x")
