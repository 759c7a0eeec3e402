"""how far a channel's answers have to be waived before its payer gets further ones"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

TABLE, COLUMN = "channel_cumulatives", "waive_until"
INDEX = "ix_channel_cumulatives_waive_until"


def upgrade() -> None:
    op.add_column(TABLE, sa.Column(COLUMN, sa.String(39), nullable=False, server_default="0" * 39))
    op.create_index(INDEX, TABLE, [COLUMN])


def downgrade() -> None:
    op.drop_index(INDEX, table_name=TABLE)
    op.drop_column(TABLE, COLUMN)
