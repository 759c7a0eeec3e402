"""What is said of parts that do not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.bootstrap import Installation
from backend.readiness import faults
from backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_every_part_that_does_not_answer_is_named_with_its_reason(tmp_path: Path) -> None:
    found = faults(Installation(Settings(home=tmp_path)))
    assert found.keys() == {"database", "chain", "indexer", "engine"}
    assert all(found.values())
