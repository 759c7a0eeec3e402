"""add retired receipt keys and the signer of each receipt"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_UNKNOWN = "0x" + 40 * "0"


def upgrade() -> None:
    # Server defaults fill existing rows only; new rows always have a value.
    with op.batch_alter_table("chain_operators") as table:
        table.add_column(sa.Column("retired_keys", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("receipts") as table:
        table.add_column(sa.Column("signer", sa.String(42), nullable=False, server_default=_UNKNOWN))
    with op.batch_alter_table("chain_operators") as table:
        table.alter_column("retired_keys", server_default=None)
    with op.batch_alter_table("receipts") as table:
        table.alter_column("signer", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("receipts") as table:
        table.drop_column("signer")
    with op.batch_alter_table("chain_operators") as table:
        table.drop_column("retired_keys")
