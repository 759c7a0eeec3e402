from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.services.channels.admission import Payer
from tests.support.fakes import some_key
from tests.support.move_harness import MoveHarness
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    return ScriptedInstallation(tmp_path, sqlite_database)


@pytest.fixture
def any_installation(tmp_path: Path, database: Database) -> ScriptedInstallation:
    """On SQLite and on PostgreSQL."""
    return ScriptedInstallation(tmp_path, database)


@pytest.fixture
def payer() -> Payer:
    return Payer(some_key("payer").account)


@pytest.fixture
def harness(tmp_path: Path, sqlite_database: Database) -> MoveHarness:
    return MoveHarness(tmp_path, sqlite_database)


@pytest.fixture
def any_harness(tmp_path: Path, database: Database) -> MoveHarness:
    """On SQLite and on PostgreSQL."""
    return MoveHarness(tmp_path, database)
