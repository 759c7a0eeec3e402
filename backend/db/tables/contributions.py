"""Tables of uploads and of their rows' hashes, which find duplicates without loading a data set."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Base, UtcDateTime


class UploadRow(Base):
    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_state_created_at", "state", "created_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    account: Mapped[str] = mapped_column(ACCOUNT, index=True)
    datanet: Mapped[int] = mapped_column(BigInteger, index=True)
    name: Mapped[str] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    report: Mapped[dict[str, Any]] = mapped_column(JSON)
    nonce: Mapped[int | None] = mapped_column(BigInteger)
    deadline: Mapped[int | None] = mapped_column(BigInteger)
    transaction_id: Mapped[int | None] = mapped_column(BigInteger)
    index: Mapped[int | None] = mapped_column(BigInteger)
    reason: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    failed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RowHashRow(Base):
    __tablename__ = "upload_rows"
    __table_args__ = (
        # Unclaimed rows have no datanet, and NULLs are never equal: the constraint binds claimed rows alone.
        UniqueConstraint("claimed_by_datanet", "row_hash"),
        Index("ix_upload_rows_upload_id_row_hash", "upload_id", "row_hash"),
    )

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    line: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    row_hash: Mapped[str] = mapped_column(HASH)
    claimed_by_datanet: Mapped[int | None] = mapped_column(BigInteger)
