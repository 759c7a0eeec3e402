"""create the tables of row sketches"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "datanet_bands",
        sa.Column("datanet", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("band", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("datanet", "band", "upload_id", "line", name=op.f("pk_datanet_bands")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "upload_row_sketches",
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("band_0", sa.BigInteger(), nullable=False),
        sa.Column("band_1", sa.BigInteger(), nullable=False),
        sa.Column("band_2", sa.BigInteger(), nullable=False),
        sa.Column("band_3", sa.BigInteger(), nullable=False),
        sa.Column("band_4", sa.BigInteger(), nullable=False),
        sa.Column("band_5", sa.BigInteger(), nullable=False),
        sa.Column("band_6", sa.BigInteger(), nullable=False),
        sa.Column("band_7", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_row_sketches_upload_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("upload_id", "line", name=op.f("pk_upload_row_sketches")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("upload_row_sketches")
    op.drop_table("datanet_bands")
