"""add scopes and models to API keys"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("scopes", "models"):
        op.add_column("api_keys", sa.Column(name, sa.JSON(), nullable=True))


def downgrade() -> None:
    """A key that may do less than others would then do all: it ends."""
    op.execute("DELETE FROM api_keys WHERE models IS NOT NULL")
    op.execute("DELETE FROM api_keys WHERE scopes IS NOT NULL AND CAST(scopes AS TEXT) NOT LIKE '%,%'")
    for name in ("scopes", "models"):
        op.drop_column("api_keys", name)
