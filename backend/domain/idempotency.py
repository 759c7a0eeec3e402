"""Requests with an idempotency key, and their stored answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from datetime import datetime

    from backend.domain.ids import Account, Hash32


HEADER = "Idempotency-Key"


class IdempotencyKeyReused(Conflict):
    """The key was used for another request."""


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request that its client may repeat: the account, its key, and the sha-256 of the request."""

    account: Account
    key: str
    fingerprint: Hash32


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A stored answer. `body` is None if it was too large, or those of its account were."""

    status: int
    media_type: str
    body: bytes | None


@dataclass(frozen=True, slots=True)
class RequestClaim:
    """The first request with a key. `claim` is a secret of the caller that runs it."""

    fingerprint: Hash32
    claim: str
    started_at: datetime
    answer: StoredResponse | None
