"""add the accounts that signed in, and what batches credit to them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

SIGNED_IN = (
    "SELECT account FROM sessions UNION SELECT account FROM api_keys UNION SELECT account FROM uploads"
)


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("account", sa.String(42), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_accounts")),
    )
    op.execute(f"INSERT INTO accounts (account) {SIGNED_IN}")
    op.create_table(
        "credits",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(42), nullable=False),
        sa.Column("batch_hash", sa.String(66), nullable=False),
        sa.Column("operator", sa.String(42), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("credited_at", sa.BigInteger(), nullable=False),
        sa.Column("num_entries", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.String(39), nullable=False),
        sa.Column("balance", sa.String(39), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credits")),
        sa.UniqueConstraint("account", "batch_hash", name=op.f("uq_credits_account_batch_hash")),
    )
    op.create_index(op.f("ix_credits_account_operator"), "credits", ["account", "operator"])
    op.create_table(
        "earnings",
        sa.Column("credit", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("receipt", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("slice", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("datanet", sa.BigInteger(), nullable=True),
        sa.Column("contribution", sa.BigInteger(), nullable=True),
        sa.Column("amount", sa.String(39), nullable=False),
        sa.PrimaryKeyConstraint("credit", "receipt", "slice", "part", name=op.f("pk_earnings")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "earning_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.String(66), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_earning_versions")),
        sa.UniqueConstraint("version_id", name=op.f("uq_earning_versions_version_id")),
    )
    op.create_table(
        "earning_receipts",
        sa.Column("batch_hash", sa.String(66), nullable=False),
        sa.Column("receipt", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("receipt_id", sa.String(66), nullable=False),
        sa.PrimaryKeyConstraint("batch_hash", "receipt", name=op.f("pk_earning_receipts")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_earning_receipts_receipt_id"), "earning_receipts", ["receipt_id"])


def downgrade() -> None:
    for table in ("earning_receipts", "earning_versions", "earnings", "credits", "accounts"):
        op.drop_table(table)
