"""Proof that a receipt is in a committed batch, and of what each part of it earned. Verified offline.

Only one fact is left to check on the chain: that `Settlement` committed the batch's hash (`BatchCommitted`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.entries import entry_key
from backend.domain.hashing import receipt_id, to_bytes, to_hash
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, InvalidOpening, resolve

if TYPE_CHECKING:
    from backend.domain.batch import Header
    from backend.domain.entries import Entry
    from backend.domain.ids import Account, Hash32
    from backend.domain.merkle import Opening
    from backend.domain.receipt import Receipt


@dataclass(frozen=True, slots=True)
class ProvenEntry:
    """An entry of the receipt, with its opening."""

    entry: Entry
    opening: Opening


@dataclass(frozen=True, slots=True)
class ProvenBalance:
    """An account's balance after the batch: the value of the opening."""

    account: Account
    opening: Opening


@dataclass(frozen=True, slots=True)
class ReceiptProof:
    """Openings of all three trees of the batch."""

    header: Header
    receipt: Opening
    entries: tuple[ProvenEntry, ...]
    """All entries of the receipt, in the order of slices and parts."""
    balances: tuple[ProvenBalance, ...]
    """Balances of all accounts that earn from the receipt, by account."""

    def check(self, receipt: Receipt) -> Hash32:
        """Verify the proof and return the batch's hash, to be confirmed on the chain.

        Errors: `InvalidOpening`, whose `param` is the wrong part of the proof.
        """
        header = self.header
        if self.receipt.value != receipt.charge:
            raise InvalidOpening(
                f"the value of the leaf is {self.receipt.value}, not {receipt.charge}", "receipt"
            )
        key = to_bytes(receipt_id(receipt))
        root = header.receipts_root, header.total
        _check_opening("receipt", RECEIPTS_TAG, key, header.receipts_count, self.receipt, root)
        for proven in self.entries:
            self._check_entry(proven)
        earned = sum(proven.opening.value for proven in self.entries)
        if earned != receipt.charge:
            raise InvalidOpening(f"the entries sum to {earned}, not to {receipt.charge}", "entries")
        if [b.account for b in self.balances] != sorted({p.entry.account for p in self.entries}):
            raise InvalidOpening("the balances are not of the accounts with entries", "balances")
        root = header.balances_root, header.cumulative_total
        for balance in self.balances:
            account = bytes(12) + to_bytes(balance.account)
            _check_opening("balances", BALANCES_TAG, account, header.balances_count, balance.opening, root)
        return header.hash

    def _check_entry(self, proven: ProvenEntry) -> None:
        entry, header = proven.entry, self.header
        if (entry.receipt, entry.value) != (self.receipt.index, proven.opening.value):
            raise InvalidOpening(
                "an entry is of another receipt or has another value than its opening", "entries"
            )
        key = entry_key(to_bytes(entry.account), entry.receipt, entry.slice, entry.part)
        root = header.entries_root, header.total
        _check_opening("entries", ENTRIES_TAG, key, header.entries_count, proven.opening, root)


def _check_opening(
    param: str, tag: bytes, key: bytes, count: int, opening: Opening, root: tuple[Hash32, int]
) -> None:
    opened = resolve(tag, key, count, opening)
    if (to_hash(opened.root), opened.total) != root:
        raise InvalidOpening("the opening leads to another root or sum than the header's", param)
