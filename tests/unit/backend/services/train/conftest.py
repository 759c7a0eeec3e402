from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.paid_training_harness import PaidTrainingHarness
from tests.support.scripted_installation import ScriptedInstallation
from tests.unit.workers.support import JobHarness

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def harness(database: Database) -> JobHarness:
    """Jobs on SQLite and on PostgreSQL, because leases depend on the database."""
    return JobHarness(database)


@pytest.fixture
def paid_harness(tmp_path: Path, sqlite_database: Database) -> PaidTrainingHarness:
    return PaidTrainingHarness(ScriptedInstallation(tmp_path, sqlite_database))


@pytest.fixture
def any_paid_harness(tmp_path: Path, database: Database) -> PaidTrainingHarness:
    """On SQLite and on PostgreSQL."""
    return PaidTrainingHarness(ScriptedInstallation(tmp_path, database))
