"""The database engine. SQLite is set up so that it behaves as strictly as PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import URL, CompoundSelect, Connection
    from sqlalchemy.orm import Session

    from backend.db.base import Base

CACHE_KIBIBYTES = 16 * 1024
"""Of a connection's pages, kept as they are read. With the usual two MiB the trees of a datanet's rows are
read again and again.
"""
BUSY_MILLISECONDS = 30_000
SQLITE_BEGIN = "sqlite_begin"
"""Execution option: the statement that opens a transaction, BEGIN IMMEDIATE unless it only reads."""


def open_engine(url: str | URL) -> Engine:
    """Engine for a SQLAlchemy URL of SQLite or PostgreSQL; `postgresql://` means psycopg 3."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed, pool_pre_ping=True, hide_parameters=True)  # see _open_sqlite


def insert_if_absent(session: Session, table: type[Base], **values: Any) -> None:
    """Insert unless a unique key exists already; waits for a rival that is about to commit the same key."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(dialect.insert(table).values(**values).on_conflict_do_nothing())


def copy_if_absent(
    session: Session, table: type[Base], columns: Sequence[str], rows: CompoundSelect[Any]
) -> None:
    """Insert what a query finds, except rows whose key exists already."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(dialect.insert(table).from_select(columns, rows).on_conflict_do_nothing())


def _open_sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # Neither logs nor messages of errors show what rows hold: signatures, and what people asked.
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN is deferred: two readers that turn writers would deadlock. So BEGIN is ours.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # NORMAL may lose the last commits when power fails; receipts must not
        f"busy_timeout={BUSY_MILLISECONDS}",
        "foreign_keys=ON",
        f"cache_size=-{CACHE_KIBIBYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(SQLITE_BEGIN, "BEGIN IMMEDIATE"))
