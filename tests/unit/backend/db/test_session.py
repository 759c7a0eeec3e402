from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import IntegrityError

from backend.db import session as db_session
from backend.db.session import open_engine
from backend.db.tables.transactions import AttemptRow
from backend.db.unit_of_work import Database
from backend.domain.errors import InvalidInput
from backend.domain.ids import Account, Hash32
from backend.domain.transactions import TransactionAttempt

if TYPE_CHECKING:
    from pathlib import Path


def test_plain_postgresql_urls_mean_the_driver_we_ship() -> None:
    engine = open_engine("postgresql://localhost/x")
    assert engine.dialect.driver == "psycopg"
    engine.dispose()


def test_three_api_processes_leave_connections_of_postgresqls_default_to_the_others() -> None:
    """It has 100, of which it keeps 3 for superusers; docs/services.md has the sum."""
    assert 100 - 3 - 3 * sum(db_session.POOL.values()) == 7 + 15


@pytest.mark.parametrize(
    "url", ["nonsense", "postgresql://market:se@cret@h/x", "postgresql://market:secret@h:secret/x"]
)
def test_a_malformed_url_is_named_by_its_setting_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidInput, match="LORALEDGER_DATABASE_URL is no URL") as caught:
        open_engine(url)
    assert "cret" not in "".join(traceback.format_exception(caught.value, limit=0))


def test_a_password_may_have_all_but_two_characters() -> None:
    engine = open_engine("postgresql://market:a/b?c#d%40e%25@h/x")
    assert (engine.url.password, engine.url.host) == ("a/b?c#d@e%", "h")


def test_sqlite_is_strict_and_survives_readers(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'new' / 'folder' / 'a.db'}")
    with database.begin() as tx:
        pragmas = {
            name: tx.session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        }
    database.close()
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000, "synchronous": 2}


SETTINGS = ("lock_timeout", "synchronous_commit")


def settings_of(url: str) -> list[str]:
    """Of a session."""
    database = Database.open(url)
    with database.read() as tx:
        found = [str(tx.session.scalar(text(f"SHOW {name}"))) for name in SETTINGS]
    database.close()
    return found


def test_sessions_of_postgresql_wait_as_long_as_sqlite_and_keep_what_they_commit(postgres_url: str) -> None:
    assert settings_of(postgres_url) == ["30s", "on"]


@pytest.mark.parametrize(
    ("level", "expected"), [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply",) * 2]
)
def test_only_a_stronger_level_of_commits_and_a_lock_timeout_are_kept(
    postgres_url: str, level: str, expected: str
) -> None:
    url = f"{postgres_url}%20-clock_timeout%3D7s%20-csynchronous_commit%3D{level}"
    assert settings_of(url) == ["7s", expected]


def test_connections_end_when_their_server_vanishes_unless_the_url_says_otherwise(postgres_url: str) -> None:
    database = Database.open(f"{postgres_url}&connect_timeout=3")
    with database.read() as tx:
        driver: Any = tx.session.connection().connection.driver_connection
        used = driver.info.get_parameters()
    database.close()
    expected = {name: str(value) for name, value in db_session.CONNECTION.items()} | {"connect_timeout": "3"}
    assert used | expected == used


def test_foreign_keys_hold_on_every_engine(database: Database) -> None:
    orphan = TransactionAttempt(Hash32("0x" + "11" * 32), "0x", max_fee=1, priority_fee=1, sent_at_block=1)
    with database.begin() as tx:
        lane = Account("0x" + "22" * 20)
        known = tx.transactions.enqueue(lane, "TestUSD", "mint", (), "a")
        tx.transactions.add_attempt(known, orphan)
    with pytest.raises(IntegrityError), database.begin() as tx:
        tx.session.execute(update(AttemptRow).values(transaction_id=known + 1))


def test_writers_wait_for_each_other_and_lose_nothing(database: Database) -> None:
    def add(worker: int) -> None:
        for n in range(10):
            with database.begin() as tx:
                tx.outbox.add("topic", {}, key=f"{worker} {n}")

    threads = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.begin() as tx:
        assert len(tx.outbox.due(100)) == 40


def test_a_reader_keeps_its_view_while_others_write(database: Database) -> None:
    with database.read() as reader:
        assert reader.chain.cursor() is None
        assert reader.transactions.by_key("a") is None
        with database.begin() as tx:
            tx.outbox.add("topic", {}, key="a")
        assert reader.session.scalar(text("SELECT count(*) FROM outbox")) == 0
    with database.read() as reader:
        assert reader.session.scalar(text("SELECT count(*) FROM outbox")) == 1


def test_changes_by_a_reader_are_discarded(sqlite_database: Database) -> None:
    with sqlite_database.read() as tx:
        tx.outbox.add("topic", {}, key="a")
    with sqlite_database.begin() as tx:
        assert tx.outbox.due(1) == []
