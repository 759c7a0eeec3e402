"""Tables of sign-in nonces, sessions and API keys. Secrets are stored as SHA-256 hashes only."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Amount, Base, UtcDateTime


class NonceRow(Base):
    __tablename__ = "sign_in_nonces"

    nonce: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class SessionRow(Base):
    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    account: Mapped[str] = mapped_column(ACCOUNT, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    token_hash: Mapped[str] = mapped_column(HASH, unique=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    refresh_hash: Mapped[str] = mapped_column(HASH)
    spent_hash: Mapped[str | None] = mapped_column(HASH)
    nonce: Mapped[str | None] = mapped_column(String(64))
    refreshed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ApiKeyRow(Base):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    secret_hash: Mapped[str] = mapped_column(HASH, unique=True)
    account: Mapped[str] = mapped_column(ACCOUNT, index=True)
    name: Mapped[str] = mapped_column(String(64))
    hint: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    spend_cap: Mapped[int | None] = mapped_column(Amount)
    spent: Mapped[int] = mapped_column(Amount, default=0)
    scopes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # null: all
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # null: all
