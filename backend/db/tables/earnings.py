"""Tables of the accounts that signed in here, of what batches credit to them, and of what contributions earn.

The chain's batches decide which rows count. A row names its batch by hash, so it never becomes wrong: a void
or a reorganisation changes no row.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ACCOUNT, HASH, Amount, Base


class AccountRow(Base):
    """An account that signed in here at least once."""

    __tablename__ = "accounts"

    account: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)


class CreditRow(Base):
    """What a batch credits to an account."""

    __tablename__ = "credits"
    __table_args__ = (UniqueConstraint("account", "batch_hash"), Index(None, "account", "operator", "number"))

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(ACCOUNT)
    batch_hash: Mapped[str] = mapped_column(HASH)
    operator: Mapped[str] = mapped_column(ACCOUNT)
    number: Mapped[int] = mapped_column(BigInteger)
    credited_at: Mapped[int] = mapped_column(BigInteger)
    num_entries: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(Amount)
    balance: Mapped[int] = mapped_column(Amount)


class EarningRow(Base):
    """One entry of a credit. There may be many: what entries share is in the two tables below."""

    __tablename__ = "earnings"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy expects a plain dict

    credit: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    receipt: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    slice: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    part: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    datanet: Mapped[int | None] = mapped_column(BigInteger)
    contribution: Mapped[int | None] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(Amount)


class ContributionTotalRow(Base):
    """What an operator's batches have credited for a contribution through a version, up to one batch that
    added to it. The newest batch that is not void has the valid total.
    """

    __tablename__ = "contribution_totals"
    __table_args__ = (Index(None, "version_id", "operator"),)

    batch_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    version_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    datanet: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    contribution: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    operator: Mapped[str] = mapped_column(ACCOUNT)
    number: Mapped[int] = mapped_column(BigInteger)
    account: Mapped[str] = mapped_column(ACCOUNT)
    total: Mapped[int] = mapped_column(Amount)


class EarningVersionRow(Base):
    """A version record that entries pay for."""

    __tablename__ = "earning_versions"

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(HASH, unique=True)


class EarningReceiptRow(Base):
    """A receipt that entries pay for, by its index in the batch."""

    __tablename__ = "earning_receipts"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    batch_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    receipt: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    receipt_id: Mapped[str] = mapped_column(HASH, index=True)
