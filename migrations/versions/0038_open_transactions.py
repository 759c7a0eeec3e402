"""open transactions, and those of one function, are found without reading all of their lane"""

from __future__ import annotations

from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

TABLE = "transactions"
INDEXES = {
    "ix_transactions_state_lane": ["state", "lane"],
    "ix_transactions_call": ["lane", "contract", "function", "state"],
}


def upgrade() -> None:
    for name, columns in INDEXES.items():
        op.create_index(name, TABLE, columns)
    op.drop_index("ix_transactions_lane_state", table_name=TABLE)


def downgrade() -> None:
    op.create_index("ix_transactions_lane_state", TABLE, ["lane", "state"])
    for name in INDEXES:
        op.drop_index(name, table_name=TABLE)
