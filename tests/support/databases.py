"""In-memory databases for property tests, databases with a scripted view, and full disks."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, event, text

from backend.db.base import Base
from backend.db.tables import load_all
from backend.db.tables.chain import EventRow, SnapshotRow, VersionRow
from backend.db.unit_of_work import Database
from tests.support.market import some_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import RegisteredVersion, Snapshot

FIRST_BLOCK_AT = 1_777_896_000
"""Unix seconds of block 0 of a copied view."""


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


class CopiedViewDatabase(ViewDatabase):
    """Copies the view's versions and snapshots into the tables, in which the catalogue finds them by SQL."""

    def __init__(self, database: Database, view: Any) -> None:
        super().__init__(database, view)
        self._copied: tuple[list[Any], list[Any]] = [], []
        self._lock = threading.Lock()

    @contextmanager
    def begin(self) -> Iterator[UnitOfWork]:
        self._copy()
        with super().begin() as tx:
            yield tx

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        self._copy()
        with super().read() as tx:
            yield tx

    def _copy(self) -> None:
        """Copy what was added, or everything if something was removed."""
        with self._lock:
            now = list(self._view.versions_list), list(self._view.snapshots.values())
            if now == self._copied:
                return
            copies = (_copy_version, _copy_snapshot), (VersionRow, SnapshotRow)
            with super().begin() as tx:
                for have, want, copy, table in zip(self._copied, now, *copies, strict=True):
                    if want[: len(have)] != have:
                        tx.session.execute(delete(table))
                        have.clear()
                    for one in want[len(have) :]:
                        copy(tx, one)
            self._copied = now


def version_row(version: str, record: VersionRecord, block: int) -> VersionRow:
    """The indexer's row of a version that was registered in this block."""
    raw = {
        "adapterDigest": record.adapter_digest,
        "cidDigest": record.cid_digest,
        "baseModel": record.base_model,
        "snapshots": list(record.snapshots),
        "promptPrice": record.prompt_price,
        "completionPrice": record.completion_price,
        "operatorPpm": record.operator_ppm,
        "creatorPpm": record.creator_ppm,
    }
    row = VersionRow(id=version, creator=record.creator, name=record.name, record=raw, is_deprecated=False)
    row.block_number, row.log_index = block, 0
    return row


def _copy_version(tx: UnitOfWork, version: RegisteredVersion) -> None:
    record, block = version.record, version.block_number
    row = version_row(version.id, record, block)
    row.is_deprecated = version.is_deprecated
    tx.session.merge(row)
    event = EventRow(block_hash=some_hash(f"block {block}"), log_index=0, block_number=block)
    event.tx_hash, event.timestamp = some_hash(f"tx {block}"), FIRST_BLOCK_AT + block
    event.contract, event.name, event.args = "AdapterRegistry", "VersionRegistered", {}
    tx.session.merge(event)


def _copy_snapshot(tx: UnitOfWork, snapshot: Snapshot) -> None:
    bits = sum(1 << index for index in snapshot.accepted)
    row = SnapshotRow(id=snapshot.id, datanet=snapshot.datanet, count=snapshot.count)
    row.accepted_hash, row.accepted = snapshot.accepted_hash, f"0x{bits:064x}"
    row.block_number, row.log_index = snapshot.block_number, 0
    tx.session.merge(row)


_emptied: list[Database] = []


@contextmanager
def chain_database() -> Iterator[Database]:
    """An empty in-memory database with the chain's tables only. Property tests use hundreds: to create tables
    and compile statements would be half of their time, so a database is emptied and used again.
    """
    load_all()
    tables = [table for table in Base.metadata.sorted_tables if table.name.startswith("chain_")]
    if _emptied:
        database = _emptied.pop()
    else:
        database = Database.open("sqlite://")
        Base.metadata.create_all(database.engine, tables=tables)
    yield database
    with database.engine.begin() as connection:
        for table in reversed(tables):
            connection.execute(delete(table))
    _emptied.append(database)


def impatient_database(database: Database) -> Database:
    """The same database, as of another process, which is `DatabaseUnavailable` where a statement would wait
    for a lock. So one thread can run one transaction inside of another.
    """
    opened = Database.open(database.engine.url)
    limit = "SET lock_timeout = 1" if database.is_shared else "PRAGMA busy_timeout=0"

    def give_up(connection: Any, _record: Any) -> None:
        connection.execute(limit).close()
        connection.commit()

    event.listen(opened.engine, "connect", give_up)
    return opened


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
