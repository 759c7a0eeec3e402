"""Repository of what batches credit to the accounts that signed in here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from backend.db.bulk import among, found_among, insert_all_absent, table_of
from backend.db.mapping import from_row
from backend.db.tables.earnings import AccountRow, CreditRow, EarningRow
from backend.db.usage import joined, summed
from backend.domain.earnings import Credit, Earning, EarningsBy, EarningSum
from backend.domain.ids import Account, Hash32

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from backend.domain.earnings import EarningFilter
    from backend.domain.ids import ReceiptId

_CHUNK = 500
"""Keys per statement. SQLite limits the number of bound variables."""
_KNOWN = select(AccountRow.account).where(among(AccountRow.account))
_KEYS = {
    EarningsBy.ADAPTER: (EarningRow.version_id,),
    EarningsBy.CONTRIBUTION: (EarningRow.datanet, EarningRow.contribution),
}


class EarningStore:
    """Rows name their batch by hash; the chain's batches decide which of them count."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def known(self, accounts: Sequence[Account]) -> list[Account]:
        """Those of the accounts that signed in here at least once."""
        found = (found_among(self._session, _KNOWN, chunk) for chunk in _chunks(accounts))
        return [Account(row.account) for rows in found for row in rows]

    def add(self, found: Sequence[tuple[Credit, Sequence[Earning]]]) -> None:
        """Store credits with their entries. Idempotent."""
        rows = [{name: getattr(credit, name) for name in Credit.__slots__} for credit, _ in found]
        insert_all_absent(self._session, CreditRow, rows)
        for credit, earnings in found:
            batch = {"account": credit.account, "batch_hash": credit.batch_hash}
            entries = [{name: getattr(one, name) for name in Earning.__slots__} | batch for one in earnings]
            insert_all_absent(self._session, EarningRow, entries)

    def credits(self, account: Account, operator: Account) -> dict[Hash32, Credit]:
        """What batches of the operator, void ones included, credit to the account, by the batches' hashes."""
        query = select(table_of(CreditRow)).filter_by(account=account, operator=operator)
        return {Hash32(row.batch_hash): from_row(Credit, row) for row in self._session.execute(query)}

    def entries(
        self, account: Account, batches: Sequence[Hash32], wanted: EarningFilter
    ) -> dict[Hash32, list[Earning]]:
        """The account's entries in these batches that the filter admits, in the order of each batch."""
        found: dict[Hash32, list[Earning]] = {}
        place = (EarningRow.receipt, EarningRow.slice, EarningRow.part)
        for chunk in _chunks(batches):
            query = _filtered(select(table_of(EarningRow)), account, chunk, wanted)
            for row in self._session.execute(query.order_by(EarningRow.batch_hash, *place)):
                found.setdefault(Hash32(row.batch_hash), []).append(from_row(Earning, row))
        return found

    def sums(
        self, account: Account, batches: Sequence[Hash32], wanted: EarningFilter, by: EarningsBy
    ) -> Iterator[EarningSum]:
        """Number and sum of the same entries by batch and key."""
        columns = _KEYS.get(by, ())
        for chunk in _chunks(batches):
            parts = summed(EarningRow.amount)
            selected: list[Any] = [EarningRow.batch_hash, func.count(), *columns, *parts]
            query = _filtered(select(*selected), account, chunk, wanted).group_by(
                EarningRow.batch_hash, *columns
            )
            for batch, count, *rest in self._session.execute(query):
                split = len(columns)
                yield EarningSum(Hash32(batch), tuple(rest[:split]), count, joined(rest[split:]))

    def batches_of(self, account: Account, receipt: ReceiptId) -> list[Hash32]:
        """Batches, void ones included, that credit the account for this receipt."""
        query = select(EarningRow.batch_hash).filter_by(account=account, receipt_id=receipt).distinct()
        return [Hash32(batch) for batch in self._session.scalars(query)]


def _filtered(
    query: Select[Any], account: Account, batches: Collection[Hash32], wanted: EarningFilter
) -> Select[Any]:
    query = query.where(EarningRow.account == account, EarningRow.batch_hash.in_(batches))
    if wanted.versions is not None:
        query = query.where(EarningRow.version_id.in_(sorted(wanted.versions)))
    if wanted.contribution is not None:
        datanet, index = wanted.contribution
        query = query.where(EarningRow.datanet == datanet, EarningRow.contribution == index)
    return query


def _chunks(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))
