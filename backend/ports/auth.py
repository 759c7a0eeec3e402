"""What sign-in and API keys ask of the database. Secrets reach a repository only as their sha-256."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from backend.domain.ids import Account


@dataclass(frozen=True, slots=True)
class Refresh:
    """The latest use of a session's refresh token: of which, and the nonce that its answer came from."""

    spent_hash: str
    nonce: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in wallet. `expires_at`: its access token's end; `ends_at`: its own."""

    id: str
    account: Account
    created_at: datetime
    ends_at: datetime
    token_hash: str
    expires_at: datetime
    refresh_hash: str
    last_refresh: Refresh | None


class Scope(StrEnum):
    """What an API key is for."""

    ANSWERS = "answers"
    """Asking for answers, at the account's cost."""
    ACCOUNT = "account"
    """Seeing what the account has and did, and delivering vouchers that it signed."""


EVERY_SCOPE = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A named key of an account. Amounts in micro-units; `hint` is the head of the secret. `models`: names of
    those that it may ask, None for all.
    """

    id: str
    account: Account
    name: str
    hint: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    spend_cap: int | None
    spent: int
    scopes: frozenset[Scope] = EVERY_SCOPE
    models: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What a key has spent by now, micro-units, and when it was last used."""

    key_id: str
    spent: int
    last_used_at: datetime | None


class AuthRepository(Protocol):
    def add_nonce(self, nonce: str, expires_at: datetime) -> None: ...

    def take_nonce(self, nonce: str, now: datetime) -> bool:
        """Use a nonce up. False if it is unknown, expired, or was taken before."""

    def add_session(self, session: Session) -> None:
        """Forgets those that are over."""

    def session_of_token(self, token_hash: str) -> Session | None:
        """By the hash of its access token, expired or not."""

    def locked_session(self, session_id: str) -> Session | None:
        """Until this transaction ends nobody else changes it."""

    def save_session(self, session: Session) -> None: ...

    def end_session(self, session_id: str) -> None: ...

    def add_key(self, key: ApiKey, secret_hash: str) -> None: ...

    def key_of_secret(self, secret_hash: str) -> ApiKey | None: ...

    def key(self, key_id: str) -> ApiKey | None: ...

    def keys(self, account: Account) -> list[ApiKey]:
        """All keys of the account, newest first, revoked ones included."""

    def revoke_key(self, key_id: str, now: datetime) -> None:
        """Idempotent: the first revocation's instant stays."""

    def keys_by_id(self, key_ids: Collection[str]) -> dict[str, ApiKey]: ...

    def note_use(self, uses: Sequence[KeyUse]) -> None:
        """The caller holds the locks of the keys' channels."""


class AuthTx(Protocol):
    @property
    def auth(self) -> AuthRepository: ...
