from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.fund(10_000)
    return built
