"""columns by which the catalogue filters versions, and tables of their descriptions and usage"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

VERSIONS, DESCRIPTIONS, USAGE = "chain_versions", "version_descriptions", "version_usage"
FIELDS = {
    "adapter_digest": ("adapterDigest", 66),
    "base_model": ("baseModel", 66),
    "prompt_price": ("promptPrice", 39),
    "completion_price": ("completionPrice", 39),
}
"""Column -> field of the record, and width."""


def upgrade() -> None:
    with op.batch_alter_table(VERSIONS) as table:
        for column, (_, width) in FIELDS.items():
            table.add_column(sa.Column(column, sa.String(width), nullable=True))
    _fill()
    op.create_index(op.f("ix_chain_snapshots_datanet"), "chain_snapshots", ["datanet"])
    with op.batch_alter_table(VERSIONS) as table:
        for column, (_, width) in FIELDS.items():
            table.alter_column(column, existing_type=sa.String(width), nullable=False)
    _create_tables()


def downgrade() -> None:
    op.drop_table(USAGE)
    op.drop_table(DESCRIPTIONS)
    op.drop_index(op.f("ix_chain_snapshots_datanet"), "chain_snapshots")
    with op.batch_alter_table(VERSIONS) as table:
        for column in FIELDS:
            table.drop_column(column)


def _fill() -> None:
    columns = [sa.column("id"), sa.column("record", sa.JSON()), *map(sa.column, FIELDS)]
    table, connection = sa.table(VERSIONS, *columns), op.get_bind()
    for version, record in connection.execute(sa.select(table.c.id, table.c.record)).all():
        values = {column: _text(record[field]) for column, (field, _) in FIELDS.items()}
        connection.execute(sa.update(table).where(table.c.id == version).values(values))


def _text(value: str | int) -> str:
    """Prices have 39 digits, as in `backend.db.base.Amount`."""
    return value if isinstance(value, str) else f"{value:039d}"


def _create_tables() -> None:
    op.create_table(
        DESCRIPTIONS,
        sa.Column("version_id", sa.String(66), nullable=False),
        sa.Column("licence", sa.String(1024), nullable=True),
        sa.Column("parents", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("num_contributions", sa.BigInteger(), nullable=False),
        sa.Column("licences", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("quality", sa.Float(53), nullable=True),
        sa.Column("card", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("card_text", sa.Text(), nullable=True),
        sa.Column("card_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("search_text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_version_descriptions")),
    )
    op.create_index(op.f("ix_version_descriptions_card_due_at"), DESCRIPTIONS, ["card_due_at"])
    op.create_table(
        USAGE,
        sa.Column("version_id", sa.String(66), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("num_answers", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "day", name=op.f("pk_version_usage")),
    )
    op.create_index(op.f("ix_version_usage_last_sequence"), USAGE, ["last_sequence"])
