"""Alembic environment. `backend.db.migrate` passes the connection; the target is the declared tables."""

from __future__ import annotations

from alembic import context

from backend.db.base import Base
from backend.db.tables import load_all

load_all()
connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
