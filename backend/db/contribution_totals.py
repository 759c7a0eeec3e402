"""Repository of what contributions have earned through each version, by operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import not_, select

from backend.db.bulk import insert_all_absent
from backend.db.disputes import is_void
from backend.db.tables.chain import BatchRow
from backend.db.tables.earnings import ContributionTotalRow as Row
from backend.domain.earnings import ContributionEarning
from backend.domain.ids import Account, DatanetId, Hash32, VersionId

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy.orm import Session

    from backend.domain.earnings import ContributionKey

    ValidAmong = Callable[[Collection[Hash32]], Collection[Hash32]]


class ContributionTotalStore:
    """Rows name their batch by hash, as those of `EarningStore`: a void or a reorganisation changes none.

    `valid_among`: `ChainView.valid_among`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        operator: Account,
        number: int,
        batch_hash: Hash32,
        earned: Sequence[ContributionEarning],
        valid_among: ValidAmong,
    ) -> None:
        """Store the totals after a batch that credits what was `earned`. Idempotent."""
        rows = self._of(operator, earned)
        valid = valid_among({Hash32(row.batch_hash) for row in rows})
        before = {_key(row): row.total for row in rows if row.batch_hash in valid and row.number < number}
        batch = {"operator": operator, "number": number, "batch_hash": batch_hash}
        named = ("version_id", "datanet", "contribution", "account")
        totals = [
            {
                **batch,
                **{name: getattr(one, name) for name in named},
                "total": before.get(one.key, 0) + one.amount,
            }
            for one in earned
        ]
        insert_all_absent(self._session, Row, totals)

    def prune(
        self,
        operator: Account,
        final: int,
        valid_among: ValidAmong,
        earned: Sequence[ContributionEarning],
    ) -> None:
        """Delete totals of the versions in `earned` that a later batch up to number `final` has replaced."""
        rows = self._of(operator, earned)
        valid = valid_among({Hash32(row.batch_hash) for row in rows})
        newest = {_key(row): row.number for row in rows if row.batch_hash in valid and row.number <= final}
        for row in rows:
            if row.number < newest.get(_key(row), 0):
                self._session.delete(row)
        self._session.flush()

    def of_versions(self, versions: Sequence[VersionId]) -> list[ContributionEarning]:
        """What each contribution has earned through each of the versions, from each operator, by the batches
        that are on the chain and not void.
        """
        query = (
            select(Row)
            .join(BatchRow, BatchRow.hash == Row.batch_hash)
            .where(Row.version_id.in_(versions), not_(is_void()))
            .order_by(Row.number)
        )
        newest = {(row.operator, *_key(row)): row for row in self._session.scalars(query)}
        return [ContributionEarning(*_key(row), Account(row.account), row.total) for row in newest.values()]

    def _of(self, operator: Account, earned: Sequence[ContributionEarning]) -> Sequence[Row]:
        """Rows of the versions in `earned`, the oldest batch first."""
        versions = sorted({one.version_id for one in earned})
        query = select(Row).where(Row.operator == operator, Row.version_id.in_(versions))
        return self._session.scalars(query.order_by(Row.number)).all()


def _key(row: Row) -> ContributionKey:
    return VersionId(Hash32(row.version_id)), DatanetId(row.datanet), row.contribution
