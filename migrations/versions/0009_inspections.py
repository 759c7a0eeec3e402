"""create the table of adapter inspections"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inspections",
        sa.Column("adapter_digest", sa.String(length=66), nullable=False),
        sa.Column("base_model", sa.String(length=66), nullable=False),
        sa.Column("sketch", sa.LargeBinary(), nullable=False),
        sa.Column("statistics", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("adapter_digest", name=op.f("pk_inspections")),
    )
    op.create_index(op.f("ix_inspections_base_model"), "inspections", ["base_model"])


def downgrade() -> None:
    op.drop_table("inspections")
