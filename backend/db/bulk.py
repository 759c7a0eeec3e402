"""Bulk statements on SQLAlchemy Core, which skip the ORM's per-object bookkeeping."""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Table, bindparam, delete, insert, update
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Delete, Executable, Insert, Update
    from sqlalchemy.orm import Session

    from backend.db.base import Base

KEYS = "keys"
MAX_KEYS = 500
"""Values named in one statement. SQLite limits the number of bound variables."""


def among(column: Any) -> ColumnElement[bool]:
    """`column IN (KEYS)` for prepared statements: building a statement costs more than executing it."""
    is_one: ColumnElement[bool] = column.in_(bindparam(KEYS, expanding=True))
    return is_one


def found_among(session: Session, statement: Executable, keys: Iterable[Any]) -> Iterator[Any]:
    """Execute a Core statement that uses `among` for the given keys, some at a time: its order holds among
    the rows of those.
    """
    for some in in_chunks(keys):
        yield from session.connection().execute(statement, {KEYS: some}).all()


def in_chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """The values, as many at a time as one statement names."""
    rest = iter(values)
    while some := list(islice(rest, MAX_KEYS)):
        yield some


def table_of(entity: type[Base]) -> Table:
    return cast("Table", entity.__table__)


def insert_all(session: Session, entity: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows given as column mappings. All mappings have the same columns."""
    if rows:
        session.connection().execute(_insert(entity), rows)


def insert_all_absent(session: Session, entity: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """As `insert_all`, except for rows whose key exists."""
    if rows:
        session.connection().execute(_insert_absent(entity, session.get_bind().dialect.name), rows)


def insert_tuples(session: Session, entity: type[Base], names: Sequence[str], rows: Sequence[Any]) -> None:
    """As `insert_all_absent`, for rows given as tuples of what the database stores in the columns `names`.

    For many small rows: the statement goes to the driver, without SQLAlchemy's work on each row.
    """
    if rows:
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        values = ", ".join(["?" if is_sqlite else "%s"] * len(names))
        columns = ", ".join(names)
        into = f"{entity.__tablename__} ({columns})"
        statement = f"INSERT INTO {into} VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608 - our own names
        session.connection().exec_driver_sql(statement, rows)


def update_all(session: Session, entity: type[Base], key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Update rows given as mappings of `key` and the changed columns. All mappings have the same columns."""
    if rows:
        statement = _update(entity, key, frozenset(rows[0]) - {key})
        values = [{**{k: v for k, v in row.items() if k != key}, "_key": row[key]} for row in rows]
        session.connection().execute(statement, values)


def delete_all(session: Session, entity: type[Base], key: str, values: Sequence[Any]) -> None:
    """Delete the rows whose `key` is in `values`. Unknown values are ignored."""
    if values:
        session.connection().execute(_delete(entity, key), [{"_key": value} for value in values])


@cache
def _insert(entity: type[Base]) -> Insert:
    return insert(table_of(entity))


@cache
def _insert_absent(entity: type[Base], dialect: str) -> Insert:
    insert_: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return cast("Insert", insert_(table_of(entity)).on_conflict_do_nothing())


@cache
def _update(entity: type[Base], key: str, names: frozenset[str]) -> Update:
    table = table_of(entity)
    where = table.c[key] == bindparam("_key")
    return update(table).where(where).values({name: bindparam(name) for name in names})


@cache
def _delete(entity: type[Base], key: str) -> Delete:
    table = table_of(entity)
    return delete(table).where(table.c[key] == bindparam("_key"))
