from __future__ import annotations

from typing import TYPE_CHECKING

from backend.installation.installation import Installation
from backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_answers_are_attributed_by_error_vectors_first_and_all_alike_last(tmp_path: Path) -> None:
    methods = [each.method for each in Installation(Settings(home=tmp_path)).attributors]
    assert methods == ["error-ridge-1", "hidden-cosine-1", "uniform-1"]
