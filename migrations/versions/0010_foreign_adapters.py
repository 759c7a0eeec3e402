"""add imported adapters to training jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("foreign_adapter", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM training_events WHERE job_id LIKE 'adapter-%'")
    op.execute("DELETE FROM training_jobs WHERE foreign_adapter IS NOT NULL")
    op.drop_column("training_jobs", "foreign_adapter")
