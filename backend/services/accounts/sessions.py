"""Sessions of signed-in wallets: a short-lived access token, and a single-use refresh token for the next
pair.

The database stores hashes. The next pair is derived from the refresh token and a nonce stored with its use. A
client that lost the response (a crash, a broken connection, two tabs) can repeat the request within
`retry_seconds` and gets the same pair. Any other use of a spent token ends the session, since the token may
have been copied.
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

TOKEN_PREFIX = "lls_"  # noqa: S105 - distinguishes a session token from an API key
REFRESH_PREFIX = "llr_"
_REFRESH_TOKEN = re.compile(REFRESH_PREFIX + "([0-9a-f]{32})_[0-9a-f]{64}")


class RefreshTokenReused(Unauthenticated):
    """The refresh token was used before and may have been copied. The session was ended; sign in again."""


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """`days`: maximum lifetime of a session, which refreshing does not extend."""

    access_seconds: int = 15 * 60
    days: int = 30
    retry_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Tokens:
    """A session's tokens, which cannot be retrieved later."""

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
        """Create a session in the caller's transaction."""
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
        """The session of a valid access token. Raises Unauthenticated."""
        with self._db.read() as tx:
            session = tx.auth.session_of_token(secret_hash(access_token))
        if session is None or session.expires_at <= self._clock():
            raise Unauthenticated("The session token is unknown or has expired; refresh it or sign in again.")
        return session

    def refresh(self, refresh_token: str) -> Tokens:
        """Issue the next pair, which replaces the old one. Raises Unauthenticated, RefreshTokenReused."""
        now, session_id = self._clock(), _session_id(refresh_token)
        with self._db.read() as tx:  # on SQLite, a token of no session must not wait for, or delay, writers
            if tx.auth.session(session_id) is None:
                raise _ended()
        with self._db.begin() as tx:
            session = tx.auth.locked_session(session_id)
            if session is None or session.ends_at <= now:
                raise _ended()
            use = self._use(session, secret_hash(refresh_token), now)
            if use is None:
                tx.auth.end_session(session.id)
            else:
                tokens = self._next_tokens(session, refresh_token, use)
                tx.auth.save_session(tokens.session)
                return tokens
        raise RefreshTokenReused(
            "This refresh token was used before and may have been copied: the session was ended. "
            "Sign in again.",
            param="refresh_token",
        )

    def end(self, access_token: str) -> None:
        """End the session of the access token; both its tokens become invalid."""
        with self._db.begin() as tx:
            session = tx.auth.session_of_token(secret_hash(access_token))
            if session is not None:
                tx.auth.end_session(session.id)

    def _use(self, session: Session, presented: str, now: datetime) -> Refresh | None:
        """A new use of the token, or the stored one if it is repeated in time; None if the token is spent."""
        if presented == session.refresh_hash:
            return Refresh(presented, secrets.token_hex(32), now)
        last = session.last_refresh
        if last is None or presented != last.spent_hash:
            return None
        return last if now < last.at + timedelta(seconds=self._times.retry_seconds) else None

    def _next_tokens(self, session: Session, refresh_token: str, use: Refresh) -> Tokens:
        access = TOKEN_PREFIX + _derive(refresh_token, f"access {use.nonce}")
        refresh = _refresh_token(session.id, _derive(refresh_token, f"refresh {use.nonce}"))
        changed = replace(
            session,
            token_hash=secret_hash(access),
            expires_at=min(use.at + timedelta(seconds=self._times.access_seconds), session.ends_at),
            refresh_hash=secret_hash(refresh),
            last_refresh=use,
        )
        return Tokens(changed, access, refresh)


def _derive(secret: str, purpose: str) -> str:
    return hmac.digest(secret.encode(), purpose.encode(), "sha256").hex()


def _refresh_token(session_id: str, secret: str) -> str:
    return f"{REFRESH_PREFIX}{session_id}_{secret}"


def _session_id(refresh_token: str) -> str:
    """Session id in a refresh token. Errors: `Unauthenticated` if the token is malformed."""
    match = _REFRESH_TOKEN.fullmatch(refresh_token)
    if match is None:
        raise _ended()
    return match[1]


def _ended() -> Unauthenticated:
    return Unauthenticated(
        "The session has ended: it expired, was signed out, or one of its refresh tokens was used twice. "
        "Sign in again.",
        param="refresh_token",
    )
