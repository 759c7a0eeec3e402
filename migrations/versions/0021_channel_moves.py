"""add moves of balances to other collectors' channels"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The server default fills existing rows only; new rows always have a value.
    with op.batch_alter_table("chain_channels") as table:
        table.add_column(sa.Column("next_move_nonce", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("chain_channels") as table:
        table.alter_column("next_move_nonce", server_default=None)
    op.create_table(
        "channel_moves",
        sa.Column("transaction_id", sa.Integer(), nullable=False),
        sa.Column("channel_id", sa.String(66), nullable=False),
        sa.Column("nonce", sa.String(39), nullable=False),
        sa.Column("amount", sa.String(39), nullable=False),
        sa.Column("deadline", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["transactions.id"], name=op.f("fk_channel_moves_transaction_id")
        ),
        sa.PrimaryKeyConstraint("transaction_id", name=op.f("pk_channel_moves")),
    )
    op.create_index(op.f("ix_channel_moves_channel_id"), "channel_moves", ["channel_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_channel_moves_channel_id"), table_name="channel_moves")
    op.drop_table("channel_moves")
    with op.batch_alter_table("chain_channels") as table:
        table.drop_column("next_move_nonce")
