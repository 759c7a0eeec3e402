"""add the trace of receipts"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("receipts", sa.Column("trace", sa.String(length=55), nullable=True))


def downgrade() -> None:
    op.drop_column("receipts", "trace")
