"""Creates the SQLAlchemy engine. SQLite is configured to be as strict as PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, literal_column, make_url
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import URL, CompoundSelect, Connection
    from sqlalchemy.orm import Session

    from backend.db.base import Base

CACHE_KIBIBYTES = 16 * 1024
"""Page cache of one connection. The default of 2 MiB is too small for the indexes of a datanet's rows, which
would be read from disk repeatedly.
"""
BUSY_MILLISECONDS = 30_000
SQLITE_BEGIN = "sqlite_begin"
"""Execution option: the statement that begins a transaction, BEGIN IMMEDIATE unless it is read-only."""


def open_engine(url: str | URL) -> Engine:
    """Create an engine for a SQLite or PostgreSQL URL; `postgresql://` selects psycopg 3."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed, pool_pre_ping=True, hide_parameters=True)  # see _open_sqlite


def insert_if_absent(session: Session, table: type[Base], **values: Any) -> bool:
    """Insert unless the unique key exists; waits for a concurrent transaction that inserts the same key.
    Whether it did.
    """
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    insert: Any = dialect.insert(table).values(**values).on_conflict_do_nothing()
    return session.execute(insert.returning(literal_column("1"))).first() is not None


def copy_if_absent(
    session: Session, table: type[Base], columns: Sequence[str], rows: CompoundSelect[Any]
) -> None:
    """Insert the rows of a query, except those whose key exists."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(dialect.insert(table).from_select(columns, rows).on_conflict_do_nothing())


def _open_sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # Logs and error messages must not contain row contents such as signatures and prompts.
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, _record: Any) -> None:
    # The driver's deferred BEGIN deadlocks two readers that upgrade to writers. `_begin` replaces it.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # NORMAL can lose the last commits on power failure; receipts must survive
        f"busy_timeout={BUSY_MILLISECONDS}",
        "foreign_keys=ON",
        f"cache_size=-{CACHE_KIBIBYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(SQLITE_BEGIN, "BEGIN IMMEDIATE"))
