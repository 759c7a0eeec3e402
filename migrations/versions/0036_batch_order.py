"""an operator's batches are found by their numbers and by their order, without reading all of them"""

from __future__ import annotations

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

TABLE = "chain_batches"
INDEXES = {
    "ix_chain_batches_number": ["operator", "number", "block_number", "log_index"],
    "ix_chain_batches_order": ["operator", "block_number", "log_index"],
}


def upgrade() -> None:
    for name, columns in INDEXES.items():
        op.create_index(name, TABLE, columns)
    op.drop_index("ix_chain_batches_operator", table_name=TABLE)


def downgrade() -> None:
    op.create_index("ix_chain_batches_operator", TABLE, ["operator"])
    for name in INDEXES:
        op.drop_index(name, table_name=TABLE)
