"""Cases of `tests/vectors/example.json`: one small batch with its receipts, roots, a claim and a fraud proof.

`docs/protocol.md` shows them (see `example_page`); a test recomputes them from the text of that page alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.domain import hashing
from backend.domain.batch import HEADER_FIELDS, CommitTerms, OperatorLedger, build, pack_spans
from backend.domain.batch_data import FILE_NAME, BatchName, encode
from backend.domain.content import cid_digest
from backend.domain.disputes.lookups import leaf_hash, look_up
from backend.domain.disputes.proofs import WrongEntryProof
from backend.domain.disputes.witnesses import EntryPlace, ReceiptWitness, SnapshotWitness, key_word
from backend.domain.hashing import TypedDomain, keccak, to_bytes, to_hash
from backend.domain.ids import ZERO_HASH, Account, DatanetId, SnapshotId, VersionId
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, SumTree
from backend.domain.money import PPM, UNIT, mul_ppm_down, mul_ppm_to_units_up
from backend.domain.parameters import ParameterSet
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice, VersionRecord
from backend.domain.rules import Rules
from backend.domain.split import slice_charges, split
from backend.storage.folders import folder_cid
from tools.cases import Case, case
from tools.labels import some_account, some_hash, some_key
from tools.receipts import new_receipt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.domain.batch import Batch, Header

METHOD = "uniform-1"
SHORT = 1
"""Micro-units that the forged batch moves from a contributor to the operator."""


class Example:
    """A datanet of three contributions (the second rejected), an adapter, its base model, three answers."""

    operator, treasury, creator = map(some_account, ("operator", "treasury", "creator"))
    contributors = tuple(some_account(f"contributor {n}") for n in range(3))
    contents = tuple(some_hash(f"content {n}") for n in range(3))
    datanet = DatanetId(1)
    is_accepted = (True, False, True)
    settlement = TypedDomain(31337, some_account("settlement"))
    receipt_key = some_key("receipt key")
    terms = ParameterSet(
        id=0,
        treasury=treasury,
        fee_ppm=50_000,
        stake_cover_ppm=100_000,
        dispute_window=600,
        min_contributors_ppm=300_000,
        min_operator_ppm=50_000,
        max_operator_ppm=500_000,
        challenger_ppm=250_000,
    )

    # Registry

    @cached_property
    def accepted(self) -> bytes:
        return hashing.accepted_words(self.is_accepted)

    @cached_property
    def snapshot(self) -> SnapshotId:
        accepted = hashing.accepted_hash(self.is_accepted)
        return hashing.snapshot_id(self.datanet, len(self.is_accepted), accepted)

    @cached_property
    def adapter(self) -> VersionRecord:
        return VersionRecord(
            creator=self.creator,
            name="docstrings",
            adapter_digest=some_hash("adapter"),
            cid_digest=some_hash("folder"),
            base_model=some_hash("base model"),
            snapshots=(self.snapshot,),
            prompt_price=700_001,
            completion_price=1_300_003,
            operator_ppm=100_000,
            creator_ppm=200_000,
        )

    @cached_property
    def base(self) -> VersionRecord:
        return replace(
            self.adapter,
            name="base",
            adapter_digest=ZERO_HASH,
            cid_digest=ZERO_HASH,
            snapshots=(),
            prompt_price=300_000,
            completion_price=500_000,
            operator_ppm=300_000,
            creator_ppm=0,
        )

    def version(self, version: VersionId) -> VersionRecord | None:
        return next((r for r in (self.adapter, self.base) if hashing.version_id(r) == version), None)

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        return self.contributors[index] if snapshot == self.snapshot and self.is_accepted[index] else None

    # Serving

    @cached_property
    def channels(self) -> list[tuple[Account, Any]]:
        """Pairs of payer and channel, sorted by channel."""
        payers = [some_account(f"payer {n}") for n in range(2)]
        made = [(p, hashing.channel_id(p, self.operator, self.settlement.contract)) for p in payers]
        return sorted(made, key=lambda pair: str(pair[1]))

    @cached_property
    def receipts(self) -> tuple[SignedReceipt, ...]:
        """Two receipts on the first channel (adapter; both versions), one on the other (base model)."""
        shares = (Share(0, 500_001), Share(2, 499_999))
        adapter, base = map(hashing.version_id, (self.adapter, self.base))
        blend = (Slice(adapter, 666_667, shares), Slice(base, 333_333, ()))
        (_, first), (_, second) = self.channels
        one = self._serve(first, 0, (Slice(adapter, PPM, shares),), 17, 41)
        two = self._serve(first, one.receipt.cumulative, blend, 23, 7)
        return one, two, self._serve(second, 0, (Slice(base, PPM, ()),), 5, 9)

    def _serve(
        self, channel: Any, start: int, slices: tuple[Slice, ...], prompt: int, completion: int
    ) -> SignedReceipt:
        receipt = new_receipt(
            channel,
            start,
            METHOD,
            slices,
            self._records(slices),
            (prompt, completion),
            request_hash=hashing.salted_hash(bytes(32), b"{}"),
            response_hash=hashing.salted_hash(bytes(32), hashing.response_bytes(["Paris."])),
        )
        signature = self.receipt_key.sign(self.settlement.receipt_digest(receipt))
        return SignedReceipt(receipt, METHOD, slices, signature)

    def charges(self, slices: Sequence[Slice], prompt: int, completion: int) -> tuple[int, ...]:
        return slice_charges(slices, self._records(slices), prompt, completion)

    def _records(self, slices: Sequence[Slice]) -> list[VersionRecord]:
        return [record for s in slices if (record := self.version(s.version_id))]

    # Settling

    @cached_property
    def batch(self) -> Batch:
        return build(self.operator, OperatorLedger(), self.terms, self.receipts, Rules(self))

    @cached_property
    def data(self) -> bytes:
        name = BatchName(self.settlement.chain_id, self.settlement.contract, self.operator, 1)
        return encode(name, self.receipts)

    @cached_property
    def header(self) -> Header:
        digest = cid_digest(folder_cid({FILE_NAME: self.data}))
        cover = UNIT * mul_ppm_to_units_up(self.batch.total, self.terms.stake_cover_ppm)
        return self.batch.header(CommitTerms(1_790_000_060, 1_790_000_660, slash_up_to=cover), digest)

    @cached_property
    def entries(self) -> list[tuple[int, int]]:
        """Key and value."""
        leaves = self.batch.entries.leaves(0, len(self.batch.entries))
        return [(int.from_bytes(key, "big"), value) for key, value in leaves]

    def forged(self, place: EntryPlace) -> tuple[int, SumTree]:
        """The key of the entry that is too small in the forged entries, and the forged entries."""
        account = self.contributors[0]
        short = int(account, 16) << 64 | place.slice << 16 | place.part
        gain = int(self.operator, 16) << 64 | 1
        change = {short: -SHORT, gain: SHORT}
        leaves = ((key.to_bytes(32, "big"), value + change.get(key, 0)) for key, value in self.entries)
        return short, SumTree(ENTRIES_TAG, leaves)


def _parts(example: Example) -> list[int]:
    """Parts of the first receipt: fee, operator, creator, all contributors; two floors; the first's part."""
    (charge,), record = example.charges(example.receipts[0].slices, 17, 41), example.adapter
    shares = example.receipts[0].slices[0].shares
    parts = split(charge, example.terms.fee_ppm, record.operator_ppm, record.creator_ppm, shares)
    pool = sum(parts.contributors)
    floors = [mul_ppm_down(pool, share.ppm) for share in shares]
    return [parts.fee, parts.operator, parts.creator, pool, *floors, parts.contributors[0]]


