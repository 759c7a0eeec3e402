"""add payments to training jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("payment", sa.JSON(none_as_null=True), nullable=True))
    with op.batch_alter_table("reservations") as table:
        table.alter_column("expires_at", existing_type=sa.DateTime(timezone=True), nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM reservations WHERE expires_at IS NULL")
    with op.batch_alter_table("reservations") as table:
        table.alter_column("expires_at", existing_type=sa.DateTime(timezone=True), nullable=False)
    op.drop_column("training_jobs", "payment")
