"""create the table of idempotent requests"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keyed_requests",
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=66), nullable=False),
        sa.Column("claim", sa.String(length=32), nullable=False),
        sa.Column("started_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("media_type", sa.String(length=100), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("account", "key", name=op.f("pk_keyed_requests")),
    )
    with op.batch_alter_table("keyed_requests", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_keyed_requests_started_at"), ["started_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("keyed_requests", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_keyed_requests_started_at"))

    op.drop_table("keyed_requests")
