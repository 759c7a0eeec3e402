from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.settlement_harness import SettlementHarness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()


@pytest.fixture
def any_harness(tmp_path: Path, database: Database) -> SettlementHarness:
    """On SQLite and on PostgreSQL."""
    return SettlementHarness(tmp_path, database=database)
