"""Table of requests with an `Idempotency-Key` and their stored responses."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Base, UtcDateTime


class IdempotentRequestRow(Base):
    """`status` is None while the request runs. `body` is None then, and if the response was too large;
    `num_bytes` is its size.
    """

    __tablename__ = "idempotent_requests"
    __table_args__ = (Index("ix_idempotent_requests_account_num_bytes", "account", "num_bytes"),)

    account: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(HASH)
    claim: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    status: Mapped[int | None]
    media_type: Mapped[str | None] = mapped_column(String(100))
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    num_bytes: Mapped[int] = mapped_column(default=0)
