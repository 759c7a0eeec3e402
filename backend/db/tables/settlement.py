"""Tables of the installation's own batches and of the mirrored ledgers of all operators."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Amount, Base


class OwnBatchRow(Base):
    """A batch that this installation decided to commit."""

    __tablename__ = "own_batches"

    operator: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    data_digest: Mapped[str] = mapped_column(HASH)
    commit_tx: Mapped[int | None] = mapped_column(BigInteger)
    is_released: Mapped[bool]


class LedgerRow(Base):
    """Balances and cumulatives after one valid batch. Amounts in the mappings are decimal strings."""

    __tablename__ = "ledgers"
    __table_args__ = (Index(None, "operator", "number"),)

    batch_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    operator: Mapped[str] = mapped_column(ACCOUNT)
    number: Mapped[int] = mapped_column(BigInteger)
    cumulative_total: Mapped[int] = mapped_column(Amount)
    balances: Mapped[dict[str, Any]] = mapped_column(JSON)
    collected: Mapped[dict[str, Any]] = mapped_column(JSON)
