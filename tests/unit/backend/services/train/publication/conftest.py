from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.backend.services.train.publication.support import PublicationHarness

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> PublicationHarness:
    return PublicationHarness(sqlite_database, tmp_path)
