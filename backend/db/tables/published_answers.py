"""Table of the published answers of versions, by datanet of their snapshots."""

from __future__ import annotations

from sqlalchemy import BigInteger, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import HASH, Base


class PublishedAnswersRow(Base):
    """No foreign key: a reorganisation may drop the version and bring it back."""

    __tablename__ = "published_answers"

    version_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    datanet: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, index=True)
    """0 for a version without a snapshot."""
    shingles: Mapped[bytes] = mapped_column(LargeBinary)
    lengths: Mapped[bytes] = mapped_column(LargeBinary)
