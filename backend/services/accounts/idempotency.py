"""Idempotent requests: a request with an `Idempotency-Key` takes effect once, even if it is repeated.

Source: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict
from backend.domain.idempotency import HEADER, IdempotencyKeyReused, StoredResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.idempotency import IdempotentRequest, RequestClaim

RETENTION = timedelta(hours=24)
MAX_STORED_BYTES = 16 << 20
"""Of one response."""
MAX_ACCOUNT_BYTES = 256 << 20
"""Of all responses of an account. A response may repeat much more of its request than it is charged for."""
_NOT_STORED = (
    f"was too large to store: one may have {MAX_STORED_BYTES >> 20} MiB, and those of an account "
    f"{MAX_ACCOUNT_BYTES >> 20} MiB a day"
)


class RequestUnderWay(Conflict):
    """The same request is still running."""


class OutcomeUnknown(Conflict):
    """The server stopped during the request, or its answer was too large to store, alone or with the
    account's others of the day.
    """


class Idempotency:
    def __init__(
        self,
        db: Database,
        clock: Callable[[], datetime],
        answer_seconds: float,
    ) -> None:
        """`answer_seconds`: maximum duration of a request. One that has no answer by then was interrupted."""
        self._db = db
        self._clock = clock
        self._longest = timedelta(seconds=answer_seconds)

    def start(self, request: IdempotentRequest) -> str | StoredResponse:
        """A claim to run the request under, which `store` or `release` ends; or the stored response.

        Raises IdempotencyKeyReused, RequestUnderWay and OutcomeUnknown. A request whose claim was
        never ended is not run again: it may have been charged.
        """
        now, claim = self._clock(), secrets.token_hex(16)
        with self._db.begin() as tx:
            tx.idempotency.purge(now - RETENTION)
            known = tx.idempotency.claim(request, claim, now)
        if known.claim == claim:
            return claim
        if known.fingerprint != request.fingerprint:
            raise IdempotencyKeyReused(
                f"The key {request.key!r} was used for another request; use a new key.", param=HEADER
            )
        return self._answer(request, known, now)

    def store(self, request: IdempotentRequest, claim: str, answer: StoredResponse) -> None:
        """Store the response until `RETENTION` after the start; without its body if that has more than
        `MAX_STORED_BYTES`, or the account's bodies more than `MAX_ACCOUNT_BYTES`.
        """
        size = len(answer.body or b"")
        with self._db.begin() as tx:
            left = MAX_ACCOUNT_BYTES - tx.idempotency.stored_bytes(request.account)
            if size > min(MAX_STORED_BYTES, left):
                answer = replace(answer, body=None)
            tx.idempotency.store(request, claim, answer)

    def release(self, request: IdempotentRequest, claim: str) -> None:
        """Release the claim of a request without effect: the next request with the key runs."""
        with self._db.begin() as tx:
            tx.idempotency.release(request, claim)

    def _answer(self, request: IdempotentRequest, known: RequestClaim, now: datetime) -> StoredResponse:
        if known.answer is None and now <= known.started_at + self._longest:
            raise RequestUnderWay(
                f"The request with the key {request.key!r} is still running; try again shortly.",
                param=HEADER,
                details={"retry_after_seconds": 1},
            )
        if known.answer is None or known.answer.body is None:
            reason = "is unknown" if known.answer is None else _NOT_STORED
            raise OutcomeUnknown(
                f"The outcome of the request with the key {request.key!r} {reason}. It is not run again: see "
                "/v1/receipts for what was charged, and use a new key.",
                param=HEADER,
            )
        return known.answer
