"""Repository of nonces, sessions and API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from backend.db.bulk import among, found_among, update_all
from backend.db.mapping import columns_of, from_row
from backend.db.session import insert_if_absent
from backend.db.tables.auth import ApiKeyRow, NonceRow, SessionRow
from backend.db.tables.earnings import AccountRow
from backend.domain.auth import EVERY_SCOPE, ApiKey, KeySpending, Refresh, Scope, Session

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session as DbSession

    from backend.domain.auth import KeyUse
    from backend.domain.ids import Account

_SPENDING = select(*columns_of(ApiKeyRow, KeySpending)).where(among(ApiKeyRow.id))


class AuthStore:
    """Nonces, sessions and API keys. Secrets are stored only as their sha-256."""

    def __init__(self, session: DbSession) -> None:
        self._session = session

    def add_nonce(self, nonce: str, expires_at: datetime) -> None:
        self._session.add(NonceRow(nonce=nonce, expires_at=expires_at))
        self._session.flush()

    def consume_nonce(self, nonce: str, now: datetime) -> bool:
        """Use the nonce up. False if it is unknown, expired or used. Deletes expired nonces."""
        taken = self._session.execute(
            delete(NonceRow)
            .where(NonceRow.nonce == nonce, NonceRow.expires_at > now)
            .returning(NonceRow.nonce)
        ).first()
        self._session.execute(delete(NonceRow).where(NonceRow.expires_at <= now))
        return taken is not None

    def add_session(self, session: Session) -> None:
        """Add a session and delete those that have ended. From now on the account's earnings are stored."""
        self._session.execute(delete(SessionRow).where(SessionRow.ends_at <= session.created_at))
        insert_if_absent(self._session, AccountRow, account=session.account)
        self._session.add(SessionRow(id=session.id, **_session_values(session)))
        self._session.flush()

    def session_of_token(self, token_hash: str) -> Session | None:
        """The session with this access token hash, expired or not."""
        return _session(self._session.scalar(select(SessionRow).where(SessionRow.token_hash == token_hash)))

    def session(self, session_id: str) -> Session | None:
        return _session(self._session.get(SessionRow, session_id))

    def locked_session(self, session_id: str) -> Session | None:
        """The session, locked against changes until this transaction ends."""
        return _session(self._session.get(SessionRow, session_id, with_for_update=True))

    def save_session(self, session: Session) -> None:
        self._session.execute(
            update(SessionRow).where(SessionRow.id == session.id).values(**_session_values(session))
        )

    def end_session(self, session_id: str) -> None:
        self._session.execute(delete(SessionRow).where(SessionRow.id == session_id))

    def add_key(self, key: ApiKey, secret_hash: str) -> None:
        self._session.add(
            ApiKeyRow(
                id=key.id,
                secret_hash=secret_hash,
                account=key.account,
                name=key.name,
                hint=key.hint,
                created_at=key.created_at,
                spend_cap=key.spend_cap,
                spent=key.spent,
                scopes=sorted(key.scopes),
                models=None if key.models is None else list(key.models),
            )
        )
        self._session.flush()

    def key_of_secret(self, secret_hash: str) -> ApiKey | None:
        row = self._session.scalars(
            select(ApiKeyRow).where(ApiKeyRow.secret_hash == secret_hash)
        ).one_or_none()
        return None if row is None else _key(row)

    def key(self, key_id: str) -> ApiKey | None:
        row = self._session.get(ApiKeyRow, key_id)
        return None if row is None else _key(row)

    def keys(self, account: Account) -> list[ApiKey]:
        """All keys of the account, newest first, revoked ones included."""
        newest_first = ApiKeyRow.created_at.desc(), ApiKeyRow.id.desc()
        rows = self._session.scalars(
            select(ApiKeyRow).where(ApiKeyRow.account == account).order_by(*newest_first)
        )
        return [_key(row) for row in rows]

    def revoke_key(self, key_id: str, now: datetime) -> None:
        """Idempotent: the time of the first revocation stays."""
        self._session.execute(
            update(ApiKeyRow)
            .where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
            .values(revoked_at=now)
        )

    def revoke_all(self, now: datetime) -> tuple[int, int]:
        """Revoke all API keys and end all sessions. Returns how many there were of each."""
        valid = update(ApiKeyRow).where(ApiKeyRow.revoked_at.is_(None)).values(revoked_at=now)
        keys = self._session.scalars(valid.returning(ApiKeyRow.id)).all()
        sessions = self._session.scalars(delete(SessionRow).returning(SessionRow.id)).all()
        return len(keys), len(sessions)

    def spending(self, key_ids: Collection[str]) -> dict[str, KeySpending]:
        """By key; unknown keys are left out."""
        return {(key := KeySpending(*row)).id: key for row in found_among(self._session, _SPENDING, key_ids)}

    def record_use(self, uses: Sequence[KeyUse]) -> None:
        """Store what these keys have spent. The caller holds the locks of their channels."""
        used = [{"id": u.key_id, "spent": u.spent, "last_used_at": u.last_used_at} for u in uses]
        update_all(self._session, ApiKeyRow, "id", used)


def _session_values(session: Session) -> dict[str, Any]:
    last = session.last_refresh
    return {
        "account": session.account,
        "created_at": session.created_at,
        "ends_at": session.ends_at,
        "token_hash": session.token_hash,
        "expires_at": session.expires_at,
        "refresh_hash": session.refresh_hash,
        "spent_hash": last and last.spent_hash,
        "nonce": last and last.nonce,
        "refreshed_at": last and last.at,
    }


def _session(row: SessionRow | None) -> Session | None:
    if row is None:
        return None
    last = None
    if row.spent_hash is not None and row.nonce is not None and row.refreshed_at is not None:
        last = Refresh(row.spent_hash, row.nonce, row.refreshed_at)
    return from_row(Session, row, last_refresh=last)


def _key(row: ApiKeyRow) -> ApiKey:
    return from_row(
        ApiKey,
        row,
        scopes=EVERY_SCOPE if row.scopes is None else frozenset(map(Scope, row.scopes)),
        models=None if row.models is None else tuple(row.models),
    )
