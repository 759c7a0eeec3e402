"""the newest events of a name are found for one channel without reading all that happened to it"""

from __future__ import annotations

from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

TABLE = "chain_events"


def upgrade() -> None:
    op.create_index("ix_chain_events_name", TABLE, ["entity", "name", "block_number", "log_index"])
    op.drop_index("ix_chain_events_entity", table_name=TABLE)


def downgrade() -> None:
    op.create_index("ix_chain_events_entity", TABLE, ["entity"])
    op.drop_index("ix_chain_events_name", table_name=TABLE)
