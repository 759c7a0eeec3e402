"""Tables of what is known of versions besides their record, and of how often each is used."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import HASH, Base, UtcDateTime


class DescriptionRow(Base):
    """What the catalogue shows and finds a version by. Derived; a version without a row is listed too."""

    __tablename__ = "version_descriptions"

    version_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    licence: Mapped[str | None] = mapped_column(String(1024))
    parents: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    num_contributions: Mapped[int] = mapped_column(BigInteger)
    licences: Mapped[list[str]] = mapped_column(JSON)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    quality: Mapped[float | None] = mapped_column(Float(53))
    card: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """Title, summary and tags."""
    card_text: Mapped[str | None] = mapped_column(Text)
    agreement: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """Fields of `backend.domain.catalogue.Agreement`."""
    card_due_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    """When to look for the card again; None once it was read."""
    search_text: Mapped[str] = mapped_column(Text)
    """Case-folded."""


class VersionUsageRow(Base):
    """Answers of a version on one day (UTC)."""

    __tablename__ = "version_usage"

    version_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Days since 1970-01-01."""
    num_answers: Mapped[int] = mapped_column(BigInteger)
    last_sequence: Mapped[int] = mapped_column(BigInteger, index=True)
    """Newest receipt that is counted in `num_answers`."""
