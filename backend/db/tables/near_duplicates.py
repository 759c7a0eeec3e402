"""Tables of MinHash sketches of rows and of the bands that index a datanet's rows.

A sketch is written once, in line order. Inserts into the band index are random, so only claimed rows are
indexed.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Base


class RowSketchRow(Base):
    __tablename__ = "upload_row_sketches"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy expects a plain dict

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    line: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    band_0: Mapped[int] = mapped_column(BigInteger)
    band_1: Mapped[int] = mapped_column(BigInteger)
    band_2: Mapped[int] = mapped_column(BigInteger)
    band_3: Mapped[int] = mapped_column(BigInteger)
    band_4: Mapped[int] = mapped_column(BigInteger)
    band_5: Mapped[int] = mapped_column(BigInteger)
    band_6: Mapped[int] = mapped_column(BigInteger)
    band_7: Mapped[int] = mapped_column(BigInteger)


class DatanetBandRow(Base):
    """No foreign key: enforcing one would need a second index as large as this table."""

    __tablename__ = "datanet_bands"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    datanet: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    band: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    upload_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    line: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