def cases() -> Iterator[Case]:
    example = Example()
    yield from _market(example)
    yield from _receipts(example)
    yield from _trees(example)
    yield _header("header", example.header)
    yield _claim(example)
    yield from _dispute(example)


def _market(example: Example) -> Iterator[Case]:
    domain, key = example.settlement, example.receipt_key
    yield case(
        name="market",
        chain_id=domain.chain_id,
        settlement=domain.contract,
        domain_separator=domain.separator,
        operator=example.operator,
        receipt_key=key.account,
        treasury=example.treasury,
        fee_ppm=example.terms.fee_ppm,
    )
    yield case(
        name="snapshot",
        datanet_id=example.datanet,
        count=len(example.is_accepted),
        accepted=example.accepted,
        accepted_hash=keccak(example.accepted),
        snapshot_id=example.snapshot,
        contributors=example.contributors,
        contents=example.contents,
    )
    for name, record in (("adapter", example.adapter), ("base", example.base)):
        fields = {field: getattr(record, field) for field in VersionRecord.__slots__ if field != "name"}
        word, version = hashing.ascii_word(record.name), hashing.version_id(record)
        yield case(name=name, **fields, word=word, version_id=version)


def _receipts(example: Example) -> Iterator[Case]:
    payer_of = {channel: payer for payer, channel in example.channels}
    for number, signed in enumerate(example.receipts):
        receipt, slices = signed.receipt, signed.slices
        yield case(
            name=f"receipt {number}",
            payer=payer_of[receipt.channel_id],
            **{field: getattr(receipt, field) for field in Receipt.__slots__},
            method=signed.method,
            slices=hashing.pack_slices(slices),
            lists=[hashing.pack_list(s.shares) for s in slices],
            attribution=hashing.attribution_words(signed.method, slices),
            charges=example.charges(slices, receipt.prompt_tokens, receipt.completion_tokens),
            struct_hash=hashing.receipt_id(receipt),
            digest=example.settlement.receipt_digest(receipt),
            signature=signed.signature,
            leaf_hash=keccak(RECEIPTS_TAG + to_bytes(hashing.receipt_id(receipt))),
        )


