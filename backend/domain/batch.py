"""Builds batches: an operator's receipts, the entries that accounts earn from them, and all balances.

    ledger + receipts -> build -> Batch;  batch.after(header) -> the next ledger

Pure: operators build batches with it, auditors rebuild them. Amounts are in micro-units. Source:
docs/protocol.md, "Batch".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from backend.domain.entries import Entries, Entry, entry_item, entry_key
from backend.domain.errors import NotFound
from backend.domain.hashing import keccak, receipt_id, to_bytes, to_hash, word, words
from backend.domain.ids import ZERO_HASH, Account, ChannelId, Hash32
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, FoldedTree, Opening, SumTree
from backend.domain.rules import BadReceipt, Rules
from backend.domain.signatures import compact
from backend.domain.split import MAX_SHARES, MAX_SLICES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import SignedReceipt, Slice
    from backend.domain.voucher import SignedVoucher

MAX_SPANS = 256
SPAN_BYTES = 80
OTHER_PARTS = 3
"""Parts of a slice's charge besides the contributors': fee, operator and creator."""
MAX_RECEIPT_ENTRIES = MAX_SLICES * (OTHER_PARTS + MAX_SHARES)
"""Most entries of one receipt."""


@dataclass(frozen=True, slots=True)
class Span:
    """The interval of a channel's cumulative that a batch collects.

    `[start, until)` is paid; `[before, start)`, after the previously collected cumulative, is waived.
    """

    channel_id: ChannelId
    before: int
    start: int
    until: int

    @property
    def amount(self) -> int:
        return self.until - self.start

    def collection(self, payer: Account, signed: SignedVoucher) -> dict[str, Any]:
        """The vault's `Collection` of this interval, by the payer's voucher."""
        r, vs = compact(signed.signature)
        return {
            "payer": payer,
            "before": self.before,
            "from": signed.voucher.waived_until,
            "maxCumulative": signed.voucher.max_cumulative,
            "until": self.until,
            "r": r,
            "vs": vs,
        }


@dataclass(frozen=True, slots=True)
class Header:
    """Solidity's `BatchHeader`, in its field order. Instants in unix seconds, amounts in micro-units."""

    operator: Account
    number: int
    parent: Hash32
    parameter_set: int
    committed_at: int
    final_at: int
    final_block: int
    total: int
    cumulative_total: int
    slash_up_to: int
    spans_hash: Hash32
    receipts_root: Hash32
    receipts_count: int
    entries_root: Hash32
    entries_count: int
    balances_root: Hash32
    balances_count: int
    data_digest: Hash32

    @property
    def hash(self) -> Hash32:
        return to_hash(keccak(words(*(getattr(self, name) for name in HEADER_FIELDS))))

    @property
    def abi(self) -> dict[str, int | str]:
        """Fields by their Solidity names."""
        return {camel_case(name): getattr(self, name) for name in HEADER_FIELDS}

    @property
    def commitment(self) -> dict[str, int | str]:
        """The `Commitment` of `Settlement.commit`; the contract computes the other fields."""
        return {camel_case(name): getattr(self, name) for name in COMMITMENT_FIELDS}

    @classmethod
    def from_chain(cls, values: Mapping[str, Any]) -> Header:
        """Build from a mapping with Solidity's field names; integers may be decimal strings."""
        fields: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            value = values[camel_case(name)]
            fields[name] = int(value) if kind == "int" else value
        return cls(**fields)


HEADER_FIELDS = tuple(Header.__annotations__)
COMMITMENT_FIELDS = (
    "parent",
    "parameter_set",
    "total",
    "receipts_root",
    "receipts_count",
    "entries_root",
    "entries_count",
    "balances_root",
    "balances_count",
    "data_digest",
)


def camel_case(name: str) -> str:
    """The Solidity name of a Python field."""
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


@dataclass(frozen=True, slots=True)
class CommitTerms:
    """The header fields that only the chain determines."""

    committed_at: int = 0
    final_at: int = 0
    final_block: int = 0
    slash_up_to: int = 0

    @classmethod
    def of(cls, header: Header) -> CommitTerms:
        return cls(header.committed_at, header.final_at, header.final_block, header.slash_up_to)


def in_leaf_order(balances: Iterable[Account]) -> list[Account]:
    """In the order of the leaves of a tree of balances: by key, of which the longer are larger."""
    return sorted(balances, key=lambda account: (len(account), account))


