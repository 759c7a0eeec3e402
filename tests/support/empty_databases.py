"""Databases with all tables and no rows. Creating the tables takes longer than most tests, so files are
copied, and a schema of PostgreSQL is emptied.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from sqlalchemy import event

from backend.db.base import Base
from backend.db.tables import load_all
from backend.db.unit_of_work import Database
from tests.support.servers import new_schema_name, schema_url

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_empty(path: Path) -> Database:
    """A database in a new file of SQLite. Its commits do not wait for the disk: no test cuts the power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty_file())
    database = Database.open(f"sqlite:///{path}")
    event.listen(database.engine, "connect", _wait_for_no_disk)
    return database


def _wait_for_no_disk(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF").close()


@cache
def _empty_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        _create_tables(f"sqlite:///{path}")
        return path.read_bytes()


def _create_tables(url: str) -> None:
    load_all()
    database = Database.open(url)
    Base.metadata.create_all(database.engine)
    database.close()


class PostgresTables:
    """All tables, in a schema of this server that tests use one after the other."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._schema = new_schema_name()
        with psycopg.connect(uri) as admin:
            admin.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
        _create_tables(schema_url(uri, self._schema))

    @contextmanager
    def empty(self) -> Iterator[str]:
        """SQLAlchemy URL of the schema. It has a new name, so that nothing that an earlier test left running
        finds it.
        """
        with psycopg.connect(self._uri, autocommit=True) as admin:
            renamed = sql.SQL("ALTER SCHEMA {} RENAME TO {}")
            before, self._schema = self._schema, new_schema_name()
            admin.execute(renamed.format(sql.Identifier(before), sql.Identifier(self._schema)))
            yield schema_url(self._uri, self._schema)
            self._delete_rows(admin)

    def _delete_rows(self, admin: psycopg.Connection[Any]) -> None:
        tables = [sql.Identifier(self._schema, name) for name in Base.metadata.tables]
        has_rows = sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})")
        found = admin.execute(sql.SQL(" UNION ALL ").join(map(has_rows.format, range(len(tables)), tables)))
        if filled := [tables[index] for (index,) in found]:
            admin.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(filled)))
        restart = "SELECT setval(format('%%I.%%I', schemaname, sequencename), 1, false) FROM pg_sequences"
        admin.execute(f"{restart} WHERE schemaname = %s", [self._schema])