def _trees(example: Example) -> Iterator[Case]:
    batch = example.batch
    yield case(name="spans", spans=pack_spans(batch.spans), spans_hash=batch.spans_hash, total=batch.total)
    balances = [(int(account, 16), value) for account, value in sorted(batch.balances.items())]
    for name, tag, leaves in (("entry", ENTRIES_TAG, example.entries), ("balance", BALANCES_TAG, balances)):
        for place, (key, value) in enumerate(leaves):
            yield case(name=f"{name} {place}", key=key_word(key), value=value, leaf_hash=leaf_hash(tag, key))
    for name, tag, tree in (
        ("receipts tree", RECEIPTS_TAG, batch.receipts_tree),
        ("entries tree", ENTRIES_TAG, batch.entries_tree),
        ("balances tree", BALANCES_TAG, batch.balances_tree),
    ):
        yield case(
            name=name, tag=tag, count=tree.count, sum=tree.total, root=tree.root, nodes=list(_inner(tree))
        )
    yield {"name": "data", "text": example.data.decode(), "digest": example.header.data_digest}


def _inner(tree: SumTree) -> Iterator[bytes]:
    """`sum ‖ hash` of the nodes above the leaves, level by level; promoted nodes are repeated."""
    level = 1
    while tree.node(level, 0):
        yield from (tree.node(level, at) for at in range(-(-tree.count // (1 << level))))
        level += 1


def _header(name: str, header: Header) -> Case:
    return case(
        name=name,
        **{field: getattr(header, field) for field in HEADER_FIELDS},
        batch_hash=header.hash,
    )


def _claim(example: Example) -> Case:
    ledger = example.batch.after(example.header)
    account = example.contributors[0]
    opening = ledger.open_balance(account)
    return case(
        name="claim",
        operator=example.operator,
        account=account,
        balances_count=len(ledger.balances),
        index=opening.index,
        value=opening.value,
        path=opening.path,
        units=opening.value // PPM,
    )


def _dispute(example: Example) -> Iterator[Case]:
    """The same batch with one forged entry: a contributor's amount is reduced in favour of the operator."""
    snapshot = SnapshotWitness(example.datanet, len(example.is_accepted), example.accepted)
    place = EntryPlace(0, 3, snapshot, example.contents[0])
    key, tree = example.forged(place)
    header = replace(example.header, entries_root=to_hash(tree.root))
    yield _header("forged header", header)
    lookup = look_up(tree, [k for k, _ in example.entries], key)
    witness = ReceiptWitness.of(example.receipts[0], example.batch.open_receipt(0), [example.adapter])
    proof = WrongEntryProof(header, witness, place, lookup)
    (opening,) = lookup.openings
    yield case(
        name="proof",
        function=proof.function,
        receipt_path=witness.opening.path,
        slice=place.slice,
        part=place.part,
        content_hash=place.content_hash,
        key=key_word(key),
        index=opening.index,
        value=opening.value,
        expected=dict(example.entries)[key],
        path=opening.path,
        parts=_parts(example),
        data=interface("Disputes").function(proof.function, proof.args).encode(proof.args),
    )
