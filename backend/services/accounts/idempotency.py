"""A request under an `Idempotency-Key` has its effect once, however often it is sent.

Source: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict
from backend.domain.idempotency import StoredResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.idempotency import IdempotentRequest, RequestClaim

HEADER = "Idempotency-Key"
KEPT = timedelta(hours=24)
MAX_KEPT_BYTES = 16 << 20


class IdempotencyKeyReused(Conflict):
    """Another request was sent under the same key."""


class RequestUnderWay(Conflict):
    """The same request is being answered."""


class OutcomeUnknown(Conflict):
    """The server stopped while it answered the request, or the answer was too large to be kept."""


class Idempotency:
    def __init__(
        self,
        db: Database,
        clock: Callable[[], datetime],
        answer_seconds: float,
    ) -> None:
        """`answer_seconds`: what any request takes at most; one that is not over then was lost."""
        self._db = db
        self._clock = clock
        self._longest = timedelta(seconds=answer_seconds)

    def start(self, request: IdempotentRequest) -> str | StoredResponse:
        """A claim to run the request under, which `keep` or `forget` ends; or the answer it had before.

        Raises IdempotencyKeyReused, RequestUnderWay and OutcomeUnknown. A request whose claim was never ended
        is not run again: it may have been charged.
        """
        now, claim = self._clock(), secrets.token_hex(16)
        with self._db.begin() as tx:
            tx.idempotency.purge(now - KEPT)
            known = tx.idempotency.claim(request, claim, now)
        if known.claim == claim:
            return claim
        if known.fingerprint != request.fingerprint:
            raise IdempotencyKeyReused(
                f"The key {request.key!r} was sent with another request; use a new one.", param=HEADER
            )
        return self._answer(request, known, now)

    def keep(self, request: IdempotentRequest, claim: str, answer: StoredResponse) -> None:
        """For `KEPT` from the start on; of a body over `MAX_KEPT_BYTES` only that there was one."""
        if len(answer.body or b"") > MAX_KEPT_BYTES:
            answer = StoredResponse(answer.status, answer.media_type, None)
        with self._db.begin() as tx:
            tx.idempotency.keep(request, claim, answer)

    def forget(self, request: IdempotentRequest, claim: str) -> None:
        """The request had no effect: the next one under the key runs."""
        with self._db.begin() as tx:
            tx.idempotency.forget(request, claim)

    def _answer(self, request: IdempotentRequest, known: RequestClaim, now: datetime) -> StoredResponse:
        if known.answer is None and now <= known.started_at + self._longest:
            raise RequestUnderWay(
                f"The request under the key {request.key!r} is being answered; ask again shortly.",
                param=HEADER,
                details={"retry_after_seconds": 1},
            )
        if known.answer is None or known.answer.body is None:
            lost = "cannot be told" if known.answer is None else "was too large to be kept"
            raise OutcomeUnknown(
                f"What became of the request under the key {request.key!r} {lost}. It is not run again: see "
                "what was charged at /v1/receipts, and use a new key.",
                param=HEADER,
            )
        return known.answer
