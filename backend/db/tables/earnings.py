"""Tables of the accounts that signed in here, and of what batches credit to them.

The chain's batches decide which rows count. A row names its batch by hash, so it never becomes wrong: a void
or a reorganisation changes no row.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Amount, Base


class AccountRow(Base):
    """An account that signed in here at least once."""

    __tablename__ = "accounts"

    account: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)


class CreditRow(Base):
    __tablename__ = "credits"
    __table_args__ = (Index(None, "account", "operator"),)

    account: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    batch_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    operator: Mapped[str] = mapped_column(ACCOUNT)
    number: Mapped[int] = mapped_column(BigInteger)
    credited_at: Mapped[int] = mapped_column(BigInteger)
    num_entries: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(Amount)
    balance: Mapped[int] = mapped_column(Amount)


class EarningRow(Base):
    __tablename__ = "earnings"
    __table_args__ = (Index(None, "receipt_id"), {"sqlite_with_rowid": False})

    account: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    batch_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    receipt: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    slice: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    part: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    receipt_id: Mapped[str] = mapped_column(HASH)
    version_id: Mapped[str] = mapped_column(HASH)
    datanet: Mapped[int | None] = mapped_column(BigInteger)
    contribution: Mapped[int | None] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(Amount)
