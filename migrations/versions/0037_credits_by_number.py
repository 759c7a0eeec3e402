"""the credits of an account are found by the numbers of their batches, without reading all of them"""

from __future__ import annotations

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

TABLE = "credits"


def upgrade() -> None:
    op.create_index(op.f("ix_credits_account_operator_number"), TABLE, ["account", "operator", "number"])
    op.drop_index(op.f("ix_credits_account_operator"), table_name=TABLE)


def downgrade() -> None:
    op.create_index(op.f("ix_credits_account_operator"), TABLE, ["account", "operator"])
    op.drop_index(op.f("ix_credits_account_operator_number"), table_name=TABLE)
