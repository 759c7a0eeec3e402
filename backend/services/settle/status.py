"""Status of our own batches on the chain, and the assignment of receipts that follows from it.

The receipts of a lost batch (its commit failed, or it was voided) become unsettled again, once. Those of a
valid batch that is not recorded as ours are assigned to it by `adoption`.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING

from backend.domain.transactions import TransactionState
from backend.services.audit.auditor import valid_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account
    from backend.domain.settlement import BatchRecord, CommittedBatch


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
