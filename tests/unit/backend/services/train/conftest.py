from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.workers.support import JobHarness

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database


@pytest.fixture
def harness(database: Database) -> JobHarness:
    """Jobs on SQLite and on PostgreSQL, because leases depend on the database."""
    return JobHarness(database)
