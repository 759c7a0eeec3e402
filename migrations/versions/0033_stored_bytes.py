"""sizes of stored responses, of which an account has a limit"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

TABLE, INDEX = "idempotent_requests", "ix_idempotent_requests_account_num_bytes"


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("num_bytes", sa.Integer(), nullable=False, server_default="0"))
    requests = sa.table(TABLE, sa.column("num_bytes"), sa.column("body"))
    size = sa.func.coalesce(sa.func.length(requests.c.body), 0)
    op.execute(requests.update().values(num_bytes=size))
    op.create_index(INDEX, TABLE, ["account", "num_bytes"])


def downgrade() -> None:
    op.drop_index(INDEX, table_name=TABLE)
    op.drop_column(TABLE, "num_bytes")
