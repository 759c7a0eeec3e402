"""where the answers that a channel has to waive begin, and more than 2,147,483,647 receipts"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

TABLE, COLUMN = "channel_cumulatives", "waive_from"
SEQUENCES = {"receipts": "sequence", "receipt_slices": "receipt_sequence", "charges": "receipt_sequence"}
"""Columns with the number of a receipt."""


def upgrade() -> None:
    op.add_column(TABLE, sa.Column(COLUMN, sa.String(39), nullable=False, server_default="0" * 39))
    # Until the settler computes both again, no charge counts as convicted.
    op.execute("UPDATE channel_cumulatives SET waive_from = waive_until")
    _alter_sequences(sa.Integer(), sa.BigInteger())


def downgrade() -> None:
    _alter_sequences(sa.BigInteger(), sa.Integer())
    op.drop_column(TABLE, COLUMN)


def _alter_sequences(old: sa.Integer, new: sa.Integer) -> None:
    """SQLite's integers have eight bytes anyway."""
    bind = op.get_bind()
    if bind.dialect.name != "postgresql":
        return
    for table, column in SEQUENCES.items():
        op.alter_column(table, column, existing_type=old, type_=new)
    name = bind.scalar(sa.text("SELECT pg_get_serial_sequence('receipts', 'sequence')"))
    op.execute(f"ALTER SEQUENCE {name} AS {new.compile(bind.dialect)}")
