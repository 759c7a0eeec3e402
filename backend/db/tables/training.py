"""Tables of fine-tuning jobs and their events."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Base, UtcDateTime


class TrainingJobRow(Base):
    __tablename__ = "training_jobs"
    # The sweep for expired leases filters by state and expiry.
    __table_args__ = (Index("ix_training_jobs_state_lease_until", "state", "lease_until"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    creator: Mapped[str] = mapped_column(ACCOUNT, index=True)
    snapshot_id: Mapped[str] = mapped_column(HASH)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lease_owner: Mapped[str | None] = mapped_column(String(36))
    lease_until: Mapped[datetime] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempt: Mapped[int] = mapped_column(default=0)
    dataset: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    adapter_digest: Mapped[str | None] = mapped_column(HASH)
    base_model: Mapped[str | None] = mapped_column(HASH)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    cid: Mapped[str | None] = mapped_column(String(64))
    version_id: Mapped[str | None] = mapped_column(HASH, index=True)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    imported_adapter: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    payment: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class TrainingEventRow(Base):
    __tablename__ = "training_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("training_jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
