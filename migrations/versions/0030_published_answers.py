"""published answers of adapters, with which the answers of uploaded rows are compared"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

TABLE = "published_answers"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("version_id", sa.String(66), nullable=False),
        sa.Column("datanet", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("shingles", sa.LargeBinary(), nullable=False),
        sa.Column("lengths", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "datanet", name=op.f("pk_published_answers")),
    )
    op.create_index(op.f("ix_published_answers_datanet"), TABLE, ["datanet"])


def downgrade() -> None:
    op.drop_table(TABLE)
