"""rename tables and columns to standard terms"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLES = (("channel_lines", "channel_cumulatives"), ("keyed_requests", "idempotent_requests"))
COLUMNS = (
    ("training_jobs", "foreign_adapter", "imported_adapter"),
    ("chain_channels", "reached", "max_collected"),
    ("chain_batches", "verb", "proof"),
)
STARTED_AT = "ix_{}_started_at"


def upgrade() -> None:
    _drop_started_at("keyed_requests")
    for old, new in TABLES:
        _rename_table(old, new)
    for table, old, new in COLUMNS:
        _rename_column(table, old, new)
    _create_started_at("idempotent_requests")


def downgrade() -> None:
    _drop_started_at("idempotent_requests")
    for old, new in TABLES:
        _rename_table(new, old)
    for table, old, new in COLUMNS:
        _rename_column(table, new, old)
    _create_started_at("keyed_requests")


def _rename_table(old: str, new: str) -> None:
    op.rename_table(old, new)
    if op.get_bind().dialect.name == "postgresql":  # SQLite cannot rename constraints
        op.execute(f"ALTER TABLE {new} RENAME CONSTRAINT pk_{old} TO pk_{new}")


def _rename_column(table: str, old: str, new: str) -> None:
    # Plain SQL: Alembic would copy the whole table on SQLite, which has the statement since 3.25.
    op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")


def _drop_started_at(table: str) -> None:
    op.drop_index(STARTED_AT.format(table), table_name=table)


def _create_started_at(table: str) -> None:
    op.create_index(STARTED_AT.format(table), table, ["started_at"])
