"""one row for each demanded leaf, and transactions that carry value"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

DEMANDS, ANSWERS = "chain_demands", "chain_answers"
POSITION = (("block_number", sa.BigInteger()), ("log_index", sa.Integer()))


def upgrade() -> None:
    # Projections of events that no earlier contract emitted: nothing to keep.
    op.drop_table(ANSWERS)
    _drop_demands()
    _create_demands(
        ("leaf_id", sa.String(length=66)),
        ("operator", sa.String(length=42)),
        ("batch_hash", sa.String(length=66)),
        ("tree", sa.Integer()),
        ("key", sa.String(length=66)),
        ("challenger", sa.String(length=42)),
        ("bond", sa.String(length=39)),
        ("deadline", sa.BigInteger()),
        ("deadline_block", sa.BigInteger()),
        ("is_returned", sa.Boolean()),
        ("answer_block_hash", sa.String(length=66), True),
        ("answer_log_index", sa.Integer(), True),
    )
    op.add_column(
        "transactions", sa.Column("value", sa.String(length=78), nullable=False, server_default="0")
    )
    with op.batch_alter_table("transactions") as table:
        table.alter_column("value", server_default=None)


def downgrade() -> None:
    op.drop_column("transactions", "value")
    _drop_demands()
    _create_demands(
        ("id", sa.String(length=66)),
        ("operator", sa.String(length=42)),
        ("batch_hash", sa.String(length=66)),
        ("tree", sa.Integer()),
        ("keys", sa.JSON()),
        ("challenger", sa.String(length=42)),
        ("deadline", sa.BigInteger()),
        ("bond_units", sa.String(length=78)),
        ("returned_units", sa.String(length=78)),
    )
    op.create_table(
        ANSWERS,
        sa.Column("demand_id", sa.String(length=66), nullable=False),
        sa.Column("key_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("answerer", sa.String(length=42), nullable=False),
        sa.Column("block_hash", sa.String(length=66), nullable=False),
        *(sa.Column(name, kind, nullable=False) for name, kind in POSITION),
        sa.PrimaryKeyConstraint("demand_id", "key_index", name=op.f("pk_chain_answers")),
    )


def _drop_demands() -> None:
    op.drop_index(op.f("ix_chain_demands_batch_hash"), table_name=DEMANDS)
    op.drop_table(DEMANDS)


def _create_demands(
    *columns: tuple[str, sa.types.TypeEngine[Any]] | tuple[str, sa.types.TypeEngine[Any], bool],
) -> None:
    """Columns: name, type, whether it may be null. The first is the primary key."""
    op.create_table(
        DEMANDS,
        *(sa.Column(name, kind, nullable=bool(rest)) for name, kind, *rest in (*columns, *POSITION)),
        sa.PrimaryKeyConstraint(columns[0][0], name=op.f("pk_chain_demands")),
    )
    op.create_index(op.f("ix_chain_demands_batch_hash"), DEMANDS, ["batch_hash"], unique=False)
