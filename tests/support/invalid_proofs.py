"""Generates invalid proofs against an honest batch: valid witnesses in wrong places, and invalid ones."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from backend.domain.disputes.lookups import leaf_hash, look_up
from backend.domain.disputes.proofs import (
    BadPositionProof,
    BadReceiptProof,
    BelowClaimedProof,
    EquivocationProof,
    WrongBalanceProof,
    WrongEntryProof,
    WrongOrderProof,
    ZeroLeafProof,
)
from backend.domain.disputes.witnesses import (
    NO_SNAPSHOT,
    BalanceWitness,
    EntryPlace,
    Lookup,
    ReceiptWitness,
    SnapshotWitness,
    Tree,
    balance_key,
)
from backend.domain.hashing import accepted_words, keccak, receipt_id
from backend.domain.ids import Account
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, NODE, RECEIPTS_TAG, Opening
from backend.domain.rules import from_position
from tests.support.market import some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from backend.domain.disputes.proofs import BatchProof
    from backend.domain.receipt import Slice
    from tests.support.batch_factory import BatchFactory
    from tests.support.dishonest_operator import DisputedBatch, Leaves

    AnyProof = BatchProof | EquivocationProof

_U128 = (1 << 128) - 1


class InvalidProofs:
    """Generates invalid proofs against one honest batch, most of them with valid openings."""

    def __init__(self, random: Random, disputed: DisputedBatch, factory: BatchFactory) -> None:
        self.random, self.disputed, self.factory = random, disputed, factory
        self.header, self.draft, self.trees = disputed.header, disputed.draft, disputed.trees

    def proofs(self, count: int) -> Iterator[AnyProof]:
        """Proofs of each type in turn, each followed by a mutated copy."""
        makers = (
            self.bad_receipt,
            self.bad_position,
            self.wrong_entry,
            self.wrong_balance,
            self.below_claimed,
            self.wrong_order,
            self.zero_leaf,
            self.equivocation,
        )
        for n in range(count):
            proof = makers[n % len(makers)]()
            yield proof
            yield mutate(self.random, proof)

    def bad_receipt(self) -> AnyProof:
        spans = self.random.choice([(), self.draft.spans, self.draft.spans[::-1], self.draft.spans[:1]])
        return BadReceiptProof(self.header, self.witness(), spans)

    def bad_position(self) -> AnyProof:
        witness, index = self.witness_and_index()
        slices = self.draft.receipts[index].slices
        number = self.random.randrange(len(slices) + 1)
        slice_ = slices[number % len(slices)]
        item = self.random.randrange(len(slice_.shares) + 1)
        return BadPositionProof(self.header, witness, number, item, self.snapshot_of(slice_, item))

    def wrong_entry(self) -> AnyProof:
        witness, index = self.witness_and_index()
        slices = self.draft.receipts[index].slices
        number = self.random.randrange(len(slices))
        slice_ = slices[number]
        part = self.random.randrange(4 + len(slice_.shares))
        item = part - 3
        snapshot, content = self.snapshot_of(slice_, item), some_hash("content")
        if 0 <= item < len(slice_.shares):
            where = from_position(slice_.shares[item].position)[1]
            kept = self.factory.contribution(snapshot.datanet, where)
            content = kept.content_hash if kept else content
        place = EntryPlace(number, part, snapshot, content)
        keys = [
            k for k, _ in self.draft.entries if k & 0xFFFFFFFFFFFFFFFF == index << 32 | number << 16 | part
        ]
        key = keys[0] if keys and self.random.random() < 0.8 else self.some_key(self.draft.entries, 1 << 64)
        return WrongEntryProof(self.header, witness, place, self.lookup(Tree.ENTRIES, key))

    def wrong_balance(self) -> AnyProof:
        key = self.some_key(self.draft.balances, 1)
        if key >= 1 << 160:
            key = 1
        parent = self.disputed.parent
        earlier = self.random.choice([key, key, key + 1])
        witness = BalanceWitness(
            account=Account(f"0x{key:040x}"),
            parent=parent.header if parent else self.header,
            earlier=(parent or self.disputed).answer(Tree.BALANCES, earlier, self.factory) or Lookup((), ()),
            later=self.lookup(Tree.BALANCES, self.random.choice([key, key, key, key - 1])),
            entries_from=self.lookup(Tree.ENTRIES, self.random.choice([key, key, key, key - 1]) << 64),
            entries_until=self.lookup(
                Tree.ENTRIES, self.random.choice([key + 1, key + 1, key, key + 2]) << 64
            ),
        )
        return WrongBalanceProof(self.header, witness)

    def below_claimed(self) -> AnyProof:
        """Of an account with or without claims or balance, by its own look-up or another."""
        key = self.some_key(self.draft.balances, 1)
        if self.factory.claimed and self.random.random() < 0.7:
            key = balance_key(self.random.choice(sorted(self.factory.claimed)))
        if key >= 1 << 160:
            key = 1
        lookup = self.lookup(Tree.BALANCES, self.random.choice([key, key, key, key - 1]))
        return BelowClaimedProof(self.header, Account(f"0x{key:040x}"), lookup)

    def wrong_order(self) -> AnyProof:
        tree = self.random.choice(list(Tree))
        leaves, sums = self.leaves(tree)
        pair = [self.random.randrange(len(leaves)) for _ in range(2)]
        keys = [leaves[i][0] for i in pair]
        if self.random.random() < 0.3:
            keys.reverse()
        return WrongOrderProof(self.header, tree, Lookup(tuple(keys), tuple(map(sums.open, pair))))

    def zero_leaf(self) -> AnyProof:
        tree = self.random.choice(list(Tree))
        leaves, sums = self.leaves(tree)
        tag = (RECEIPTS_TAG, ENTRIES_TAG, BALANCES_TAG, BALANCES_TAG)[tree]
        index = self.random.randrange(len(leaves))
        opening, leaf = sums.open(index), leaf_hash(tag, leaves[index][0])
        variant = self.random.randrange(4)
        if variant == 1:
            opening = replace(opening, value=0)
        elif variant == 2 and opening.path:  # an inner node for a leaf
            own, sibling = opening.value.to_bytes(16, "big") + leaf, opening.path[:NODE]
            leaf = keccak(sibling + own if index & 1 else own + sibling)
            opening = Opening(index >> 1, 0, opening.path[NODE:])
        elif variant == 3:
            leaf = some_hash("leaf")[2:].encode()[:32]
        return ZeroLeafProof(self.header, tree, leaf, opening)

    def equivocation(self) -> AnyProof:
        index = self.random.randrange(len(self.draft.receipts))
        one, other = (
            self.draft.receipts[i] for i in (index, self.random.randrange(len(self.draft.receipts)))
        )
        receipt, signature = other.receipt, other.signature
        variant = self.random.randrange(4)
        if variant == 1:  # never signed
            receipt = replace(receipt, request_hash=some_hash("another"))
        elif variant == 2:  # signed, free of charge, within the other's interval
            signed = self.factory.signed(
                replace(one.receipt, charge=0, request_hash=some_hash("free")), one.slices
            )
            receipt, signature = signed.receipt, signed.signature
        elif variant == 3:  # signed, adjacent to it
            behind = replace(one.receipt, cumulative=one.receipt.cumulative + one.receipt.charge)
            signed = self.factory.signed(behind, one.slices)
            receipt, signature = signed.receipt, signed.signature
        opening = self.trees["receipts"].open(index)
        return EquivocationProof(self.header, one.receipt, opening, receipt, signature)

    # Parts

    def witness(self) -> ReceiptWitness:
        return self.witness_and_index()[0]

    def witness_and_index(self) -> tuple[ReceiptWitness, int]:
        """A witness of a random receipt, sometimes with another receipt's opening or slices."""
        index = self.random.randrange(len(self.draft.receipts))
        place = index if self.random.random() < 0.8 else self.random.randrange(len(self.draft.receipts))
        signed = self.draft.receipts[index]
        records = [r for s in signed.slices if (r := self.factory.version(s.version_id))]
        witness = ReceiptWitness.of(signed, self.trees["receipts"].open(place), records)
        if self.random.random() < 0.2:
            unrelated = self.random.choice(self.draft.receipts)
            other = ReceiptWitness.of(unrelated, witness.opening, records)
            witness = replace(witness, slices=other.slices, parts=other.parts)
        return witness, index

    def snapshot_of(self, slice_: Slice, item: int) -> SnapshotWitness:
        """Usually the snapshot of that share; sometimes another one."""
        record = self.factory.version(slice_.version_id)
        if record is None or not record.snapshots or not 0 <= item < len(slice_.shares):
            return NO_SNAPSHOT
        which = from_position(slice_.shares[item].position)[0]
        wanted = record.snapshots[which]
        if self.random.random() < 0.2:
            wanted = self.random.choice(list(self.factory.snapshots))
        known = self.factory.snapshots[wanted]
        bits = accepted_words([i in known.accepted for i in range(known.count)])
        return SnapshotWitness(known.datanet, known.count, bits)

    def leaves(self, tree: Tree) -> tuple[Leaves, Any]:
        if tree is Tree.RECEIPTS:
            ids = [int(receipt_id(s.receipt), 16) for s in self.draft.receipts]
            return list(zip(ids, self.draft.values, strict=True)), self.trees["receipts"]
        name = "entries" if tree is Tree.ENTRIES else "balances"
        return getattr(self.draft, name), self.trees[name]

    def lookup(self, tree: Tree, key: int) -> Lookup:
        """Usually a lookup of the key; sometimes of another key, or of leaves that are not neighbours."""
        leaves, sums = self.leaves(tree)
        keys = [k for k, _ in leaves]
        variant = self.random.randrange(8)
        if variant == 0:
            key = self.some_key(leaves, 1)
        if variant == 1:
            pair = sorted(self.random.randrange(len(keys)) for _ in range(2))
            return Lookup(tuple(keys[i] for i in pair), tuple(map(sums.open, pair)))
        if variant == 2:
            edge = self.random.choice([0, len(keys) - 1])
            return Lookup((keys[edge],), (sums.open(edge),))
        return look_up(sums, keys, max(key, 0))

    def near(self, key: int) -> int:
        return self.random.choice([key, key, key, max(key - 1, 0), key + 1])

    def some_key(self, leaves: Leaves, step: int) -> int:
        key = self.random.choice(leaves)[0]
        return self.random.choice(
            [key, key, key, key + step, max(key - step, 0), self.random.getrandbits(159)]
        )


