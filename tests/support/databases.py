"""In-memory databases for property tests, databases with a scripted view, and full disks."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text

from backend.db.base import Base
from backend.db.tables import load_all
from backend.db.unit_of_work import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.db.unit_of_work import UnitOfWork


class ViewDatabase(Database):
    """A database whose units of work read `view` in place of the chain's projections."""

    def __init__(self, database: Database, view: Any) -> None:
        super().__init__(database.engine)
        self._view = view

    @contextmanager
    def begin(self) -> Iterator[UnitOfWork]:
        with super().begin() as tx:
            tx.chain = self._view
            yield tx

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        with super().read() as tx:
            tx.chain = self._view
            yield tx


@contextmanager
def chain_database() -> Iterator[Database]:
    """An empty in-memory database with the chain's tables only."""
    load_all()
    database = Database.open("sqlite://")
    tables = [table for name, table in Base.metadata.tables.items() if name.startswith("chain_")]
    Base.metadata.create_all(database.engine, tables=tables)
    yield database
    database.close()


def fill(database: Database) -> Callable[[], None]:
    """Simulate a full disk: SQLite returns SQLITE_FULL once the existing pages are used up. Returns a
    function that removes the limit.
    """
    with database.read() as tx:
        pages = tx.session.scalar(text("PRAGMA page_count"))

    def bound(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}").close()

    def unbound() -> None:
        event.remove(database.engine, "connect", bound)
        database.engine.dispose()

    event.listen(database.engine, "connect", bound)
    database.engine.dispose()
    return unbound
