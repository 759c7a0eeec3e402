"""Sessions of signed-in wallets: a short access token, and a refresh token that gets the next pair, once.

The database keeps hashes. The next pair is computed from the refresh token itself and a nonce that is stored
with its use, so that whoever lost the answer (a crash, a connection, two tabs at once) asks again within
`retry_seconds` and gets the same one. Any other use of a spent token ends the session: somebody copied it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from backend.domain.auth import Refresh, Session
from backend.domain.errors import Unauthenticated
from backend.services.accounts.api_keys import secret_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account

TOKEN_PREFIX = "lls_"  # noqa: S105 - the prefix that tells a session token from an API key
REFRESH_PREFIX = "llr_"
_REFRESH_TOKEN = re.compile(REFRESH_PREFIX + "([0-9a-f]{32})_[0-9a-f]{64}")


class RefreshTokenReused(Unauthenticated):
    """The refresh token was used before, somebody may have copied it: its session is over. Sign in again."""


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """`days`: from signing in to signing in again, however often the session is refreshed."""

    access_seconds: int = 15 * 60
    days: int = 30
    retry_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Tokens:
    """Shown once."""

    session: Session
    access: str
    refresh: str


class Sessions:
    def __init__(
        self,
        db: Database,
        clock: Callable[[], datetime],
        times: SessionTimes | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._times = times or SessionTimes()

    def open(self, tx: UnitOfWork, account: Account) -> Tokens:
        """A new session in the caller's transaction."""
        now = self._clock()
        session_id = secrets.token_hex(16)
        access, refresh = (
            TOKEN_PREFIX + secrets.token_urlsafe(32),
            _refresh_token(session_id, secrets.token_hex(32)),
        )
        session = Session(
            id=session_id,
            account=account,
            created_at=now,
            ends_at=now + timedelta(days=self._times.days),
            token_hash=secret_hash(access),
            expires_at=now + timedelta(seconds=self._times.access_seconds),
            refresh_hash=secret_hash(refresh),
            last_refresh=None,
        )
        tx.auth.add_session(session)
        return Tokens(session, access, refresh)

    def of(self, access_token: str) -> Session:
        """Raises Unauthenticated."""
        with self._db.read() as tx:
            session = tx.auth.session_of_token(secret_hash(access_token))
        if session is None or session.expires_at <= self._clock():
            raise Unauthenticated(
                "The session token is unknown or has expired; refresh it, or sign in again."
            )
        return session

    def refresh(self, refresh_token: str) -> Tokens:
        """The next pair; the access token before it ends. Raises Unauthenticated, RefreshTokenReused."""
        now = self._clock()
        with self._db.begin() as tx:
            session = tx.auth.locked_session(_session_id(refresh_token))
            if session is None or session.ends_at <= now:
                raise Unauthenticated(
                    "The session is over: by its time, by signing out, or because one of its refresh tokens "
                    "was used twice. Sign in again.",
                    param="refresh_token",
                )
            use = self._use(session, secret_hash(refresh_token), now)
            if use is None:
                tx.auth.end_session(session.id)
            else:
                tokens = self._after(session, refresh_token, use)
                tx.auth.save_session(tokens.session)
                return tokens
        raise RefreshTokenReused(
            "This refresh token was used before, somebody may have copied it: the session is over. "
            "Sign in again.",
            param="refresh_token",
        )

    def end(self, access_token: str) -> None:
        """Neither of its tokens is good for anything from here on."""
        with self._db.begin() as tx:
            session = tx.auth.session_of_token(secret_hash(access_token))
            if session is not None:
                tx.auth.end_session(session.id)

    def _use(self, session: Session, presented: str, now: datetime) -> Refresh | None:
        """The use that the token is good for, new or repeated; None if it is spent."""
        if presented == session.refresh_hash:
            return Refresh(presented, secrets.token_hex(32), now)
        last = session.last_refresh
        if last is None or presented != last.spent_hash:
            return None
        return last if now < last.at + timedelta(seconds=self._times.retry_seconds) else None

    def _after(self, session: Session, refresh_token: str, use: Refresh) -> Tokens:
        access = TOKEN_PREFIX + _derived(refresh_token, f"access {use.nonce}")
        refresh = _refresh_token(session.id, _derived(refresh_token, f"refresh {use.nonce}"))
        changed = replace(
            session,
            token_hash=secret_hash(access),
            expires_at=min(use.at + timedelta(seconds=self._times.access_seconds), session.ends_at),
            refresh_hash=secret_hash(refresh),
            last_refresh=use,
        )
        return Tokens(changed, access, refresh)


def _derived(secret: str, what: str) -> str:
    return hmac.digest(secret.encode(), what.encode(), "sha256").hex()


def _refresh_token(session_id: str, secret: str) -> str:
    return f"{REFRESH_PREFIX}{session_id}_{secret}"


def _session_id(refresh_token: str) -> str:
    """As the token names it; empty, which no session is called, for what is no refresh token."""
    match = _REFRESH_TOKEN.fullmatch(refresh_token)
    return match[1] if match else ""
