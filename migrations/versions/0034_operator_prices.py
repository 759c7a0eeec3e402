"""what an operator earns of each version's prices, by which the catalogue applies the floor price"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

TABLE, PPM = "chain_versions", 1_000_000
FIELDS = {
    "operator_prompt_price": ("promptPrice", ("operatorPpm",)),
    "operator_completion_price": ("completionPrice", ("operatorPpm",)),
    "own_prompt_price": ("promptPrice", ("operatorPpm", "creatorPpm")),
    "own_completion_price": ("completionPrice", ("operatorPpm", "creatorPpm")),
}
"""Column -> the record's price, and the shares of it that are earned."""


def upgrade() -> None:
    with op.batch_alter_table(TABLE) as table:
        for column in FIELDS:
            table.add_column(sa.Column(column, sa.String(39), nullable=True))
    _fill()
    with op.batch_alter_table(TABLE) as table:
        for column in FIELDS:
            table.alter_column(column, existing_type=sa.String(39), nullable=False)


def downgrade() -> None:
    with op.batch_alter_table(TABLE) as table:
        for column in FIELDS:
            table.drop_column(column)


def _fill() -> None:
    columns = [sa.column("id"), sa.column("record", sa.JSON()), *map(sa.column, FIELDS)]
    table, connection = sa.table(TABLE, *columns), op.get_bind()
    for version, record in connection.execute(sa.select(table.c.id, table.c.record)).all():
        # Amounts have 39 digits, as in `backend.db.base.Amount`.
        values = {
            column: f"{record[price] * sum(record[ppm] for ppm in shares) // PPM:039d}"
            for column, (price, shares) in FIELDS.items()
        }
        connection.execute(sa.update(table).where(table.c.id == version).values(values))
