from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fixtures_engine import make_model
from tests.unit.workers.steps_harness import StepsHarness
from tests.unit.workers.support import JobHarness

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a byte-level tokenizer and a chat template."""
    return make_model(tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> StepsHarness:
    return StepsHarness(JobHarness(sqlite_database), tmp_path / "training")
