"""Drop the time of finality of mirrored ledgers: the batch's header states it.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("ledgers") as table:
        table.drop_column("final_at")


def downgrade() -> None:
    with op.batch_alter_table("ledgers") as table:
        table.add_column(sa.Column("final_at", sa.BigInteger(), nullable=False, server_default="0"))
