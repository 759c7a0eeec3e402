"""Repository of what batches credit to the accounts that signed in here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, not_, select, tuple_

from backend.db.bulk import among, found_among, insert_all_absent, insert_tuples, table_of
from backend.db.disputes import is_void
from backend.db.mapping import from_row
from backend.db.tables.chain import BatchRow
from backend.db.tables.earnings import (
    AccountRow,
    CreditRow,
    EarningReceiptRow,
    EarningRow,
    EarningVersionRow,
)
from backend.db.usage import joined, summed
from backend.domain.earnings import Credit, Earning, EarningsBy, EarningSum
from backend.domain.ids import Account, Hash32

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from backend.domain.earnings import EarningFilter
    from backend.domain.ids import ReceiptId

_KNOWN = select(AccountRow.account).where(among(AccountRow.account))
_CREDIT_IDS = select(CreditRow.account, CreditRow.batch_hash, CreditRow.id).where(among(CreditRow.batch_hash))
_VERSION_IDS = select(EarningVersionRow.version_id, EarningVersionRow.id).where(
    among(EarningVersionRow.version_id)
)
_ENTRY = ("credit", "receipt", "slice", "part", "version", "datanet", "contribution", "amount")
_KEYS = {
    EarningsBy.ADAPTER: (EarningVersionRow.version_id,),
    EarningsBy.CONTRIBUTION: (EarningRow.datanet, EarningRow.contribution),
}
_IS_RECEIPT = (EarningReceiptRow.batch_hash == CreditRow.batch_hash) & (
    EarningReceiptRow.receipt == EarningRow.receipt
)


class EarningStore:
    """Rows name their batch by hash; the chain's batches decide which of them count."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def known(self, accounts: Sequence[Account]) -> list[Account]:
        """Those of the accounts that signed in here at least once."""
        return [Account(row.account) for row in found_among(self._session, _KNOWN, accounts)]

    def add(self, found: Sequence[tuple[Credit, Sequence[Earning]]]) -> None:
        """Store credits with their entries. Idempotent."""
        rows = [{name: getattr(credit, name) for name in Credit.__slots__} for credit, _ in found]
        insert_all_absent(self._session, CreditRow, rows)
        batches = list(dict.fromkeys(credit.batch_hash for credit, _ in found))
        stored = found_among(self._session, _CREDIT_IDS, batches)
        credits_ = {(row.account, row.batch_hash): row.id for row in stored}
        versions = self._versions({earning.version_id for _, earnings in found for earning in earnings})
        receipts = {
            (credit.batch_hash, earning.receipt, earning.receipt_id)
            for credit, earnings in found
            for earning in earnings
        }
        insert_tuples(
            self._session, EarningReceiptRow, ("batch_hash", "receipt", "receipt_id"), sorted(receipts)
        )
        for credit, earnings in found:
            id_ = credits_[credit.account, credit.batch_hash]
            entries = [
                (id_, e.receipt, e.slice, e.part, versions[e.version_id], *_values(e)) for e in earnings
            ]
            insert_tuples(self._session, EarningRow, _ENTRY, entries)

    def credit(self, account: Account, batch: Hash32) -> Credit | None:
        """What a batch credits to the account, if that is stored."""
        query = select(table_of(CreditRow)).filter_by(account=account, batch_hash=batch)
        row = self._session.execute(query).one_or_none()
        return None if row is None else from_row(Credit, row)

    def credits(self, account: Account, operator: Account, until: int, span: int) -> list[Credit]:
        """What the operator's batches, void ones included, credit to the account, newest first: of the newest
        credited batch up to number `until` and of the `span - 1` numbers before it.
        """
        own = (CreditRow.account == account) & (CreditRow.operator == operator) & (CreditRow.number <= until)
        newest = self._session.scalar(select(func.max(CreditRow.number)).where(own))
        if newest is None:
            return []
        query = select(table_of(CreditRow)).where(own, CreditRow.number > newest - span)
        rows = self._session.execute(query.order_by(CreditRow.number.desc()))
        return [from_row(Credit, row) for row in rows]

    def newest_credit(self, account: Account) -> int:
        """Row of the newest credit of the account that is stored; 0 if none is."""
        return self._session.scalar(select(func.max(CreditRow.id)).filter_by(account=account)) or 0

    def operators(self, account: Account, newest: int, block: int) -> list[Account]:
        """Operators whose batches, void ones included, credit the account by the rows up to this one. First
        are those that credit it most by batches that no void up to this block covers.
        """
        own = (CreditRow.account == account) & (CreditRow.id <= newest) & (CreditRow.num_entries > 0)
        known = self._session.scalars(select(CreditRow.operator).where(own).distinct())
        query = select(CreditRow.operator, *summed(CreditRow.amount))
        query = query.join(BatchRow, BatchRow.hash == CreditRow.batch_hash).where(own, not_(is_void(block)))
        rows = self._session.execute(query.group_by(CreditRow.operator))
        credited = {operator: joined(sums) for operator, *sums in rows}
        return sorted(map(Account, known), key=lambda one: (-credited.get(one, 0), one))

    def entries(
        self,
        account: Account,
        batches: Sequence[Hash32],
        wanted: EarningFilter,
        after: int = -1,
        limit: int | None = None,
    ) -> dict[Hash32, list[Earning]]:
        """The account's entries in these batches that the filter admits, in the order of each batch. Of a
        single batch, at most `limit` of those with a `place` above `after`.
        """
        found: dict[Hash32, list[Earning]] = {}
        columns = (*table_of(EarningRow).c, EarningVersionRow.version_id, EarningReceiptRow.receipt_id)
        query = _entries(account, wanted, CreditRow.batch_hash, *columns)
        query = query.join(EarningReceiptRow, _IS_RECEIPT)
        place = (EarningRow.receipt, EarningRow.slice, EarningRow.part)
        if after >= 0:
            query = query.where(tuple_(*place) > (after >> 32, after >> 16 & 0xFFFF, after & 0xFFFF))
        query = query.order_by(EarningRow.credit, *place).limit(limit)
        for row in found_among(self._session, query, batches):
            found.setdefault(Hash32(row.batch_hash), []).append(from_row(Earning, row))
        return found

    def sums(
        self, account: Account, batches: Sequence[Hash32], wanted: EarningFilter, by: EarningsBy
    ) -> Iterator[EarningSum]:
        """Number and sum of the same entries by batch and key."""
        columns = _KEYS.get(by, ())
        query = _entries(
            account, wanted, CreditRow.batch_hash, func.count(), *columns, *summed(EarningRow.amount)
        )
        split = len(columns)
        query = query.group_by(CreditRow.batch_hash, *columns)
        for batch, count, *rest in found_among(self._session, query, batches):
            yield EarningSum(Hash32(batch), tuple(rest[:split]), count, joined(rest[split:]))

    def batches_of(self, account: Account, receipt: ReceiptId) -> list[Hash32]:
        """Batches, void ones included, that credit the account for this receipt."""
        query = (
            select(CreditRow.batch_hash)
            .join(EarningRow, EarningRow.credit == CreditRow.id)
            .join(EarningReceiptRow, _IS_RECEIPT)
            .where(EarningReceiptRow.receipt_id == receipt, CreditRow.account == account)
            .distinct()
        )
        return [Hash32(batch) for batch in self._session.scalars(query)]

    def _versions(self, versions: Collection[str]) -> dict[str, int]:
        """Row ids of versions; adds those that are missing."""
        ordered = sorted(versions)
        insert_all_absent(self._session, EarningVersionRow, [{"version_id": one} for one in ordered])
        return {row.version_id: row.id for row in found_among(self._session, _VERSION_IDS, ordered)}


def _values(earning: Earning) -> tuple[int | None, int | None, str]:
    """Datanet, contribution and amount, as `Amount` stores it."""
    return earning.datanet, earning.contribution, f"{earning.amount:039d}"


def _entries(account: Account, wanted: EarningFilter, *columns: Any) -> Select[Any]:
    """Columns of the account's entries that the filter admits, among batches that are named on execution."""
    query: Select[Any] = (
        select(*columns)
        .select_from(CreditRow)
        .join(EarningRow, EarningRow.credit == CreditRow.id)
        .join(EarningVersionRow, EarningVersionRow.id == EarningRow.version)
        .where(CreditRow.account == account, among(CreditRow.batch_hash))
    )
    if wanted.versions is not None:
        query = query.where(EarningVersionRow.version_id.in_(sorted(wanted.versions)))
    if wanted.contribution is not None:
        datanet, index = wanted.contribution
        query = query.where(EarningRow.datanet == datanet, EarningRow.contribution == index)
    return query