@dataclass(frozen=True, slots=True)
class OperatorLedger:
    """State of an operator's accounts and channels after a batch; empty before the first batch."""

    number: int = 0
    hash: Hash32 = ZERO_HASH
    cumulative_total: int = 0
    balances: Mapping[Account, int] = field(default_factory=dict)
    """Account -> all that this operator ever credited to it. A wrong batch that became final may have leaves
    under larger keys; these are 64 hex digits long here, where an account has 40.
    """
    collected: Mapping[ChannelId, int] = field(default_factory=dict)
    """Channel -> collected cumulative."""

    def balances_tree(self) -> SumTree:
        """The tree of balances, by account. Errors: ValueError before the first batch."""
        leaves = ((word(account), self.balances[account]) for account in in_leaf_order(self.balances))
        return SumTree(BALANCES_TAG, leaves)

    def open_balance(self, account: Account) -> Opening:
        """Errors: `NotFound` if this operator never credited the account."""
        if account not in self.balances:
            raise NotFound(f"{account} never earned from this operator", "account")
        return self.balances_tree().open(in_leaf_order(self.balances).index(account))


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch with the trees that its commitment has the roots of."""

    operator: Account
    parent: OperatorLedger
    parameter_set: int
    spans: tuple[Span, ...]
    receipts: tuple[SignedReceipt, ...]
    """In the order of the receipts tree."""
    entries: Entries
    """In the order of the entries tree."""
    balances: Mapping[Account, int]
    receipts_tree: SumTree
    entries_tree: SumTree
    balances_tree: SumTree

    @property
    def number(self) -> int:
        return self.parent.number + 1

    @property
    def total(self) -> int:
        return sum(span.amount for span in self.spans)

    @property
    def spans_hash(self) -> Hash32:
        return spans_hash(self.spans)

    def header(self, terms: CommitTerms, data_digest: Hash32) -> Header:
        """The header that the contract computes for this batch."""
        return Header(
            operator=self.operator,
            number=self.number,
            parent=self.parent.hash,
            parameter_set=self.parameter_set,
            committed_at=terms.committed_at,
            final_at=terms.final_at,
            final_block=terms.final_block,
            total=self.total,
            cumulative_total=self.parent.cumulative_total + self.total,
            slash_up_to=terms.slash_up_to,
            spans_hash=self.spans_hash,
            receipts_root=to_hash(self.receipts_tree.root),
            receipts_count=self.receipts_tree.count,
            entries_root=to_hash(self.entries_tree.root),
            entries_count=self.entries_tree.count,
            balances_root=to_hash(self.balances_tree.root),
            balances_count=self.balances_tree.count,
            data_digest=data_digest,
        )

    def after(self, header: Header) -> OperatorLedger:
        """The ledger after this batch, committed with `header`."""
        collected = {**self.parent.collected, **{span.channel_id: span.until for span in self.spans}}
        return OperatorLedger(header.number, header.hash, header.cumulative_total, self.balances, collected)

    def entries_in(self, receipt: int) -> list[Entry]:
        """All entries of one receipt, in the order of slices and parts."""
        found = (entry for entry in self.entries if entry.receipt == receipt)
        return sorted(found, key=lambda entry: (entry.slice, entry.part))

    def open_receipt(self, index: int) -> Opening:
        return self.receipts_tree.open(index)

    def open_entry(self, account: Account, receipt: int, slice_: int, part: int) -> Opening:
        """Opening of an entry. Errors: `NotFound` if the account earned nothing from this part."""
        keys = self.entries.keys
        key = int.from_bytes(entry_key(to_bytes(account), receipt, slice_, part), "big")
        index = bisect_left(keys, key)
        if index == len(keys) or keys[index] != key:
            raise NotFound(f"{account} has no entry for part {part} of slice {slice_} of receipt {receipt}")
        return self.entries_tree.open(index)


def pack_spans(spans: Iterable[Span]) -> bytes:
    """Concatenate `channelId 32 ‖ before 16 ‖ from 16 ‖ until 16` of all spans."""
    packed = bytearray()
    for span in spans:
        packed += to_bytes(span.channel_id)
        for amount in (span.before, span.start, span.until):
            packed += amount.to_bytes(16, "big")
    return bytes(packed)


def unpack_spans(packed: bytes) -> tuple[Span, ...]:
    """The inverse of `pack_spans`. Bytes after the last whole span are ignored."""
    found = []
    for at in range(0, len(packed) - SPAN_BYTES + 1, SPAN_BYTES):
        amounts = (int.from_bytes(packed[at + 32 + 16 * n : at + 48 + 16 * n], "big") for n in range(3))
        found.append(Span(ChannelId(to_hash(packed[at : at + 32])), *amounts))
    return tuple(found)


def spans_hash(spans: Iterable[Span]) -> Hash32:
    return to_hash(keccak(pack_spans(spans)))


def build(
    operator: Account,
    parent: OperatorLedger,
    terms: ParameterSet,
    receipts: Sequence[SignedReceipt],
    rules: Rules,
) -> Batch:
    """Build the operator's next batch from receipts in the order of (channel, cumulative), under `terms`.

    Errors: `BadReceipt` for the first wrong or misplaced receipt, whose index is `details["index"]`;
    ValueError without receipts.
    """
    try:
        spans = spans_of(parent.collected, receipts)
    except BadReceipt as misplaced:
        # If an earlier receipt violates the rules, that one is reported.
        _earnings(operator, terms, receipts[: misplaced.details["index"]], rules)
        raise
    entries = entries_of(operator, terms, receipts, rules)
    balances = add_earnings(parent.balances, entries.sums())
    return Batch(
        operator=operator,
        parent=parent,
        parameter_set=terms.id,
        spans=spans,
        receipts=tuple(receipts),
        entries=entries,
        balances=balances,
        receipts_tree=tree_of_receipts(receipts),
        entries_tree=tree_of_entries(entries),
        balances_tree=OperatorLedger(balances=balances).balances_tree(),
    )


def entries_of(
    operator: Account, terms: ParameterSet, receipts: Sequence[SignedReceipt], rules: Rules
) -> Entries:
    """Entries of these receipts. Errors: `BadReceipt` for the first that violates the rules, as `build`."""
    return Entries(_earnings(operator, terms, receipts, rules))


def tree_of_entries(entries: Entries) -> SumTree:
    """The entries tree. Errors: as `SumTree`."""
    return FoldedTree(ENTRIES_TAG, len(entries), entries.leaves)


def most_entries(slices: Iterable[Slice]) -> int:
    """Entries of a receipt with these slices if no part is zero."""
    return sum(OTHER_PARTS + max(1, len(slice_.shares)) for slice_ in slices)


def add_earnings(balances: Mapping[Account, int], earned: Mapping[Account, int]) -> dict[Account, int]:
    """Balances plus earnings."""
    return {**balances, **{account: balances.get(account, 0) + amount for account, amount in earned.items()}}


def tree_of_receipts(receipts: Iterable[SignedReceipt]) -> SumTree:
    """The receipts tree. Errors: ValueError without receipts, or if the sum exceeds uint128."""
    return SumTree(RECEIPTS_TAG, ((to_bytes(receipt_id(s.receipt)), s.receipt.charge) for s in receipts))


def spans_of(collected: Mapping[ChannelId, int], receipts: Sequence[SignedReceipt]) -> tuple[Span, ...]:
    """The spans that receipts cover. Errors: `BadReceipt` at a gap, an overlap or a channel out of order."""
    spans: list[Span] = []
    index = 0
    for channel_id, group in groupby(receipts, key=lambda signed: signed.receipt.channel_id):
        if spans and channel_id <= spans[-1].channel_id:
            raise _at(index, BadReceipt(f"channel {channel_id} is out of order", "channel_id"))
        before = until = collected.get(channel_id, 0)
        start: int | None = None
        for signed in group:
            begins = signed.receipt.cumulative - signed.receipt.charge
            if begins < until or (begins > until and start is not None):
                raise _at(index, _misplaced(begins, until))
            start = begins if start is None else start
            until, index = signed.receipt.cumulative, index + 1
        spans.append(Span(channel_id, before, before if start is None else start, until))
    return tuple(spans)


def _misplaced(begins: int, expected: int) -> BadReceipt:
    text = f"the receipt begins at {begins} of its channel's cumulative, not at {expected}"
    return BadReceipt(text, "cumulative", {"expected": str(expected), "found": str(begins)})


def _at(index: int, error: BadReceipt) -> BadReceipt:
    error.details["index"] = index
    return error


def _earnings(
    operator: Account, terms: ParameterSet, receipts: Sequence[SignedReceipt], rules: Rules
) -> dict[bytes, bytearray]:
    """Account -> its items of `Entries`. Parts of zero have no entry."""
    earned: dict[bytes, bytearray] = defaultdict(bytearray)
    for index, signed in enumerate(receipts):
        try:
            charges = rules.charges(signed)
        except BadReceipt as error:
            raise _at(index, error) from None
        for number, parts in enumerate(rules.earnings(signed, charges, operator, terms)):
            place = index << 32 | number << 16
            for part, (account, value) in enumerate(parts):
                if value:
                    earned[account] += entry_item(place | part, value)
    return earned
