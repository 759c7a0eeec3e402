"""Repository of the installation's chain transactions and their nonce lanes."""

from __future__ import annotations

import math
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Double, case, cast, delete, func, select

from backend.db.bulk import in_chunks
from backend.db.mapping import from_row
from backend.db.session import insert_if_absent
from backend.db.tables.transactions import AttemptRow, NonceLane, RequestRow, TransactionRow
from backend.domain.errors import Conflict, NotFound
from backend.domain.ids import Account, Hash32
from backend.domain.transactions import (
    BUDGETED_CALLS,
    RELAYED_CALLS,
    ChainTransaction,
    OpenTransaction,
    Relayed,
    TransactionAttempt,
    TransactionState,
    as_json,
)
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import ScalarSelect
    from sqlalchemy.orm import Session


State = TransactionState


class TransactionStore:
    """The installation's transactions, sent in order per lane. Implements `backend.ports.chain.SendQueue`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def enqueue(
        self,
        lane: Account,
        contract: str,
        function: str,
        args: Sequence[Any],
        idempotency_key: str,
        fee_ceiling: int | None = None,
        value: int = 0,
        gas: int | None = None,
    ) -> int:
        """Queue a call and return its id. The same key with the same call returns the same id.

        `value` in wei goes with the call, and `gas` estimates its gas limit; a known call keeps its own.
        `fee_ceiling` in wei per gas limits its fees, None sets no limit of its own; the newest one counts.

        Errors: `Conflict` if the key was used with another call.
        """
        call = {"lane": lane, "contract": contract, "function": function, "args": as_json(list(args))}
        insert_if_absent(
            self._session,
            TransactionRow,
            **call,
            idempotency_key=idempotency_key,
            value=str(value),
            gas=gas,
            state=State.QUEUED,
            created_at=datetime.now(UTC),
            trace=traces.current_traceparent(),
        )
        row = self._session.scalars(select(TransactionRow).filter_by(idempotency_key=idempotency_key)).one()
        known = {name: getattr(row, name) for name in call}
        if known != call:
            raise Conflict(
                f"the key {idempotency_key} already stands for another call",
                param="idempotency_key",
                details={"recorded": known, "requested": call},
            )
        row.fee_ceiling = None if fee_ceiling is None else str(fee_ceiling)
        self._session.flush()
        return row.id

    def get(self, transaction_id: int) -> ChainTransaction:
        """Errors: `NotFound`."""
        return _transaction(self._row(transaction_id))

    def by_key(self, idempotency_key: str) -> ChainTransaction | None:
        row = self._session.scalar(select(TransactionRow).filter_by(idempotency_key=idempotency_key))
        return None if row is None else _transaction(row)

    def to_be_mined(self, lane: Account, contract: str, function: str) -> list[ChainTransaction]:
        """Transactions that are queued, or sent and not seen in a block; oldest first."""
        query = select(TransactionRow).filter_by(lane=lane, contract=contract, function=function)
        query = query.where(TransactionRow.state.in_((State.QUEUED, State.SENT)))
        return [_transaction(row) for row in self._session.scalars(query.order_by(TransactionRow.id))]

    def is_on_its_way(self, lane: Account, contract: str, function: str, block: int) -> bool:
        """Whether such a transaction is queued, sent, or in a block after this one, confirmed or not."""
        query = select(TransactionRow.id).filter_by(lane=lane, contract=contract, function=function)
        is_later = TransactionRow.block_number.is_(None) | (TransactionRow.block_number > block)
        query = query.where(TransactionRow.state != State.FAILED, is_later)
        return self._session.scalar(query.limit(1)) is not None

    def not_failed(self, lane: Account, contract: str, function: str) -> list[ChainTransaction]:
        """Transactions that had, or may still have, an effect on the chain; oldest first."""
        query = select(TransactionRow).filter_by(lane=lane, contract=contract, function=function)
        query = query.where(TransactionRow.state != State.FAILED)
        return [_transaction(row) for row in self._session.scalars(query.order_by(TransactionRow.id))]

    def record_request(self, account: Account, transaction_id: int) -> None:
        """Record that the transaction is sent for this account, perhaps for others too. Idempotent."""
        insert_if_absent(self._session, RequestRow, account=account, transaction_id=transaction_id)

    def is_requested(self, account: Account, transaction_id: int) -> bool:
        """Whether the transaction is sent for this account."""
        return self._session.get(RequestRow, (account, transaction_id)) is not None

    def requested(self, account: Account, before: int | None, limit: int) -> list[ChainTransaction]:
        """Transactions sent for the account, newest first, with an id below `before`."""
        query = select(TransactionRow).join(RequestRow, RequestRow.transaction_id == TransactionRow.id)
        query = query.where(RequestRow.account == account)
        if before is not None:
            query = query.where(TransactionRow.id < before)
        rows = self._session.scalars(query.order_by(TransactionRow.id.desc()).limit(limit))
        return [_transaction(row) for row in rows]

    def relayed(self, lane: Account, since: datetime, account: Account | None = None) -> Relayed:
        """What counts towards the relay budget of the time since then: what the lane signed in it, has in the
        pool or is to sign; what the account requested of it, unless that is None.
        """
        is_queued = TransactionRow.state == State.QUEUED
        is_open = TransactionRow.state.in_((State.QUEUED, State.SENT))
        query = select(
            func.sum(case((is_queued, 0.0), else_=TransactionRow.gas * _highest_fee())),
            func.sum(case((is_queued, TransactionRow.gas), else_=0)),
            func.min(TransactionRow.signed_at),
        ).where(
            TransactionRow.lane == lane,
            TransactionRow.function.in_(BUDGETED_CALLS),
            (TransactionRow.signed_at > since) | is_open,
        )
        if account is not None:
            query = query.join(RequestRow, RequestRow.transaction_id == TransactionRow.id)
            query = query.where(RequestRow.account == account)
        cost, queued_gas, first_at = self._session.execute(query).one()
        return Relayed(math.ceil(cost or 0), int(queued_gas or 0), first_at)

    def relay_cost(self, lane: Account, since: datetime) -> int:
        """See `backend.ports.chain.SendQueue.relay_cost`."""
        return self.relayed(lane, since).cost

    def lanes(self) -> list[Account]:
        """Keys that have something to send or to watch."""
        states = (State.QUEUED, State.SENT, State.MINED)
        found = self._session.scalars(
            select(TransactionRow.lane).where(TransactionRow.state.in_(states)).distinct()
        )
        return sorted(Account(lane) for lane in found)

    def first_queued(self, lane: Account, passed: Collection[int] = ()) -> ChainTransaction | None:
        """See `backend.ports.chain.SendQueue.first_queued`."""
        row = self._session.scalar(
            select(TransactionRow)
            .filter_by(lane=lane, state=State.QUEUED)
            .where(TransactionRow.id.not_in(passed))
            .order_by(TransactionRow.function.in_(RELAYED_CALLS), TransactionRow.id)
            .limit(1)
        )
        return None if row is None else _transaction(row)

    def open(self, lane: Account) -> list[OpenTransaction]:
        """Transactions that are sent or mined and not yet confirmed, by nonce."""
        rows = self._session.scalars(
            select(TransactionRow).where(
                TransactionRow.lane == lane, TransactionRow.state.in_((State.SENT, State.MINED))
            )
        )
        # Sorted here: for an ordered query SQLite reads all of the lane by its nonces.
        return sorted(self._opened(list(rows)), key=lambda one: one.nonce)

    def is_unchanged(self, transaction: OpenTransaction) -> bool:
        """Whether the transaction is unchanged since `open` returned it."""
        row = self._row(transaction.id)
        self._session.refresh(row)
        return row.state in (State.SENT, State.MINED) and self._opened([row]) == [transaction]

    def queued_ceilings(self, lane: Account) -> list[int | None]:
        """Fee ceilings of the queued calls that are not relayed, each once, in wei per gas."""
        query = select(TransactionRow.fee_ceiling).filter_by(lane=lane, state=State.QUEUED)
        query = query.where(TransactionRow.function.not_in(RELAYED_CALLS))
        return [_number(digits) for digits in self._session.scalars(query.distinct())]

    def num_unmined(self, lane: Account) -> int:
        """Number of transactions that are sent and not yet mined."""
        waiting = select(func.count()).select_from(TransactionRow).filter_by(lane=lane, state=State.SENT)
        return self._session.scalar(waiting) or 0

    def lock_lane(self, lane: Account) -> None:
        """Lock the lane: no other transaction signs with this key until this one ends."""
        insert_if_absent(self._session, NonceLane, account=lane, next_nonce=0)
        self._lane(lane)

    def assign_nonce(self, lane: Account, transaction_id: int, chain_nonce: int, gas: int) -> int | None:
        """Assign the lane's next nonce to a queued transaction; None if another sender was faster.

        `chain_nonce` is the account's transaction count: higher than the lane's if the key is used elsewhere,
        lower if the node lags. While no transaction of the lane is open, unused nonces are assigned again.
        """
        row = self._row(transaction_id)
        self._session.refresh(row)
        if row.state != State.QUEUED:
            return None
        lane_row = self._lane(lane)
        nonce = max(chain_nonce, lane_row.next_nonce if self._is_busy(lane) else self._num_used(lane))
        lane_row.next_nonce = nonce + 1
        row.nonce, row.gas, row.state, row.signed_at = nonce, gas, State.SENT, datetime.now(UTC)
        self._session.flush()
        return nonce

    def fill_nonce(self, lane: Account, nonce: int, gas: int) -> int | None:
        """Queue a transaction that only uses up a nonce; see `backend.ports.chain.SendQueue.fill_nonce`."""
        row = self._session.scalar(select(TransactionRow).filter_by(lane=lane, nonce=nonce))
        if row is not None:
            row.state, row.block_number, row.block_hash, row.error = State.SENT, None, None, None
            self._session.flush()
            return None
        key = f"fill:{lane}:{nonce}:{secrets.token_hex(8)}"
        call = {"contract": "", "function": "fill", "args": [], "created_at": datetime.now(UTC)}
        row = TransactionRow(
            lane=lane, idempotency_key=key, state=State.SENT, nonce=nonce, gas=gas, tx_hash=None, **call
        )
        self._session.add(row)
        self._session.flush()
        return row.id

    def add_attempt(self, transaction_id: int, attempt: TransactionAttempt, *, has_call: bool = True) -> None:
        """See `backend.ports.chain.SendQueue.add_attempt`."""
        if has_call:
            self._row(transaction_id).tx_hash = attempt.tx_hash
        self._session.add(
            AttemptRow(
                tx_hash=attempt.tx_hash,
                transaction_id=transaction_id,
                raw=attempt.raw,
                max_fee=str(attempt.max_fee),
                priority_fee=str(attempt.priority_fee),
                sent_at_block=attempt.sent_at_block,
            )
        )
        self._session.flush()

    def mark_mined(
        self,
        transaction_id: int,
        tx_hash: Hash32,
        block_number: int,
        block_hash: Hash32,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """`error`: why it failed in this block, if it did."""
        self._set(
            transaction_id,
            state=State.MINED,
            tx_hash=tx_hash,
            block_number=block_number,
            block_hash=block_hash,
            error=None if error is None else as_json(dict(error)),
        )

    def mark_unmined(self, transaction_id: int) -> None:
        """Return to `sent`: a reorganisation removed the block of the transaction."""
        self._set(transaction_id, state=State.SENT, block_number=None, block_hash=None, error=None)

    def mark_confirmed(self, transaction_id: int) -> None:
        self._set(transaction_id, state=State.CONFIRMED)

    def mark_failed(self, transaction_id: int, error: Mapping[str, Any]) -> None:
        self._set(transaction_id, state=State.FAILED, error=as_json(dict(error)))

    def requeue(self, transaction_id: int) -> None:
        """Queue it again: a transaction sent elsewhere used its nonce, so it can never be mined."""
        unsent = dict.fromkeys(("nonce", "signed_at", "tx_hash", "block_number", "block_hash", "error"))
        self._set(transaction_id, state=State.QUEUED, **unsent)
        self._session.execute(delete(AttemptRow).where(AttemptRow.transaction_id == transaction_id))

    def _set(self, transaction_id: int, **values: Any) -> None:
        row = self._row(transaction_id)
        for name, value in values.items():
            setattr(row, name, value)
        self._session.flush()

    def _row(self, transaction_id: int) -> TransactionRow:
        row = self._session.get(TransactionRow, transaction_id)
        if row is None:
            raise NotFound(f"no transaction {transaction_id}", param="transaction_id")
        return row

    def _lane(self, lane: Account) -> NonceLane:
        return self._session.scalars(select(NonceLane).filter_by(account=lane).with_for_update()).one()

    def _is_busy(self, lane: Account) -> bool:
        under_way = select(TransactionRow.id).where(
            TransactionRow.lane == lane, TransactionRow.state.in_((State.SENT, State.MINED))
        )
        return self._session.scalar(under_way.limit(1)) is not None

    def _num_used(self, lane: Account) -> int:
        """Number of nonces that the lane's transactions have used."""
        last = self._session.scalar(select(func.max(TransactionRow.nonce)).filter_by(lane=lane))
        return 0 if last is None else last + 1

    def _opened(self, rows: Sequence[TransactionRow]) -> list[OpenTransaction]:
        attempts: dict[int, list[TransactionAttempt]] = {row.id: [] for row in rows}
        for ids in in_chunks(attempts):
            for a in self._session.scalars(select(AttemptRow).where(AttemptRow.transaction_id.in_(ids))):
                attempt = TransactionAttempt(
                    Hash32(a.tx_hash), a.raw, int(a.max_fee), int(a.priority_fee), a.sent_at_block
                )
                attempts[a.transaction_id].append(attempt)
        return [_open(row, attempts[row.id]) for row in rows]


def _highest_fee() -> ScalarSelect[float | None]:
    """Of the attempts of a transaction, in wei per gas. Doubles are exact enough, and do not overflow."""
    query = select(func.max(cast(AttemptRow.max_fee, Double)))
    return (
        query.where(AttemptRow.transaction_id == TransactionRow.id)
        .correlate(TransactionRow)
        .scalar_subquery()
    )


def _open(row: TransactionRow, attempts: Sequence[TransactionAttempt]) -> OpenTransaction:
    return OpenTransaction(
        id=row.id,
        contract=row.contract,
        function=row.function,
        args=tuple(row.args),
        nonce=row.nonce or 0,
        gas=row.gas or 0,
        is_mined=row.state == State.MINED,
        attempts=tuple(sorted(attempts, key=lambda attempt: attempt.max_fee)),
        trace=row.trace,
        value=int(row.value),
        fee_ceiling=_number(row.fee_ceiling),
    )


def _transaction(row: TransactionRow) -> ChainTransaction:
    return from_row(
        ChainTransaction,
        row,
        hash=None if row.tx_hash is None else Hash32(row.tx_hash),
        args=tuple(row.args),
        state=State(row.state),
        value=int(row.value),
        fee_ceiling=_number(row.fee_ceiling),
    )


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
