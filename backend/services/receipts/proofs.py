"""Merkle proofs that a receipt or an entry is in a committed batch, from public batch data."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from backend.domain.batch import Header, camel_case, in_leaf_order
from backend.domain.errors import Conflict, NotFound, Unavailable
from backend.domain.hashing import receipt_id
from backend.domain.receipt import Receipt
from backend.domain.receipt_proof import ProvenBalance, ProvenEntry, ReceiptProof
from backend.services.audit.auditor import valid_batch
from backend.services.audit.cases import MAX_CACHED_BYTES
from backend.services.audit.published import memory_of, spans_of

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.batch import Batch, Span
    from backend.domain.entries import Entry
    from backend.domain.ids import Account, Hash32, ReceiptId
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain import Chain
    from backend.services.audit.auditor import Auditor
    from backend.services.background import Background


class NotCommitted(Conflict):
    """The receipt is in no valid batch on the chain: it is unsettled, or its batch was voided."""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """The committed batch of a receipt with its spans, and the proof that the receipt is in it."""

    batch: CommittedBatch
    spans: tuple[Span, ...]
    proof: ReceiptProof


class Proofs:
    """Errors of all methods: as `Auditor.batch`. Methods that call the chain also raise `Reverted` for a
    batch that the contract does not know, for instance because it was voided in the meantime.
    """

    def __init__(self, db: Database, auditor: Auditor, chain: Chain, background: Background) -> None:
        self._db, self._auditor, self._chain, self._background = db, auditor, chain, background
        self._lock = threading.Lock()
        self._built: dict[Hash32, tuple[int, Batch]] = {}
        """The latest batches, the newest last, with the memory that each takes."""

    def inclusion(self, receipt: ReceiptId) -> Inclusion:
        """Batch and proof of a receipt that is stored here. Errors: `NotFound`; `NotCommitted`;
        `Unavailable` while its batch is audited, which begins with the first request.
        """
        with self._db.read() as tx:
            stored = tx.receipts.get(receipt)
            if stored is None:
                raise NotFound(f"No receipt {receipt} here.", param="id")
            number = stored.batch
            committed = None if number is None else valid_batch(tx.chain, stored.operator, number)
            spans = () if committed is None else spans_of(tx.chain, committed.hash)
        if committed is None:
            raise NotCommitted(f"Receipt {receipt} is in no committed batch yet.", param="id")
        batch = self._batch(committed)
        ids = (receipt_id(signed.receipt) for signed in batch.receipts)
        index = next((i for i, found in enumerate(ids) if found == receipt), None)
        if index is None:  # its batch was replaced, and it is unsettled again
            raise NotCommitted(f"Receipt {receipt} is in no committed batch yet.", param="id")
        return Inclusion(committed, spans, _proof(batch, Header.from_chain(committed.header), index))

    def _batch(self, committed: CommittedBatch) -> Batch:
        """The batch with its trees, built in the background: anyone may request it."""
        asked_at = self._background.clock()
        while (built := self._built.get(committed.hash)) is None:
            work = self._background.start(committed.hash, partial(self._build, committed))
            if (error := self._background.error(work, asked_at)) is not None:
                raise error
        return built[1]

    def _build(self, committed: CommittedBatch) -> bool:
        """The latest batches are cached: payers request many receipts of one batch."""
        batch = self._auditor.batch(committed.operator, committed.number)
        with self._db.read() as tx:
            built = valid_batch(tx.chain, committed.operator, committed.number)
        if built is None or built.hash != committed.hash:
            raise Unavailable(f"batch {committed.number} of {committed.operator} was replaced; try again")
        with self._lock:
            self._built[committed.hash] = memory_of(batch.receipts), batch
            while len(self._built) > 1 and sum(size for size, _ in self._built.values()) > MAX_CACHED_BYTES:
                del self._built[next(iter(self._built))]
        return True

    def verify_receipt(self, operator: Account, number: int, receipt: ReceiptId) -> bool:
        """Whether `Settlement.verifyReceipt` accepts the receipt: in the batch, signed by a key of the
        operator.

        Errors: `NotFound` if the batch's data has no such receipt.
        """
        batch = self._auditor.batch(operator, number)
        found = ((i, s) for i, s in enumerate(batch.receipts) if receipt_id(s.receipt) == receipt)
        index, signed = next(found, (None, None))
        if index is None or signed is None:
            raise NotFound(f"batch {number} of {operator} has no receipt {receipt}", "receipt")
        fields = {camel_case(name): getattr(signed.receipt, name) for name in Receipt.__slots__}
        opening = batch.open_receipt(index).abi
        return self._call("verifyReceipt", operator, number, fields, opening, signed.signature)

    def verify_entry(self, operator: Account, number: int, entry: Entry) -> bool:
        """Whether `Settlement.verifyEntry` accepts the entry with its value from the batch's data."""
        batch = self._auditor.batch(operator, number)
        opening = batch.open_entry(entry.account, entry.receipt, entry.slice, entry.part).abi
        key = {
            "account": entry.account,
            "receiptIndex": entry.receipt,
            "slice": entry.slice,
            "part": entry.part,
        }
        return self._call("verifyEntry", operator, number, key, opening | {"value": entry.value})

    def _call(self, function: str, operator: Account, number: int, *args: Any) -> bool:
        with self._db.read() as tx:
            committed = valid_batch(tx.chain, operator, number)
        if committed is None:
            raise NotFound(f"{operator} has no batch {number}", "number")
        return bool(self._chain.call("Settlement", function, dict(committed.header), *args))


def _proof(batch: Batch, header: Header, index: int) -> ReceiptProof:
    entries = batch.entries_in(index)
    accounts = sorted({entry.account for entry in entries})
    places = {account: place for place, account in enumerate(in_leaf_order(batch.balances))}
    return ReceiptProof(
        header=header,
        receipt=batch.open_receipt(index),
        entries=tuple(
            ProvenEntry(entry, batch.open_entry(entry.account, index, entry.slice, entry.part))
            for entry in entries
        ),
        balances=tuple(
            ProvenBalance(account, batch.balances_tree.open(places[account])) for account in accounts
        ),
    )
