"""Real faults of databases, and the errors that callers receive."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from backend.db import session as db_session
from backend.db.errors import to_domain_error
from backend.db.migrate import current_revision, upgrade
from backend.db.unit_of_work import Database
from backend.domain.errors import DatabaseUnavailable, DiskFull
from tests.support.databases import fill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class ServerError(Exception):
    """A server's error as psycopg raises it."""

    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate
        super().__init__(sqlstate)


def said(sqlstate: str) -> DBAPIError:
    return DBAPIError("SELECT secret", {}, ServerError(sqlstate))


def write_much(database: Database) -> None:
    with database.begin() as tx:
        tx.session.execute(text("INSERT INTO filler VALUES (zeroblob(1000000))"))


def test_a_full_disk_is_named_and_nothing_is_kept(sqlite_database: Database) -> None:
    with sqlite_database.begin() as tx:
        tx.session.execute(text("CREATE TABLE filler (bytes BLOB)"))
    fill(sqlite_database)
    with pytest.raises(DiskFull, match="no room left") as caught:
        write_much(sqlite_database)
    assert "INSERT" not in str(caught.value)
    with sqlite_database.read() as tx:
        assert tx.session.scalar(text("SELECT count(*) FROM filler")) == 0


@pytest.mark.parametrize("write", [write_much, lambda database: upgrade(database.engine)])
def test_a_writer_that_waits_too_long_gets_a_busy_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Database], None]
) -> None:
    monkeypatch.setattr(db_session, "BUSY_MILLISECONDS", 1)
    database = Database.open(f"sqlite:///{tmp_path}/a.db")
    with database.begin() as first:
        first.session.execute(text("CREATE TABLE filler (bytes BLOB)"))
        with pytest.raises(DatabaseUnavailable, match="busy"):
            write(database)
    database.close()


def test_a_lock_of_postgresql_that_is_held_too_long_gives_a_busy_error(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_session, "BUSY_MILLISECONDS", 1)
    database = Database.open(postgres_url)
    with database.begin() as tx:
        tx.session.execute(text("CREATE TABLE filler (number int)"))
    with database.begin() as first:
        first.session.execute(text("LOCK TABLE filler"))
        with pytest.raises(DatabaseUnavailable, match="busy"), database.begin() as second:
            second.session.execute(text("LOCK TABLE filler"))
    database.close()


def test_a_pool_without_a_free_connection_is_busy(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/a.db", pool_size=1, max_overflow=0, pool_timeout=0.01)
    database = Database(engine)
    with database.read() as first:
        first.session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="busy"), database.read() as second:
            second.session.execute(text("SELECT 1"))
    database.close()


def test_all_connections_to_a_server_that_stops_writing_are_replaced(postgres_database: Database) -> None:
    def execute(statement: str) -> None:
        with postgres_database.begin() as one, postgres_database.begin() as other:
            for tx in (one, other):
                tx.session.execute(text(statement))

    execute("SET default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable, match="accepts no writes"):
        execute("DELETE FROM outbox")
    execute("DELETE FROM outbox")


def test_a_server_that_only_reads_is_not_used(postgres_url: str) -> None:
    database = Database.open(f"{postgres_url}%20-cdefault_transaction_read_only%3Don")
    with pytest.raises(DatabaseUnavailable, match="not reachable"), database.read() as tx:
        tx.session.execute(text("SELECT 1"))
    database.close()


def test_a_write_by_a_reader_is_our_defect(postgres_database: Database) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"), postgres_database.read() as tx:
        tx.session.execute(text("DELETE FROM outbox"))


def test_a_file_that_cannot_be_opened_is_a_database_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    database = Database.open(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(DatabaseUnavailable, match="not reachable"), database.read() as tx:
        tx.chain.cursor()


def test_a_server_that_is_not_there_is_away() -> None:
    database = Database.open("postgresql://market:secret@127.0.0.1:1/market")
    with pytest.raises(DatabaseUnavailable, match="not reachable") as caught, database.begin() as tx:
        tx.chain.cursor()
    assert "secret" not in str(caught.value)


def test_a_missing_table_is_a_defect_and_stays_one(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(OperationalError, match="no such table"), database.read() as tx:
        tx.chain.cursor()
    database.close()


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("53100", DiskFull),
        ("53300", DatabaseUnavailable),
        ("57P03", DatabaseUnavailable),
        ("40P01", DatabaseUnavailable),
    ],
)
def test_a_servers_own_errors_are_classified_by_their_code(sqlstate: str, kind: type[Exception]) -> None:
    assert type(to_domain_error(said(sqlstate), is_committing=False)) is kind


def test_an_invalid_statement_is_our_defect() -> None:
    assert to_domain_error(said("42P01"), is_committing=False) is None


def test_a_commit_with_an_unknown_outcome_is_not_retryable() -> None:
    assert to_domain_error(said("08006"), is_committing=True) is None
    assert isinstance(to_domain_error(said("53100"), is_committing=True), DiskFull)


def test_an_unknown_code_of_sqlite_is_our_defect() -> None:
    assert (
        to_domain_error(OperationalError("x", {}, sqlite3.OperationalError("near x")), is_committing=False)
        is None
    )


def test_a_migration_meets_the_same_faults_as_a_unit_of_work(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    for url in (f"sqlite:///{tmp_path}/a.db", "postgresql://market:secret@127.0.0.1:1/market"):
        database = Database.open(url)
        for ask in (current_revision, upgrade):
            with pytest.raises(DatabaseUnavailable, match="not reachable") as caught:
                ask(database.engine)
            assert "secret" not in str(caught.value)
        database.close()