def mutate(random: Random, proof: Any) -> Any:
    """Change one field: a number, a bit, or a part that is dropped or repeated."""
    found = [f for f in fields(proof) if f.name != "header" and not isinstance(getattr(proof, f.name), Tree)]
    field = random.choice(found).name
    return replace(proof, **{field: _changed(random, getattr(proof, field))})


def _changed(random: Random, value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        inner = [f.name for f in fields(value) if f.name != "name"]
        name = random.choice(inner)
        return replace(value, **{name: _changed(random, getattr(value, name))})
    if isinstance(value, tuple):
        return _changed_tuple(random, value)
    if isinstance(value, bytes):
        return _changed_bytes(random, value)
    if isinstance(value, int):
        return random.choice([value + 1, max(value - 1, 0), 0, value ^ 1 << 7])
    bits = int(value, 16) ^ 1 << random.randrange(4 * (len(value) - 2))
    return f"0x{bits:0{len(value) - 2}x}"


def _changed_tuple(random: Random, value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        return value
    place = random.randrange(len(value))
    variant = random.randrange(3)
    if variant == 0:
        return value[:place] + value[place + 1 :]
    if variant == 1:
        return (*value, value[place])
    return (*value[:place], _changed(random, value[place]), *value[place + 1 :])


def _changed_bytes(random: Random, value: bytes) -> bytes:
    variant = random.randrange(3)
    if variant == 0 or not value:
        return value + bytes(random.choice([1, 8, NODE]))
    if variant == 1:
        return value[: -random.choice([1, 8, 32, NODE])]
    place = random.randrange(len(value))
    return value[:place] + bytes([value[place] ^ 1 << random.randrange(8)]) + value[place + 1 :]
