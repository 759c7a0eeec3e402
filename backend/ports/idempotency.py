"""What repeated requests ask of the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from backend.domain.ids import Account, Hash32


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request that its client may repeat: whose, under which key, and the sha-256 of what it asks."""

    account: Account
    key: str
    fingerprint: Hash32


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """`body` is None where it was too large to be kept."""

    status: int
    media_type: str
    body: bytes | None


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """The first request under a key; `claim` is the secret of whoever runs it."""

    fingerprint: Hash32
    claim: str
    started_at: datetime
    answer: KeptAnswer | None


class IdempotencyRepository(Protocol):
    def claim(self, request: KeyedRequest, claim: str, now: datetime) -> KnownRequest:
        """The request that holds the key: this one, with this claim, or another that came first."""
        ...

    def keep(self, request: KeyedRequest, claim: str, answer: KeptAnswer) -> None: ...

    def forget(self, request: KeyedRequest, claim: str) -> None: ...

    def purge(self, before: datetime) -> None:
        """Forget all that began before."""
        ...


class IdempotencyTx(Protocol):
    @property
    def idempotency(self) -> IdempotencyRepository: ...
