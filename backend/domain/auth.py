"""Sign-in sessions and API keys. Secrets are stored only as their sha-256."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from backend.domain.ids import Account


@dataclass(frozen=True, slots=True)
class Refresh:
    """The latest use of a session's refresh token: the hash of the token that was spent, and the nonce from
    which the new tokens were derived.
    """

    spent_hash: str
    nonce: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in wallet. The access token expires at `expires_at`, the session itself at `ends_at`."""

    id: str
    account: Account
    created_at: datetime
    ends_at: datetime
    token_hash: str
    expires_at: datetime
    refresh_hash: str
    last_refresh: Refresh | None


class Scope(StrEnum):
    """What an API key may be used for."""

    ANSWERS = "answers"
    """Request answers, at the account's cost."""
    ACCOUNT = "account"
    """Read the account's data and history, and deliver vouchers that the account signed."""


EVERY_SCOPE = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A named key of an account. Amounts in micro-units. `hint` is the beginning of the secret. `models` are
    the names of the models that the key may use, None for all.
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
class KeySpending:
    """What an API key may spend, and what it has spent, in micro-units."""

    id: str
    last_used_at: datetime | None
    revoked_at: datetime | None
    spend_cap: int | None
    spent: int


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key's total spending in micro-units and the time of its latest use."""

    key_id: str
    spent: int
    last_used_at: datetime | None
