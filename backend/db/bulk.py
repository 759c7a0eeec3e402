"""Bulk statements on SQLAlchemy Core, which skip the ORM's per-object bookkeeping."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ARRAY, Integer, String, Table, Text, TypeDecorator, bindparam, insert, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Executable, Insert, Update
    from sqlalchemy.engine import Dialect
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.types import TypeEngine

    from backend.db.base import Base

KEYS = "keys"
MAX_KEYS = 500
"""Values named in one statement. SQLite limits the number of bound variables."""


class _Keys(TypeDecorator[Any]):
    """Values of a column in one parameter: JSON on SQLite, an array on PostgreSQL."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else ARRAY(self.item))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return json.dumps(value) if dialect.name == "sqlite" else value


class _IsAmong(FunctionElement[bool]):
    """Of a column and `_Keys`. Not of type Boolean: SQLAlchemy would compare it with 1 on SQLite, which then
    uses no index.
    """

    inherit_cache = True


@compiles(_IsAmong, "sqlite")
def _in_json(element: _IsAmong, compiler: SQLCompiler, **options: Any) -> str:
    column, keys = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({keys}))"  # noqa: S608 - a compiled column


@compiles(_IsAmong, "postgresql")
def _in_array(element: _IsAmong, compiler: SQLCompiler, **options: Any) -> str:
    column, keys = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} = ANY ({keys})"


def among(column: Any) -> _IsAmong:
    """`column IN (KEYS)` for prepared statements: to build a statement, or to name each key in a parameter of
    its own, costs more than to execute it. Raises `TypeError` unless the column has texts or integers: other
    values are not in JSON as the database stores them.
    """
    if not isinstance(column.type, String | Integer):
        raise TypeError(f"{column} has the type {column.type!r}; only texts and integers can be keys")
    # Texts of any length: PostgreSQL cuts off what exceeds the length of the type to which it casts.
    item = Text() if isinstance(column.type, String) else column.type
    return _IsAmong(column, bindparam(KEYS, type_=_Keys(item)))


def found_among(session: Session, query: Executable, keys: Collection[Any]) -> Sequence[Any]:
    """Rows of a query that uses `among`, for the given keys."""
    return session.connection().execute(query, {KEYS: list(keys)}).all() if keys else ()


def execute_among(session: Session, statement: Executable, keys: Collection[Any]) -> None:
    """Execute a statement that uses `among`, for the given keys."""
    if keys:
        session.connection().execute(statement, {KEYS: list(keys)})


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
