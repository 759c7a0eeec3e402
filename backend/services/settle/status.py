"""What became of our own batches on the chain, and of their receipts with them.

The functions take the operator's batches as one look at the chain's view showed them.

A batch that fell (its commit failed, or it was voided) gives its receipts back once. A batch that stands
without our knowing (its void fell out of the chain again, or it was committed elsewhere) takes them in.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from backend.domain.settlement import BatchRecord, BatchState
from backend.domain.transactions import TransactionState
from backend.services.audit.auditor import standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account, Hash32, ReceiptId
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain import ChainView


class Fate(StrEnum):
    OPEN = "open"
    STANDS = "stands"
    LOST = "lost"
    """Its commit failed, another batch took its number, or it was voided."""


def settle_fates(tx: UnitOfWork, operator: Account, batches: Sequence[CommittedBatch]) -> int | None:
    """Number of the batch under way. Receipts of lost batches are unsettled again afterwards."""
    record = tx.batches.latest(operator)
    while record is not None:
        fate = Fate.LOST if record.is_released else _fate(tx, record, batches)
        if fate is not Fate.LOST:
            return record.number if fate is Fate.OPEN else None
        if not record.is_released:
            tx.receipts.release(operator, record.number)
            tx.batches.put(replace(record, is_released=True))
        record = tx.batches.get(operator, record.number - 1)
    return None


def strays(tx: UnitOfWork, operator: Account, batches: Sequence[CommittedBatch]) -> list[CommittedBatch]:
    """Those that stand on the chain while we hold them for lost, or know nothing of them."""
    kept = tx.batches.kept(operator)
    return [batch for batch in standing(batches) if batch.number not in kept]


def adopt(tx: UnitOfWork, batch: CommittedBatch, receipts: Sequence[ReceiptId]) -> int:
    """Keep a stray as our own, with those of its receipts that are here; how many. None if it is no stray."""
    found = strays(tx, batch.operator, tx.chain.batches(batch.operator))
    if batch.hash not in {stray.hash for stray in found}:
        return 0
    known = tx.batches.get(batch.operator, batch.number)
    digest: Hash32 = batch.header["dataDigest"]
    row = known.commit_tx if known else None
    tx.batches.put(BatchRecord(batch.operator, batch.number, digest, row, is_released=False))
    return tx.receipts.adopt(batch.operator, batch.number, receipts)


def outstanding(batches: Sequence[CommittedBatch]) -> list[CommittedBatch]:
    """Voided ones that are yet to be refunded, in the order in which the settlement takes them."""
    fallen = (b for b in batches if b.state is BatchState.VOID and not b.is_refunded)
    return sorted(fallen, key=lambda batch: batch.number, reverse=True)


def newest_due(chain: ChainView, batches: Sequence[CommittedBatch], now: int) -> CommittedBatch | None:
    """The newest whose dispute window is over. One under an open demand holds itself and those after it."""
    due = None
    for batch in batches:
        if batch.state is not BatchState.COMMITTED:
            continue
        if int(batch.header["finalAt"]) > now or any(d.unanswered for d in chain.demands(batch.hash)):
            break
        due = batch
    return due


def _fate(tx: UnitOfWork, record: BatchRecord, batches: Sequence[CommittedBatch]) -> Fate:
    ours = (record.number, record.data_digest)
    if any((batch.number, batch.header["dataDigest"]) == ours for batch in standing(batches)):
        return Fate.STANDS
    if record.commit_tx is None:
        return Fate.LOST
    commit = tx.transactions.get(record.commit_tx)
    if commit.state is TransactionState.FAILED:
        return Fate.LOST
    cursor = tx.chain.cursor()
    is_indexed = (
        cursor is not None and commit.block_number is not None and cursor.number >= commit.block_number
    )
    return Fate.LOST if commit.state is TransactionState.CONFIRMED and is_indexed else Fate.OPEN
