"""create the table of the floor price"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "floor_price",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("prompt", sa.BigInteger(), nullable=False),
        sa.Column("completion", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_floor_price")),
    )


def downgrade() -> None:
    op.drop_table("floor_price")
