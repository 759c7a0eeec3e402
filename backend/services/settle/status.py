"""Status of our own batches on the chain, and the assignment of receipts that follows from it.

The receipts of a lost batch (its commit failed, or it was voided) become unsettled again, once. The receipts
of a valid batch that is not recorded as ours (a reorg removed its void, or another installation committed it)
are assigned to it.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING

from backend.domain.settlement import BatchRecord
from backend.domain.transactions import TransactionState
from backend.services.audit.auditor import valid_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account, Hash32, ReceiptId
    from backend.domain.settlement import CommittedBatch


class BatchStatus(StrEnum):
    PENDING = "pending"
    VALID = "valid"
    LOST = "lost"
    """Its commit failed, another batch took its number, or it was voided."""


def update_records(tx: UnitOfWork, operator: Account) -> int | None:
    """Release the receipts of lost batches. Returns the number of the pending batch.

    Locks the operator's lane first: a commit that another settler queues is either seen, or sees this.
    """
    tx.transactions.lock_lane(operator)
    record = tx.batches.latest(operator)
    while record is not None:
        status = BatchStatus.LOST if record.is_released else _status(tx, record)
        if status is not BatchStatus.LOST:
            return record.number if status is BatchStatus.PENDING else None
        if not record.is_released:
            tx.receipts.release(operator, record.number)
            tx.batches.put(replace(record, is_released=True))
        record = tx.batches.get(operator, record.number - 1)
    return None


def unrecorded(tx: UnitOfWork, operator: Account) -> list[CommittedBatch]:
    """Valid batches that we recorded as lost or never recorded."""
    pending = tx.chain.open_batches(operator)
    newest = pending[-1].number if pending else tx.chain.finalised(operator)
    if not (missing := tx.batches.missing(operator, newest)):
        return []
    batches = tx.chain.valid_batches(operator, min(missing) - 1, max(missing))
    return [batch for batch in batches if batch.number in missing]


def adopt(tx: UnitOfWork, batch: CommittedBatch, receipts: Sequence[ReceiptId]) -> int:
    """Record an unrecorded batch as ours and assign those of its receipts that are stored here; their number.

    0 if the batch is recorded by now.
    """
    known = tx.batches.get(batch.operator, batch.number)
    valid = valid_batch(tx.chain, batch.operator, batch.number)
    if valid is None or valid.hash != batch.hash or (known is not None and not known.is_released):
        return 0
    digest: Hash32 = batch.header["dataDigest"]
    row = known.commit_tx if known else None
    tx.batches.put(BatchRecord(batch.operator, batch.number, digest, row, is_released=False))
    return tx.receipts.adopt(batch.operator, batch.number, receipts)


def outstanding_refunds(void: Sequence[CommittedBatch]) -> list[CommittedBatch]:
    """Voided batches that are not refunded yet, in the order in which `Settlement` accepts the refunds."""
    waiting = (batch for batch in void if not batch.is_refunded)
    return sorted(waiting, key=lambda batch: batch.number, reverse=True)


def next_due(pending: Sequence[CommittedBatch], now: int) -> list[CommittedBatch]:
    """The next batches whose `finalAt` has passed, in order: each becomes final after the one before."""
    return list(takewhile(lambda batch: int(batch.header["finalAt"]) <= now, pending))


def _status(tx: UnitOfWork, record: BatchRecord) -> BatchStatus:
    cursor = tx.chain.cursor()  # before the batch: what is indexed in between must not make it look lost
    valid = valid_batch(tx.chain, record.operator, record.number)
    if valid is not None and valid.header["dataDigest"] == record.data_digest:
        return BatchStatus.VALID
    if record.commit_tx is None:
        return BatchStatus.LOST
    commit = tx.transactions.get(record.commit_tx)
    if commit.state is TransactionState.FAILED:
        return BatchStatus.LOST
    is_indexed = (
        cursor is not None and commit.block_number is not None and cursor.number >= commit.block_number
    )
    return (
        BatchStatus.LOST if commit.state is TransactionState.CONFIRMED and is_indexed else BatchStatus.PENDING
    )
