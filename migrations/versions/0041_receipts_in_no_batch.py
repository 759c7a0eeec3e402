"""charged receipts in no batch are found without reading free ones, which are in none for ever"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

TABLE = "receipts"
INDEXES = {
    "ix_receipts_batch": (["operator", "batch"], "batch IS NOT NULL"),
    "ix_receipts_in_no_batch": (
        ["operator", "channel_id", "cumulative"],
        f"batch IS NULL AND charge > '{0:039d}'",
    ),
}


def upgrade() -> None:
    for name, (columns, condition) in INDEXES.items():
        where: Any = sa.text(condition)
        op.create_index(name, TABLE, columns, sqlite_where=where, postgresql_where=where)
    op.drop_index("ix_receipts_operator_batch", table_name=TABLE)


def downgrade() -> None:
    op.create_index("ix_receipts_operator_batch", TABLE, ["operator", "batch"])
    for name in INDEXES:
        op.drop_index(name, table_name=TABLE)
