"""Table of inspections: sketch and statistics of each adapter's weight update."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import HASH, Base


class InspectionRow(Base):
    __tablename__ = "inspections"

    adapter_digest: Mapped[str] = mapped_column(HASH, primary_key=True)
    base_model: Mapped[str] = mapped_column(HASH, index=True)
    sketch: Mapped[bytes] = mapped_column(LargeBinary)
    statistics: Mapped[dict[str, Any]] = mapped_column(JSON)
