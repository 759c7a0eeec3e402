"""Reads `backend.domain.figures` in one transaction. Its cost grows with open work, not with history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from backend.db.chain import ChainStore
from backend.db.live_agreement import LiveAgreementStore
from backend.db.open_charges import IS_IN_NO_BATCH, IS_OPEN, first_unfunded, is_funded
from backend.db.tables.chain import ChannelRow
from backend.db.tables.outbox import OutboxRow
from backend.db.tables.serving import CumulativeRow, ReceiptRow, ReservationRow
from backend.db.tables.training import TrainingJobRow
from backend.db.tables.transactions import TransactionRow
from backend.db.transactions import TransactionStore
from backend.db.usage import joined, summed
from backend.domain.figures import Figures, Pending
from backend.domain.transactions import RELAY_PERIOD, TransactionState

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from backend.domain.ids import Account
    from backend.domain.registries import Operator

_OPEN_STATES = (TransactionState.QUEUED, TransactionState.SENT, TransactionState.MINED)


def figures(session: Session, operator: Account, now: datetime) -> Figures:
    """Figures of one operator's receipts, batches and demands, and of the installation's queues and jobs."""
    chain = ChainStore(session)
    cursor, registered = chain.cursor(), chain.operator(operator)
    in_no_batch = _in_no_batch(session, operator)
    (unsettled, unsettled_units), (_, unfunded_units) = (in_no_batch[key] for key in (True, False))
    batches = chain.open_batches(operator)
    demands = chain.open_demands(operator)
    return Figures(
        unsettled=unsettled,
        unsettled_units=unsettled_units,
        unfunded_units=unfunded_units,
        unsigned=_unsigned(session, operator),
        reserved_units=_reserved(session, now),
        open_batches=len(batches),
        float_units=sum(int(batch.header["total"]) for batch in batches),
        unrefunded_units=sum(
            int(void.header["total"]) for void in chain.void_batches(operator) if not void.is_refunded
        ),
        newest_batch_at=max((int(batch.header["committedAt"]) for batch in batches), default=None),
        next_final_at=min((int(batch.header["finalAt"]) for batch in batches), default=None),
        open_demands=len(demands),
        demand_deadline=min((one.deadline for one in demands), default=None),
        stake_units=0 if registered is None else registered.stake,
        outbox=_outbox(session),
        transactions=_transactions(session),
        relayed_wei=TransactionStore(session).relay_cost(operator, now - RELAY_PERIOD),
        jobs=_jobs(session),
        live_agreement=LiveAgreementStore(session).total(),
        receipts_to_sign=0 if registered is None else _to_sign(session, registered),
        indexed_block=None if cursor is None else cursor.number,
        indexed_at=None if cursor is None else cursor.timestamp,
    )


def _in_no_batch(session: Session, operator: Account) -> dict[bool, tuple[Pending, int]]:
    """Count, age and sum of what is charged and not in a batch, whether its receipt is signed or not; by
    whether its channel's balance covers it and those before it.
    """
    first = first_unfunded(operator)
    covered = is_funded(first).label("is_covered")
    rows = session.execute(
        select(covered, func.count(), func.min(ReceiptRow.served_at), *summed(ReceiptRow.charge))
        .outerjoin(ChannelRow, ChannelRow.id == ReceiptRow.channel_id)
        .outerjoin(CumulativeRow, CumulativeRow.channel_id == ReceiptRow.channel_id)
        .outerjoin(first, first.c.channel_id == ReceiptRow.channel_id)
        .where(ReceiptRow.operator == operator, IS_OPEN)
        .group_by(covered)
    )
    found = {bool(key): (Pending(count, oldest), joined(parts)) for key, count, oldest, *parts in rows}
    return {key: found.get(key, (Pending(0), 0)) for key in (True, False)}


def _unsigned(session: Session, operator: Account) -> Pending:
    is_unsigned = (ReceiptRow.operator == operator) & ReceiptRow.signature.is_(None)
    count, oldest = session.execute(
        select(func.count(), func.min(ReceiptRow.served_at)).where(is_unsigned)
    ).one()
    return Pending(count, oldest)


def _to_sign(session: Session, operator: Operator) -> int:
    if not operator.retired:
        return 0
    is_unsettled = (ReceiptRow.operator == operator.account) & IS_IN_NO_BATCH
    is_unsettled &= ReceiptRow.signature.is_not(None)
    others = ReceiptRow.signer.not_in(operator.active_keys)
    return session.scalar(select(func.count()).select_from(ReceiptRow).where(is_unsettled, others)) or 0


def _reserved(session: Session, now: datetime) -> int:
    lasts = ReservationRow.expires_at.is_(None) | (ReservationRow.expires_at > now)
    return joined(session.execute(select(*summed(ReservationRow.amount)).where(lasts)).one())


def _outbox(session: Session) -> Pending:
    count, oldest = session.execute(
        select(func.count(), func.min(OutboxRow.created_at)).where(OutboxRow.delivered_at.is_(None))
    ).one()
    return _pending(count, oldest)


def _transactions(session: Session) -> dict[str, Pending]:
    rows = session.execute(
        select(TransactionRow.state, func.count(), func.min(TransactionRow.created_at))
        .where(TransactionRow.state.in_(_OPEN_STATES))
        .group_by(TransactionRow.state)
    )
    found = {state: _pending(count, oldest) for state, count, oldest in rows}
    return {state.value: found.get(state.value, Pending(0)) for state in _OPEN_STATES}


def _jobs(session: Session) -> dict[str, int]:
    rows = session.execute(select(TrainingJobRow.state, func.count()).group_by(TrainingJobRow.state))
    return {state: count for state, count in rows}  # noqa: C416 - mypy does not accept rows as pairs


def _pending(count: int, oldest: Any) -> Pending:
    return Pending(count, None if oldest is None else oldest.timestamp())
