"""Tables of the installation's chain transactions and of its keys' nonce lanes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Base, UtcDateTime

FEE = String(78)
"""uint256 wei as decimal digits."""


class NonceLane(Base):
    """Next nonce of one key. Locking the row serialises the key's transactions."""

    __tablename__ = "nonce_lanes"

    account: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    next_nonce: Mapped[int] = mapped_column(BigInteger, default=0)


class TransactionRow(Base):
    __tablename__ = "transactions"
    __table_args__ = (
        UniqueConstraint("lane", "nonce"),
        CheckConstraint("state IN ('queued', 'sent', 'mined', 'confirmed', 'failed')", name="state"),
        Index("ix_transactions_state_lane", "state", "lane"),
        Index("ix_transactions_call", "lane", "contract", "function", "state"),
        Index("ix_transactions_lane_signed_at", "lane", "signed_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    lane: Mapped[str] = mapped_column(ACCOUNT)
    contract: Mapped[str] = mapped_column(String(64))
    function: Mapped[str] = mapped_column(String(128))
    args: Mapped[list[Any]] = mapped_column(JSON)
    idempotency_key: Mapped[str] = mapped_column(String(200), unique=True)
    state: Mapped[str] = mapped_column(String(16), default="queued")
    nonce: Mapped[int | None] = mapped_column(BigInteger)
    gas: Mapped[int | None] = mapped_column(BigInteger)
    """Gas limit, or an estimate of it while the transaction is queued."""
    value: Mapped[str] = mapped_column(FEE, default="0")
    """Wei that the transaction carries."""
    fee_ceiling: Mapped[str | None] = mapped_column(FEE)
    """Highest `maxFeePerGas` of its attempts; None: the sender's."""
    tx_hash: Mapped[str | None] = mapped_column(HASH)
    block_number: Mapped[int | None] = mapped_column(BigInteger)
    block_hash: Mapped[str | None] = mapped_column(HASH)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    signed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When it got its nonce."""
    trace: Mapped[str | None] = mapped_column(String(55))
    """`traceparent` of the request that queued the transaction."""


class RequestRow(Base):
    """Account that requested a transaction. Several accounts may request the same one."""

    __tablename__ = "transaction_requests"

    account: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    transaction_id: Mapped[int] = mapped_column(ForeignKey("transactions.id"), primary_key=True)


class AttemptRow(Base):
    """One signed transaction for a nonce, stored before it is broadcast. Any attempt may be mined."""

    __tablename__ = "transaction_attempts"

    tx_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    transaction_id: Mapped[int] = mapped_column(ForeignKey("transactions.id"), index=True)
    raw: Mapped[str] = mapped_column(Text)
    max_fee: Mapped[str] = mapped_column(FEE)
    priority_fee: Mapped[str] = mapped_column(FEE)
    sent_at_block: Mapped[int] = mapped_column(BigInteger)
