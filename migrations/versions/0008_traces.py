"""add the trace of outbox messages and transactions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("outbox", "transactions"):
        op.add_column(table, sa.Column("trace", sa.String(length=55), nullable=True))


def downgrade() -> None:
    for table in ("outbox", "transactions"):
        op.drop_column(table, "trace")
