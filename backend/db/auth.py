"""Repository of nonces, sessions and API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, inspect, select, update

from backend.db.bulk import KEYS, among, update_all
from backend.db.tables.auth import ApiKeyRow, NonceRow, SessionRow
from backend.domain.ids import Account
from backend.ports.auth import ApiKey, Session

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session as DbSession

    from backend.ports.auth import KeyUse

_KEYS = select(*inspect(ApiKeyRow).column_attrs).where(among(ApiKeyRow.id))


class AuthStore:
    """Implements `backend.ports.auth.AuthRepository`."""

    def __init__(self, session: DbSession) -> None:
        self._session = session

    def add_nonce(self, nonce: str, expires_at: datetime) -> None:
        self._session.add(NonceRow(nonce=nonce, expires_at=expires_at))
        self._session.flush()

    def take_nonce(self, nonce: str, now: datetime) -> bool:
        taken = self._session.execute(
            delete(NonceRow)
            .where(NonceRow.nonce == nonce, NonceRow.expires_at > now)
            .returning(NonceRow.nonce)
        ).first()
        self._session.execute(delete(NonceRow).where(NonceRow.expires_at <= now))
        return taken is not None

    def add_session(self, token_hash: str, session: Session) -> None:
        self._session.execute(delete(SessionRow).where(SessionRow.expires_at <= session.created_at))
        self._session.add(
            SessionRow(
                token_hash=token_hash,
                account=session.account,
                created_at=session.created_at,
                expires_at=session.expires_at,
            )
        )
        self._session.flush()

    def session(self, token_hash: str, now: datetime) -> Session | None:
        row = self._session.get(SessionRow, token_hash)
        if row is None or row.expires_at <= now:
            return None
        return Session(Account(row.account), row.created_at, row.expires_at)

    def end_session(self, token_hash: str) -> None:
        self._session.execute(delete(SessionRow).where(SessionRow.token_hash == token_hash))

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
        newest_first = ApiKeyRow.created_at.desc(), ApiKeyRow.id.desc()
        rows = self._session.scalars(
            select(ApiKeyRow).where(ApiKeyRow.account == account).order_by(*newest_first)
        )
        return [_key(row) for row in rows]

    def revoke_key(self, key_id: str, now: datetime) -> None:
        self._session.execute(
            update(ApiKeyRow)
            .where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
            .values(revoked_at=now)
        )

    def keys_by_id(self, key_ids: Collection[str]) -> dict[str, ApiKey]:
        rows = self._session.execute(_KEYS, {KEYS: list(key_ids)})
        return {row.id: _key(row) for row in rows}

    def note_use(self, uses: Sequence[KeyUse]) -> None:
        used = [{"id": u.key_id, "spent": u.spent, "last_used_at": u.last_used_at} for u in uses]
        update_all(self._session, ApiKeyRow, "id", used)


def _key(row: Any) -> ApiKey:
    """Of an `ApiKeyRow` or its columns."""
    return ApiKey(
        id=row.id,
        account=Account(row.account),
        name=row.name,
        hint=row.hint,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        spend_cap=row.spend_cap,
        spent=row.spent,
    )
