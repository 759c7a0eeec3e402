"""Repository of batches and mirrored ledgers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from backend.db.mapping import from_row
from backend.db.session import insert_if_absent
from backend.db.tables.settlement import LedgerRow, OwnBatchRow
from backend.domain.batch import OperatorLedger
from backend.domain.ids import Account, ChannelId, Hash32
from backend.domain.settlement import BatchRecord

if TYPE_CHECKING:
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

    def missing(self, operator: Account, newest: int) -> set[int]:
        """Numbers up to `newest` without a batch that is not released."""
        row = OwnBatchRow
        is_kept = (row.operator == operator) & row.is_released.is_(False) & row.number.between(1, newest)
        if self._session.scalar(select(func.count()).where(is_kept)) == newest:
            return set()
        return set(range(1, newest + 1)).difference(self._session.scalars(select(row.number).where(is_kept)))

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

    def newest_ledgers(self, operator: Account, until: int | None = None) -> list[tuple[int, Hash32]]:
        """Numbers and hashes of the batches with the highest number, up to `until` (None: any), that has a
        stored ledger; several if a void batch had the same number.
        """
        row, is_wanted = LedgerRow, LedgerRow.operator == operator
        if until is not None:
            is_wanted &= row.number <= until
        highest = select(func.max(row.number)).where(is_wanted).scalar_subquery()
        query = select(row.number, row.batch_hash).where(row.operator == operator, row.number == highest)
        return [(number, Hash32(batch)) for number, batch in self._session.execute(query)]

    def next_ledger(self, operator: Account, number: int) -> int | None:
        """The lowest number above `number` that has a stored ledger, be its batch valid or not."""
        row = LedgerRow
        query = select(func.min(row.number)).where(row.operator == operator, row.number > number)
        return self._session.scalar(query)

    def prune_ledgers(self, operator: Account, number: int, interval: int | None = None) -> None:
        """Delete the ledgers after batches with numbers below `number`, except multiples of `interval` (None:
        no exceptions).
        """
        row = LedgerRow
        is_pruned = row.number < number
        if interval is not None:
            is_pruned &= row.number % interval != 0
        self._session.execute(delete(row).where(row.operator == operator, is_pruned))

    def delete_ledgers(self, operator: Account) -> None:
        """Delete all ledgers of the operator, whose batches are then audited again."""
        self._session.execute(delete(LedgerRow).where(LedgerRow.operator == operator))


def _record(row: OwnBatchRow | None) -> BatchRecord | None:
    return None if row is None else from_row(BatchRecord, row)
