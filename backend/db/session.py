"""Creates the SQLAlchemy engine. SQLite is configured to be as strict as PostgreSQL, which waits for locks as
long as SQLite.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, literal_column, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError

from backend.db.errors import READ_ONLY
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import URL, CompoundSelect, Connection, ExceptionContext
    from sqlalchemy.orm import Session

    from backend.db.base import Base

CACHE_KIBIBYTES = 16 * 1024
"""Page cache of one connection. The default of 2 MiB is too small for the indexes of a datanet's rows, which
would be read from disk repeatedly.
"""
BUSY_MILLISECONDS = 30_000
"""For which a statement waits for a lock."""
SQLITE_BEGIN = "sqlite_begin"
"""Execution option: the statement that begins a transaction, BEGIN IMMEDIATE unless it is read-only."""
POOL = {"pool_size": 8, "max_overflow": 17}
"""Connections of a process to PostgreSQL. The threads of API requests share them: each holds one for a
transaction. Three API processes have 75 of the 97 that PostgreSQL's default allows roles that are no
superusers, which leaves 22 to the other processes, backups and checks.
"""
CONNECTION = {
    "connect_timeout": 10,  # seconds
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    "target_session_attrs": "read-write",
}
"""Parameters of a connection that the URL does not set. A server that vanished is noticed within a minute;
one that only reads is refused, such as a standby to which a name leads after a failover. Source:
https://www.postgresql.org/docs/current/libpq-connect.html
"""
_SESSION = """
SELECT set_config('lock_timeout', %s, false) WHERE current_setting('lock_timeout') = '0'
UNION ALL
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') <> 'remote_apply'
"""
"""Receipts must survive: a level below `on` can lose the last commits. `remote_apply` is above it."""


def open_engine(url: str | URL) -> Engine:
    """Create an engine for a SQLite or PostgreSQL URL; `postgresql://` selects psycopg 3. Errors:
    `InvalidInput`, without the URL, which may have a password.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return _open_postgresql(parsed)


def _parsed(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or "@" in (parsed.host or ""):
        raise InvalidInput(
            "LORALEDGER_DATABASE_URL is no URL such as postgresql://USER:PASSWORD@HOST/NAME; write @ and % "
            "in the password as %40 and %25",
            param="LORALEDGER_DATABASE_URL",
        )
    return parsed


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


def _open_postgresql(url: URL) -> Engine:
    unset = {name: value for name, value in CONNECTION.items() if name not in url.query}
    # See _open_sqlite for the parameters of statements.
    engine = create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=unset, **POOL)
    event.listen(engine, "connect", _begin_session)
    event.listen(engine, "handle_error", _leave_read_only_server)
    return engine


def _begin_session(connection: Any, _record: Any) -> None:
    connection.execute(_SESSION, [str(BUSY_MILLISECONDS)]).close()
    connection.commit()


def _leave_read_only_server(context: ExceptionContext) -> None:
    """Replace all pooled connections once one refuses to write outside of `Database.read`."""
    options = {} if context.connection is None else context.connection.get_execution_options()
    is_refused = getattr(context.original_exception, "sqlstate", None) == READ_ONLY
    if is_refused and not options.get("postgresql_readonly"):
        context.is_disconnect = True


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
