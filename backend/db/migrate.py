"""Runs the Alembic migrations, which are part of the package and need no ini file."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import migrations
from backend.db.errors import database_errors
from backend.db.session import open_engine
from backend.domain.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine


LOCK = 0x6C6F7261
"""PostgreSQL advisory lock of an upgrade: the processes of a new installation start at the same time. SQLite
has a single writer and needs none.
"""


def upgrade(engine: Engine) -> None:
    """Upgrade the database to the newest revision. Safe to call from several processes at once.

    Errors: `Conflict` if a later version of this program upgraded it; as of `Database.begin`.
    """
    migrate(engine, newest_revision())


def migrate(engine: Engine, target: str) -> None:
    """Upgrade or downgrade the database to a revision, in one transaction.

    Errors: `InvalidInput` for an unknown revision, `Conflict` as for `upgrade`.
    """
    known = _revisions()
    if target not in known:
        raise InvalidInput(f"{target!r} is no revision; the newest is {known[-1]}", param="revision")
    if current_revision(engine) == target:
        return  # the check of foreign keys reads all rows, and holds SQLite's write lock
    with _transaction(engine) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        _check_known(current, known)
        is_later = current is None or known.index(current) <= known.index(target)
        (command.upgrade if is_later else command.downgrade)(_config(connection), target)


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction for one migration at a time.

    SQLite copies and drops a table to change it, which rows that refer to it would refuse, or be deleted by.
    So references are checked before the commit instead. Source: https://sqlite.org/lang_altertable.html
    """
    is_sqlite = engine.dialect.name == "sqlite"
    with database_errors() as commits, engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if is_sqlite:
            driver.execute("PRAGMA foreign_keys=OFF").close()  # has no effect within a transaction
        try:
            with connection.begin():
                if not is_sqlite:
                    usual = connection.scalar(text("SHOW lock_timeout"))
                    connection.execute(text("SET LOCAL lock_timeout = 0"))  # others may migrate for long
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                    connection.execute(
                        text("SELECT set_config('lock_timeout', :usual, true)"), {"usual": usual}
                    )
                yield connection
                if is_sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).first()):
                    raise Conflict(
                        f"after the migration a row of {broken[0]} would refer to none of {broken[2]}"
                    )
                commits()
        finally:
            if is_sqlite:
                driver.execute("PRAGMA foreign_keys=ON").close()


def check_revision(connection: Connection) -> None:
    """Errors: `Conflict` unless the tables have the newest revision of this version."""
    known, current = _revisions(), MigrationContext.configure(connection).get_current_revision()
    _check_known(current, known)
    if current != known[-1]:
        state = "no tables" if current is None else f"revision {current}"
        raise Conflict(
            f"the database has {state}, and this version needs revision {known[-1]}: run `loraledger "
            "database migrate`, or start `loraledger index`, which migrates it too"
        )


def _check_known(current: str | None, known: list[str]) -> None:
    if current is not None and current not in known:
        raise Conflict(
            f"the database has revision {current}, later than {known[-1]} of this version: install the "
            f"version that wrote it, or run its `loraledger database migrate --to {known[-1]}`"
        )


def current_revision(engine: Engine) -> str | None:
    """The database's revision; None if it is empty. Errors: as of `Database.begin`."""
    with database_errors(), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    return _revisions()[-1]


def _revisions() -> list[str]:
    """All revisions that this version knows, in order."""
    script = ScriptDirectory(Path(migrations.__file__).parent)
    return [each.revision for each in script.walk_revisions()][::-1]


def check(engine: Engine) -> None:
    """Raise `alembic.util.AutogenerateDiffsDetected` if the tables differ from the migrations."""
    with engine.begin() as connection:
        command.check(_config(connection))


def revision(engine: Engine, message: str) -> None:
    """Generate a revision file from the difference between `engine`'s schema and the declared tables."""
    with engine.begin() as connection:
        command.revision(_config(connection), message=message, autogenerate=True)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


def main() -> None:
    """`python -m backend.db.migrate MESSAGE` generates a revision for the declared tables; with `--check` it
    fails if a revision is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{folder}/empty.db")
        upgrade(engine)
        if sys.argv[1:] == ["--check"]:
            check(engine)
        else:
            revision(engine, " ".join(sys.argv[1:]) or "change")
        engine.dispose()


if __name__ == "__main__":
    main()
