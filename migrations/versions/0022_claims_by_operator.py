"""an index of claims by operator, which every pass of the watcher reads"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

INDEX = "ix_chain_claims_operator"


def upgrade() -> None:
    op.create_index(INDEX, "chain_claims", ["operator"])


def downgrade() -> None:
    op.drop_index(INDEX, "chain_claims")
