"""index by which the gas of relayed transactions of a day is added up"""

from __future__ import annotations

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

INDEX = "ix_transactions_lane_created_at"


def upgrade() -> None:
    op.create_index(INDEX, "transactions", ["lane", "created_at"])


def downgrade() -> None:
    op.drop_index(INDEX, table_name="transactions")
