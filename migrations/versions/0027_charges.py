"""add charges, whose receipts are signed later"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.domain.errors import Conflict

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

HASH, ACCOUNT, SIGNATURE = sa.String(66), sa.String(42), sa.String(132)
NULLABLE = {"id": HASH, "signature": SIGNATURE, "signer": ACCOUNT}
CHECKS = {
    "id_with_signature": "(id IS NULL) = (signature IS NULL)",
    "signer_with_signature": "(signer IS NULL) = (signature IS NULL)",
    "only_signed_in_batches": "batch IS NULL OR signature IS NOT NULL",
}
IS_UNSIGNED = sa.text("signature IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("receipts") as table:
        for name, kind in NULLABLE.items():
            table.alter_column(name, existing_type=kind, nullable=True)
        for name, condition in CHECKS.items():
            table.create_check_constraint(op.f(f"ck_receipts_{name}"), condition)
    op.create_index(
        "ix_receipts_unsigned",
        "receipts",
        ["channel_id", "cumulative"],
        sqlite_where=IS_UNSIGNED,
        postgresql_where=IS_UNSIGNED,
    )
    op.create_table(
        "charges",
        sa.Column("id", HASH, nullable=False),
        sa.Column("receipt_sequence", sa.Integer(), nullable=False),
        sa.Column("receipt_by", sa.BigInteger(), nullable=False),
        sa.Column("signature", SIGNATURE, nullable=False),
        sa.Column("signer", ACCOUNT, nullable=False),
        sa.ForeignKeyConstraint(
            ["receipt_sequence"], ["receipts.sequence"], name=op.f("fk_charges_receipt_sequence")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_charges")),
        sa.UniqueConstraint("receipt_sequence", name=op.f("uq_charges_receipt_sequence")),
    )


def downgrade() -> None:
    """Fails while a receipt is unsigned: its charge would be lost."""
    num_unsigned = op.get_bind().scalar(sa.text("SELECT count(*) FROM receipts WHERE signature IS NULL"))
    if num_unsigned:
        raise Conflict(
            f"receipts that are not signed yet: {num_unsigned}; revision {down_revision} cannot store them. "
            "Run `loraledger settle`, which signs them once their attribution is overdue, and migrate again."
        )
    op.drop_table("charges")
    op.drop_index("ix_receipts_unsigned", table_name="receipts")
    with op.batch_alter_table("receipts") as table:
        for name in CHECKS:
            table.drop_constraint(op.f(f"ck_receipts_{name}"), type_="check")
        for name, kind in NULLABLE.items():
            table.alter_column(name, existing_type=kind, nullable=False)
