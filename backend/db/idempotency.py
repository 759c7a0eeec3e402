"""Repository of requests with an idempotency key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, update

from backend.db.session import insert_if_absent
from backend.db.tables.idempotency import IdempotentRequestRow as Row
from backend.domain.idempotency import RequestClaim, StoredResponse
from backend.domain.ids import Hash32

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from backend.domain.idempotency import IdempotentRequest
    from backend.domain.ids import Account


class IdempotencyStore:
    """Requests with idempotency keys, and their answers."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def claim(self, request: IdempotentRequest, claim: str, now: datetime) -> RequestClaim:
        """The request that holds the key: this one with this claim, or another that came first."""
        row = None
        while row is None:  # the holder of the key may release it between the two statements
            insert_if_absent(
                self._session,
                Row,
                account=request.account,
                key=request.key,
                fingerprint=request.fingerprint,
                claim=claim,
                started_at=now,
            )
            row = self._session.get(Row, (request.account, request.key))
        answer = None if row.status is None else StoredResponse(row.status, row.media_type or "", row.body)
        return RequestClaim(Hash32(row.fingerprint), row.claim, row.started_at, answer)

    def store(self, request: IdempotentRequest, claim: str, answer: StoredResponse) -> None:
        body = answer.body
        values = {"status": answer.status, "media_type": answer.media_type, "body": body}
        values["num_bytes"] = len(body or b"")
        self._session.execute(update(Row).where(_is(request, claim)).values(values))

    def stored_bytes(self, account: Account) -> int:
        """Of all stored responses of the account."""
        total = select(func.coalesce(func.sum(Row.num_bytes), 0)).where(Row.account == account)
        return int(self._session.scalars(total).one())

    def release(self, request: IdempotentRequest, claim: str) -> None:
        self._session.execute(delete(Row).where(_is(request, claim)))

    def purge(self, before: datetime) -> None:
        """Delete the requests that started before."""
        self._session.execute(delete(Row).where(Row.started_at < before))


def _is(request: IdempotentRequest, claim: str) -> ColumnElement[bool]:
    return (Row.account == request.account) & (Row.key == request.key) & (Row.claim == claim)
