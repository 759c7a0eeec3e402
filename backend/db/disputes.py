"""Repository of committed batches, demands and answers, read from projections.

The number of a voided batch is used again, so a batch is valid unless a later void of its operator covers its
number. A leaf is demanded at most once.
"""

from __future__ import annotations

from collections import Counter
from operator import gt
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, exists, func, not_, select, tuple_

from backend.db.bulk import among, found_among, in_chunks
from backend.db.mapping import from_row
from backend.db.paging import in_chain_order
from backend.db.projections import entity_of
from backend.db.tables import chain as t
from backend.domain.disputes.witnesses import Fault, Tree
from backend.domain.ids import ZERO_ACCOUNT, Account, ChannelId, Hash32
from backend.domain.settlement import (
    DISPUTE_FUNCTIONS,
    BatchState,
    CommittedBatch,
    Conviction,
    Demand,
    DemandAnswer,
    PaidSpan,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy.orm import Session


class ChainBatches:
    """The part of `backend.ports.chain_view.ChainView` about batches and disputes."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def batches(self, operator: Account) -> list[CommittedBatch]:
        return self._among(operator)

    def valid_batches(
        self, operator: Account, after: int = 0, until: int | None = None
    ) -> list[CommittedBatch]:
        wanted = [t.BatchRow.number > after, not_(is_void())]
        return self._among(operator, *wanted, *([] if until is None else [t.BatchRow.number <= until]))

    def open_batches(self, operator: Account) -> list[CommittedBatch]:
        return self.valid_batches(operator, after=self.finalised(operator))

    def void_batches(self, operator: Account) -> list[CommittedBatch]:
        # Ordered here: by its index on the order, SQLite would read all batches to find the few void ones.
        query = select(t.BatchRow).join(t.VoidRow, _covers()).where(t.VoidRow.operator == operator)
        return self._read(operator, sorted(self._session.scalars(query).unique(), key=_place))

    def numbered_batch(self, operator: Account, number: int) -> CommittedBatch | None:
        row = t.BatchRow
        query = select(row).where(row.operator == operator, row.number == number)
        query = query.order_by(row.block_number.desc(), row.log_index.desc()).limit(1)
        found = self._session.scalar(query)
        return None if found is None else self._read(operator, [found])[0]

    def batch(self, batch_hash: Hash32) -> CommittedBatch | None:
        row = self._session.get(t.BatchRow, batch_hash)
        return None if row is None else self._read(Account(row.operator), [row])[0]

    def finalised(self, operator: Account) -> int:
        row = self._session.get(t.FinalityRow, operator)
        return 0 if row is None else row.number

    def newest_batches(self) -> dict[Account, Hash32]:
        row, known = t.BatchRow, select(t.BatchRow.operator).distinct().subquery()
        place = row.block_number, row.log_index

        def first(column: Any, *order: Any) -> Any:
            found = select(column).where(row.operator == known.c.operator).order_by(*order).limit(1)
            return found.scalar_subquery()

        query = select(known.c.operator, first(row.hash, *(column.desc() for column in place)))
        query = query.order_by(*(first(column, *place) for column in place))
        return {Account(operator): Hash32(batch) for operator, batch in self._session.execute(query)}

    def valid_among(self, batches: Collection[Hash32]) -> set[Hash32]:
        return {Hash32(row.hash) for row in found_among(self._session, _VALID, batches)}

    def recent_batches(self, operator: Account, after: str | None, limit: int) -> list[CommittedBatch]:
        table = t.BatchRow
        query = select(table).where(table.operator == operator)
        last = None if after is None else (table.hash, after)
        rows = in_chain_order(self._session, query, table, last, limit, is_newest_first=True)
        return self._read(operator, rows)

    def open_totals(self, operators: Collection[Account]) -> dict[Account, int]:
        query = (
            select(t.BatchRow.operator, t.BatchRow.header)
            .outerjoin(t.FinalityRow, t.FinalityRow.operator == t.BatchRow.operator)
            .where(t.BatchRow.operator.in_(operators))
            .where(t.BatchRow.number > func.coalesce(t.FinalityRow.number, 0), not_(is_void()))
        )
        totals: Counter[Account] = Counter()
        for operator, header in self._session.execute(query):
            totals[Account(operator)] += int(header["total"])
        return totals

    def _among(self, operator: Account, *where: ColumnElement[bool]) -> list[CommittedBatch]:
        return self._read(operator, self._ordered(t.BatchRow, t.BatchRow.operator == operator, *where))

    def _read(self, operator: Account, rows: Iterable[t.BatchRow]) -> list[CommittedBatch]:
        final = self.finalised(operator)
        voids = self._ordered(t.VoidRow, t.VoidRow.operator == operator)
        return [_batch(row, final, self._conviction(_void_of(row, voids))) for row in rows]

    def _conviction(self, void: t.VoidRow | None) -> Conviction | None:
        if void is None:
            return None
        # Any of the voided batches may be the convicted one, also one before those that are read.
        convicted = self._session.get_one(t.BatchRow, void.batch_hash)
        proof, challenger = convicted.proof or "", convicted.challenger or ZERO_ACCOUNT
        return Conviction(
            first=void.first,
            convicted=Hash32(void.batch_hash),
            proof=DISPUTE_FUNCTIONS.get(proof, proof),
            challenger=None if challenger == ZERO_ACCOUNT else Account(challenger),
            fault=None if convicted.fault is None else Fault(convicted.fault),
            receipt=convicted.faulty_receipt,
            tx_hash=Hash32(void.tx_hash),
            block_number=void.block_number,
        )

    def spans(self, batch_hash: Hash32) -> tuple[PaidSpan, ...]:
        """The spans are those of the `Collected` events directly before the batch's own event.

        An operator that is a contract can collect for itself before, in the same transaction. Those channels
        have another collector than the last one, whose collector is the batch's contract.
        """
        batch = self._session.get(t.BatchRow, batch_hash)
        if batch is None:
            return ()
        before = select(t.EventRow).where(
            t.EventRow.block_number == batch.block_number, t.EventRow.log_index < batch.log_index
        )
        spans: list[PaidSpan] = []
        collector = None
        for event in self._session.scalars(before.order_by(t.EventRow.log_index.desc())):
            is_next = event.log_index == batch.log_index - 1 - len(spans)
            channel = self._collected_from(event, batch) if is_next else None
            if channel is None or collector not in {None, channel.collector}:
                break
            collector = channel.collector
            ids, args = (ChannelId(Hash32(channel.id)), Account(channel.payer)), event.args
            spans.insert(0, PaidSpan(*ids, args["before"], args["from"], args["until"]))
        return tuple(spans)

    def _collected_from(self, event: t.EventRow, batch: t.BatchRow) -> t.ChannelRow | None:
        """The channel of a `Collected` event of this batch's operator; None for any other event."""
        if (event.contract, event.name, event.tx_hash) != ("PaymentVault", "Collected", batch.tx_hash):
            return None
        channel = self._session.get(t.ChannelRow, event.args["channelId"])
        return channel if channel is not None and channel.operator == batch.operator else None

    def settled(self, channel: ChannelId) -> int:
        known = self._session.get(t.ChannelRow, channel)
        if known is None:
            return 0
        operator = Account(known.operator)
        final = self.numbered_batch(operator, self.finalised(operator))
        if final is None:
            return 0
        batch, event = self._session.get_one(t.BatchRow, final.hash), t.EventRow
        is_before = (event.block_number < batch.block_number) | (
            (event.block_number == batch.block_number) & (event.log_index < batch.log_index)
        )
        ends = {"Collected": "until", "Refunded": "collected"}
        found: list[t.EventRow] = []
        for name in ends:  # each by the index, for a payer can make many other events
            of_channel = (event.entity == entity_of(t.ChannelRow, (channel,))) & (event.name == name)
            newest = select(event).where(of_channel, is_before)
            found += self._session.scalars(
                newest.order_by(event.block_number.desc(), event.log_index.desc()).limit(1)
            )
        last = max(found, key=lambda one: (one.block_number, one.log_index), default=None)
        return 0 if last is None else int(last.args[ends[last.name]])

    def demands(self, *batches: Hash32) -> list[Demand]:
        rows: list[t.DemandRow] = []
        for some in in_chunks(batches):
            rows += self._ordered(t.DemandRow, t.DemandRow.batch_hash.in_(some))
        return list(map(_demand, sorted(rows, key=_place)))

    def open_demands(self, operator: Account) -> list[Demand]:
        pending = [batch.hash for batch in self.open_batches(operator)]
        return sorted((one for one in self.demands(*pending) if one.is_open), key=lambda one: one.deadline)

    def answers(self, batch_hash: Hash32) -> list[DemandAnswer]:
        demand, event = t.DemandRow, t.EventRow
        is_answer = (event.block_hash == demand.answer_block_hash) & (
            event.log_index == demand.answer_log_index
        )
        query = (
            select(demand.leaf_id, event.args, event.block_number)
            .join(event, is_answer)
            .where(demand.batch_hash == batch_hash)
            .order_by(event.block_number, event.log_index)
        )
        found = self._session.execute(query)
        return [DemandAnswer(Hash32(leaf), args["call"], block) for leaf, args, block in found]

    def _ordered(self, table: type[Any], *where: Any) -> list[Any]:
        query = select(table).where(*where).order_by(table.block_number, table.log_index)
        return list(self._session.scalars(query))


def is_void(by_block: int | None = None) -> ColumnElement[bool]:
    """Whether a void after the `BatchRow` of a query covers its number: one up to this block, or any."""
    return exists().where(_covers(), *([] if by_block is None else [t.VoidRow.block_number <= by_block]))


def _covers() -> ColumnElement[bool]:
    """Whether a `VoidRow` voids a `BatchRow`."""
    places = (tuple_(table.block_number, table.log_index) for table in (t.VoidRow, t.BatchRow))
    is_covered = t.BatchRow.number.between(t.VoidRow.first, t.VoidRow.last)
    return and_(t.VoidRow.operator == t.BatchRow.operator, is_covered, gt(*places))


_VALID = select(t.BatchRow.hash).where(among(t.BatchRow.hash), not_(is_void()))


def _place(row: t.Projection) -> tuple[int, int]:
    return row.block_number, row.log_index


def _void_of(batch: t.BatchRow, voids: Iterable[t.VoidRow]) -> t.VoidRow | None:
    """The first void after the batch that covers its number; None if the batch is not voided."""
    later = (void for void in voids if _place(void) > _place(batch))
    return next((void for void in later if void.first <= batch.number <= void.last), None)


def _batch(row: t.BatchRow, final: int, conviction: Conviction | None) -> CommittedBatch:
    state = BatchState.FINAL if row.number <= final else BatchState.COMMITTED
    return CommittedBatch(
        operator=Account(row.operator),
        number=row.number,
        hash=Hash32(row.hash),
        header=row.header,
        state=state if conviction is None else BatchState.VOID,
        tx_hash=Hash32(row.tx_hash),
        block_number=row.block_number,
        conviction=conviction,
        is_refunded=row.is_refunded,
    )


def _demand(row: t.DemandRow) -> Demand:
    is_open = row.answer_block_hash is None and not row.is_returned
    return from_row(Demand, row, tree=Tree(row.tree), key=int(row.key, 16), is_open=is_open)
