"""create the table of transaction requests"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "transaction_requests",
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("transaction_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["transactions.id"], name=op.f("fk_transaction_requests_transaction_id")
        ),
        sa.PrimaryKeyConstraint("account", "transaction_id", name=op.f("pk_transaction_requests")),
    )


def downgrade() -> None:
    op.drop_table("transaction_requests")
