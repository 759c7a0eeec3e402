"""agreement of served answers with the gradient, and the answers that blocks sample"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

HASH = sa.String(66)
COUNTS = ("num_sampled", "num_measured", "num_unranked", "sum_ppm")


def upgrade() -> None:
    op.create_table(
        "live_agreements",
        sa.Column("version_id", HASH, nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_live_agreements")),
    )
    op.create_table(
        "live_samples",
        sa.Column("response_hash", HASH, nullable=False),
        sa.Column("version_id", HASH, nullable=False),
        sa.Column("served_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("response_hash", "version_id", name=op.f("pk_live_samples")),
    )
    op.create_index("ix_live_samples_served_at", "live_samples", ["served_at"])
    op.create_table(
        "live_sampling",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("served_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_live_sampling")),
    )
    op.create_index("ix_receipts_served_at", "receipts", ["served_at"])


def downgrade() -> None:
    op.drop_index("ix_receipts_served_at", table_name="receipts")
    for table in ("live_sampling", "live_samples", "live_agreements"):
        op.drop_table(table)
