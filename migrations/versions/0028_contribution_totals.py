"""what contributions have earned through each version"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

TABLE, INDEX = "contribution_totals", "ix_contribution_totals_version_id_operator"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("batch_hash", sa.String(66), primary_key=True),
        sa.Column("version_id", sa.String(66), primary_key=True),
        sa.Column("datanet", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("contribution", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("operator", sa.String(42), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("account", sa.String(42), nullable=False),
        sa.Column("total", sa.String(39), nullable=False),
    )
    op.create_index(INDEX, TABLE, ["version_id", "operator"])


def downgrade() -> None:
    op.drop_table(TABLE)
