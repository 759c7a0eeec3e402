"""when transactions were signed, by which the gas of a day's relayed ones is added up"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

TABLE, INDEX = "transactions", "ix_transactions_lane_signed_at"


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("signed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(INDEX, TABLE, ["lane", "signed_at"])


def downgrade() -> None:
    op.drop_index(INDEX, table_name=TABLE)
    op.drop_column(TABLE, "signed_at")
