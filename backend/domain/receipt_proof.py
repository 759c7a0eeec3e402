"""What shows that a receipt stands in a committed batch, and what each part of it earned: checked offline.

The chain is asked one thing only: whether Settlement announced the batch's hash (`BatchCommitted`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.batch import entry_key
from backend.domain.hashing import receipt_id, to_bytes, to_hash
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, InvalidOpening, resolve

if TYPE_CHECKING:
    from backend.domain.batch import Entry, Header
    from backend.domain.ids import Account, Hash32
    from backend.domain.merkle import Opening
    from backend.domain.receipt import Receipt


@dataclass(frozen=True, slots=True)
class ProvenEntry:
    """What an account earns from one part of one slice of the receipt."""

    entry: Entry
    opening: Opening


@dataclass(frozen=True, slots=True)
class ProvenBalance:
    """All that the operator ever credited the account, up to this batch: the opening's value."""

    account: Account
    opening: Opening


@dataclass(frozen=True, slots=True)
class ReceiptProof:
    """A receipt's place in a batch: openings of all three trees under the batch's header."""

    header: Header
    receipt: Opening
    entries: tuple[ProvenEntry, ...]
    """All of the receipt's, in the order of slices and parts."""
    balances: tuple[ProvenBalance, ...]
    """Of everybody who earned from it, in order of account."""

    def check(self, receipt: Receipt) -> Hash32:
        """The hash of the batch in which the receipt stands with what it earned, for the chain to confirm.

        Errors: `InvalidOpening`, its `param` the part at fault.
        """
        header = self.header
        if self.receipt.value != receipt.charge:
            raise InvalidOpening(f"the leaf is worth {self.receipt.value}, not {receipt.charge}", "receipt")
        key = to_bytes(receipt_id(receipt))
        root = header.receipts_root, header.total
        _stands("receipt", RECEIPTS_TAG, key, header.receipts_count, self.receipt, root)
        for proven in self.entries:
            self._check_entry(proven)
        earned = sum(proven.opening.value for proven in self.entries)
        if earned != receipt.charge:
            raise InvalidOpening(f"the entries are worth {earned}, not {receipt.charge}", "entries")
        if [b.account for b in self.balances] != sorted({p.entry.account for p in self.entries}):
            raise InvalidOpening("the balances are not those of the accounts that earned", "balances")
        root = header.balances_root, header.cumulative_total
        for balance in self.balances:
            account = bytes(12) + to_bytes(balance.account)
            _stands("balances", BALANCES_TAG, account, header.balances_count, balance.opening, root)
        return header.hash

    def _check_entry(self, proven: ProvenEntry) -> None:
        entry, header = proven.entry, self.header
        if (entry.receipt, entry.value) != (self.receipt.index, proven.opening.value):
            raise InvalidOpening("an entry is another receipt's, or worth something else", "entries")
        key = entry_key(to_bytes(entry.account), entry.receipt, entry.slice, entry.part)
        root = header.entries_root, header.total
        _stands("entries", ENTRIES_TAG, key, header.entries_count, proven.opening, root)


def _stands(
    param: str, tag: bytes, key: bytes, count: int, opening: Opening, root: tuple[Hash32, int]
) -> None:
    opened = resolve(tag, key, count, opening)
    if (to_hash(opened.root), opened.total) != root:
        raise InvalidOpening("the opening leads to another root or sum than the header has", param)
