from __future__ import annotations

from typing import TYPE_CHECKING

from backend.installation.installation import Installation
from backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_attributors_prefer_distilled_maps_and_fall_back_to_uniform(tmp_path: Path) -> None:
    methods = [each.method for each in Installation(Settings(home=tmp_path)).attributors]
    assert methods == ["distilled-1", "distilled-error-1", "error-ridge-1", "hidden-cosine-1", "uniform-1"]
