"""Table of what rate limits count, on PostgreSQL. It stays empty on SQLite, where a process counts alone."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DDL, BigInteger, Text, event
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Base, UtcDateTime


class RateCountRow(Base):
    """The requests or tokens counted under `key` in the window that ends at `ends_at`. The first count after
    that starts the next window from zero.
    """

    __tablename__ = "rate_counts"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    ends_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


# An unlogged table skips the write-ahead log, so that no count waits for the disk. PostgreSQL truncates it
# after a crash, which starts every caller's window from zero.
_SET_UNLOGGED: DDL = DDL("ALTER TABLE rate_counts SET UNLOGGED")  # type: ignore[no-untyped-call]
event.listen(RateCountRow.__table__, "after_create", _SET_UNLOGGED.execute_if(dialect="postgresql"))
