"""Repository of batches and mirrored ledgers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from backend.db.mapping import from_row
from backend.db.session import insert_if_absent
from backend.db.tables.settlement import LedgerRow, OwnBatchRow
from backend.domain.batch import OperatorLedger
from backend.domain.ids import Account, ChannelId, Hash32
from backend.domain.settlement import BatchRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session


class BatchStore:
    """The installation's own batches, and the mirrored ledgers of all operators."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def latest(self, operator: Account) -> BatchRecord | None:
        """The batch with the highest number."""
        newest = select(OwnBatchRow).filter_by(operator=operator).order_by(OwnBatchRow.number.desc()).limit(1)
        return _record(self._session.scalar(newest))

    def get(self, operator: Account, number: int) -> BatchRecord | None:
        return _record(self._session.get(OwnBatchRow, (operator, number)))

    def unreleased(self, operator: Account) -> set[int]:
        """Numbers of the batches that are not released."""
        return set(
            self._session.scalars(select(OwnBatchRow.number).filter_by(operator=operator, is_released=False))
        )

    def put(self, record: BatchRecord) -> None:
        """Insert, or replace the record of the same number."""
        self._session.merge(
            OwnBatchRow(
                operator=record.operator,
                number=record.number,
                data_digest=record.data_digest,
                commit_tx=record.commit_tx,
                is_released=record.is_released,
            )
        )
        self._session.flush()

    def ledger(self, operator: Account, batch_hash: Hash32) -> OperatorLedger | None:
        """The ledger after this batch; None if it is not mirrored."""
        row = self._session.get(LedgerRow, batch_hash)
        if row is None or row.operator != operator:
            return None
        return OperatorLedger(
            number=row.number,
            hash=Hash32(row.batch_hash),
            cumulative_total=row.cumulative_total,
            balances={Account(account): int(amount) for account, amount in row.balances.items()},
            collected={ChannelId(Hash32(channel)): int(until) for channel, until in row.collected.items()},
        )

    def has_ledger(self, operator: Account, batch_hash: Hash32) -> bool:
        """Whether `ledger` finds one."""
        query = select(LedgerRow.batch_hash).filter_by(batch_hash=batch_hash, operator=operator)
        return self._session.scalar(query) is not None

    def save_ledger(self, operator: Account, ledger: OperatorLedger) -> bool:
        """Store the ledger after a batch, unless it is stored. Whether it was new: of two processes that
        follow an operator at once, the second waits for the first, and then finds its ledger.
        """
        return insert_if_absent(
            self._session,
            LedgerRow,
            batch_hash=ledger.hash,
            operator=operator,
            number=ledger.number,
            cumulative_total=ledger.cumulative_total,
            balances={account: str(amount) for account, amount in ledger.balances.items()},
            collected={channel: str(until) for channel, until in ledger.collected.items()},
        )

    def prune_ledgers(self, operator: Account, final: Iterable[Hash32]) -> None:
        """Delete the ledgers older than the newest of these final batches whose ledger is stored; claims need
        that one. `final`: hashes of the final batches, newest first.
        """
        rows = (self._session.get(LedgerRow, batch_hash) for batch_hash in final)
        newest = next((row.number for row in rows if row is not None), 0)
        self._session.execute(
            delete(LedgerRow).where(LedgerRow.operator == operator, LedgerRow.number < newest)
        )


def _record(row: OwnBatchRow | None) -> BatchRecord | None:
    return None if row is None else from_row(BatchRecord, row)
