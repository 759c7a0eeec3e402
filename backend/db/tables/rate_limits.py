"""Table of what rate limits count, on PostgreSQL. It stays empty on SQLite, where a process counts alone."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DDL, BigInteger, Text, event
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Base, UtcDateTime


class RateCountRow(Base):
    """`count` of what was counted under `key` until `ends_at`. A key's first count after that begins anew."""

    __tablename__ = "rate_counts"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    ends_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


# Not in the write-ahead log: no count waits for the disk. A crash of the database empties the table, which
# gives everyone the rest of a minute anew.
_SET_UNLOGGED: DDL = DDL("ALTER TABLE rate_counts SET UNLOGGED")  # type: ignore[no-untyped-call]
event.listen(RateCountRow.__table__, "after_create", _SET_UNLOGGED.execute_if(dialect="postgresql"))
