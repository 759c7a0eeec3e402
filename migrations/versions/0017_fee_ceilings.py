"""transactions have fee ceilings of their own"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("transactions", sa.Column("fee_ceiling", sa.String(length=78), nullable=True))


def downgrade() -> None:
    op.drop_column("transactions", "fee_ceiling")
