"""Tables of webhook endpoints and of the deliveries to them, which are their outbox."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Amount, Base, UtcDateTime


class WebhookEndpointRow(Base):
    __tablename__ = "webhook_endpoints"
    # The slot bounds the number of an account's endpoints, also among concurrent requests.
    __table_args__ = (UniqueConstraint("account", "slot"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account: Mapped[str] = mapped_column(ACCOUNT)
    slot: Mapped[int]
    url: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(String(64))
    event_types: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    secret_number: Mapped[int]
    secret_hash: Mapped[str] = mapped_column(HASH)
    secret_hint: Mapped[str] = mapped_column(String(16))
    old_secret_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    low_balance: Mapped[int | None] = mapped_column(Amount)
    is_low: Mapped[bool]
    min_earnings: Mapped[int | None] = mapped_column(Amount)
    reported_earnings: Mapped[int] = mapped_column(Amount)


class WebhookDeliveryRow(Base):
    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_endpoint_id_sequence", "endpoint_id", "sequence"),
        UniqueConstraint("id"),
    )

    sequence: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(40))
    endpoint_id: Mapped[str] = mapped_column(ForeignKey(WebhookEndpointRow.id))
    event_type: Mapped[str] = mapped_column(String(64))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    state: Mapped[str] = mapped_column(String(16))
    num_attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    attempted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
