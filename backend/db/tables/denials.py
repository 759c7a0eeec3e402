"""Tables of the operator's denials and floor price."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import HASH, Base, UtcDateTime


class DenialRow(Base):
    __tablename__ = "denials"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    subject: Mapped[str] = mapped_column(HASH, primary_key=True)
    reason: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class FloorRow(Base):
    """A single row; no row means the default floor price."""

    __tablename__ = "floor_price"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    prompt: Mapped[int] = mapped_column(BigInteger)
    completion: Mapped[int] = mapped_column(BigInteger)
