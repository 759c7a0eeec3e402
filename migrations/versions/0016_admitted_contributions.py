"""identify recorded contributions by content hash; an index comes with the first acceptance"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TABLE = "chain_contributions"


def upgrade() -> None:
    # A projection of events that no earlier contract emitted: nothing to keep.
    _drop()
    _create(("datanet", "content_hash"), index_is_nullable=True)
    op.create_index("ix_chain_contributions_index", TABLE, ["datanet", "index"])


def downgrade() -> None:
    op.drop_index("ix_chain_contributions_index", table_name=TABLE)
    _drop()
    _create(("datanet", "index"), index_is_nullable=False)


def _drop() -> None:
    op.drop_index(op.f("ix_chain_contributions_contributor"), table_name=TABLE)
    op.drop_table(TABLE)


def _create(key: tuple[str, str], *, index_is_nullable: bool) -> None:
    op.create_table(
        TABLE,
        sa.Column("datanet", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=index_is_nullable),
        sa.Column("contributor", sa.String(length=42), nullable=False),
        sa.Column("content_hash", sa.String(length=66), nullable=False),
        sa.Column("cid_digest", sa.String(length=66), nullable=False),
        sa.Column("licence", sa.String(length=66), nullable=False),
        sa.Column("num_rows", sa.BigInteger(), nullable=False),
        sa.Column("is_accepted", sa.Boolean(), nullable=True),
        sa.Column("reason", sa.Integer(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(*key, name=op.f("pk_chain_contributions")),
    )
    op.create_index(op.f("ix_chain_contributions_contributor"), TABLE, ["contributor"], unique=False)
