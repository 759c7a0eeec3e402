from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.training.capture import measure_capture
from tests.fixtures_engine import peft_warnings_ignored

if TYPE_CHECKING:
    from pathlib import Path


def test_training_and_capture_are_measured_on_the_same_rows(tiny_model: Path, tmp_path: Path) -> None:
    with peft_warnings_ignored():
        overhead = measure_capture(16, 1, str(tiny_model), tmp_path)
    assert overhead.capture_seconds > 0
    assert overhead.training_seconds > 0
    assert overhead.ratio == overhead.capture_seconds / overhead.training_seconds
    assert not (tmp_path / "capture").exists()
