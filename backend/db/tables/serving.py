"""Tables of cumulative charges, reservations, vouchers, held session keys, moves, receipts and charges."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from backend.db.base import ACCOUNT, HASH, Amount, Base, UtcDateTime
from backend.db.tables.transactions import TransactionRow

SIGNATURE = String(132)


class CumulativeRow(Base):
    """Cumulative charge of a channel. Locking the row serialises the channel's receipts."""

    __tablename__ = "channel_cumulatives"

    channel_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    charged: Mapped[int] = mapped_column(Amount, default=0)
    waive_until: Mapped[int] = mapped_column(Amount, default=0, index=True)
    """End of the answers that block the channel until they are waived; zero if none does."""
    waive_from: Mapped[int] = mapped_column(Amount, default=0)
    """Begin of these answers."""


class ReservationRow(Base):
    __tablename__ = "reservations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    channel_id: Mapped[str] = mapped_column(ForeignKey(CumulativeRow.channel_id), index=True)
    key_id: Mapped[str | None] = mapped_column(String(32), index=True)
    amount: Mapped[int] = mapped_column(Amount)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class VoucherRow(Base):
    """The latest voucher of each signer."""

    __tablename__ = "vouchers"

    channel_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    signer: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    waived_until: Mapped[int] = mapped_column(Amount)
    max_cumulative: Mapped[int] = mapped_column(Amount)
    signature: Mapped[str] = mapped_column(SIGNATURE)


class HeldKeyRow(Base):
    __tablename__ = "held_session_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(ACCOUNT, unique=True)
    channel_id: Mapped[str] = mapped_column(HASH, index=True)


class MoveRow(Base):
    """Balance that a transaction takes to the payer's channel under another collector."""

    __tablename__ = "channel_moves"

    transaction_id: Mapped[int] = mapped_column(ForeignKey(TransactionRow.id), primary_key=True)
    channel_id: Mapped[str] = mapped_column(HASH, index=True)
    nonce: Mapped[int] = mapped_column(Amount)
    amount: Mapped[int] = mapped_column(Amount)
    deadline: Mapped[int] = mapped_column(BigInteger)


SEQUENCE = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows of this type alone
IS_UNSIGNED = text("signature IS NULL")
IS_IN_A_BATCH = text("batch IS NOT NULL")
# Free receipts are never batched. As in `Amount`, and without a parameter, so that databases use the index.
IS_CHARGED_IN_NO_BATCH = text(f"batch IS NULL AND charge > '{0:039d}'")


class ReceiptRow(Base):
    """The receipt of one interval of a channel. While it is unsigned, its `ChargeRow` is the payer's proof;
    `method`, `attribution_hash` and the slices' shares are then the fallback.
    """

    __tablename__ = "receipts"
    __table_args__ = (
        Index("ix_receipts_payer_sequence", "payer", "sequence"),
        Index("ix_receipts_channel_id_cumulative", "channel_id", "cumulative"),
        Index(
            "ix_receipts_batch",
            "operator",
            "batch",
            sqlite_where=IS_IN_A_BATCH,
            postgresql_where=IS_IN_A_BATCH,
        ),
        Index(
            "ix_receipts_in_no_batch",
            "operator",
            "channel_id",
            "cumulative",
            sqlite_where=IS_CHARGED_IN_NO_BATCH,
            postgresql_where=IS_CHARGED_IN_NO_BATCH,
        ),
        Index("ix_receipts_served_at", "served_at"),
        Index(
            "ix_receipts_unsigned",
            "channel_id",
            "cumulative",
            sqlite_where=IS_UNSIGNED,
            postgresql_where=IS_UNSIGNED,
        ),
        UniqueConstraint("id"),
        CheckConstraint("(id IS NULL) = (signature IS NULL)", "id_with_signature"),
        CheckConstraint("(signer IS NULL) = (signature IS NULL)", "signer_with_signature"),
        CheckConstraint("batch IS NULL OR signature IS NOT NULL", "only_signed_in_batches"),
    )

    sequence: Mapped[int] = mapped_column(SEQUENCE, primary_key=True)
    id: Mapped[str | None] = mapped_column(HASH)
    operator: Mapped[str] = mapped_column(ACCOUNT)
    payer: Mapped[str] = mapped_column(ACCOUNT)
    key_id: Mapped[str | None] = mapped_column(String(32))
    batch: Mapped[int | None]
    trace: Mapped[str | None] = mapped_column(String(55))
    salt: Mapped[str] = mapped_column(HASH)
    method: Mapped[str] = mapped_column(String(32))
    signature: Mapped[str | None] = mapped_column(SIGNATURE)
    signer: Mapped[str | None] = mapped_column(ACCOUNT)
    """The receipt key that made the signature."""

    channel_id: Mapped[str] = mapped_column(HASH)
    cumulative: Mapped[int] = mapped_column(Amount)
    charge: Mapped[int] = mapped_column(Amount)
    request_hash: Mapped[str] = mapped_column(HASH)
    response_hash: Mapped[str] = mapped_column(HASH)
    slices_hash: Mapped[str] = mapped_column(HASH)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    attribution_hash: Mapped[str] = mapped_column(HASH)
    served_at: Mapped[int] = mapped_column(BigInteger)

    slices: Mapped[list[ReceiptSliceRow]] = relationship(
        order_by="ReceiptSliceRow.number", lazy="selectin", cascade="all, delete-orphan"
    )


class ReceiptSliceRow(Base):
    __tablename__ = "receipt_slices"

    receipt_sequence: Mapped[int] = mapped_column(SEQUENCE, ForeignKey(ReceiptRow.sequence), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(HASH, index=True)
    weight_ppm: Mapped[int]
    shares: Mapped[bytes] = mapped_column(LargeBinary)
    """Packed as in docs/protocol.md: for each share 4 bytes of position and 4 bytes of ppm."""


class ChargeRow(Base):
    """A signed charge, whose other fields are those of its receipt."""

    __tablename__ = "charges"

    id: Mapped[str] = mapped_column(HASH, primary_key=True)
    receipt_sequence: Mapped[int] = mapped_column(SEQUENCE, ForeignKey(ReceiptRow.sequence), unique=True)
    receipt_by: Mapped[int] = mapped_column(BigInteger)
    signature: Mapped[str] = mapped_column(SIGNATURE)
    signer: Mapped[str] = mapped_column(ACCOUNT)
    """The receipt key that made the signature."""
