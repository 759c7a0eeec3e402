from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.training.capture import Overhead, measure_capture
from tests.fixtures_engine import peft_warnings_ignored

if TYPE_CHECKING:
    from pathlib import Path


def test_training_and_capture_are_measured_on_the_same_rows(tiny_model: Path, tmp_path: Path) -> None:
    with peft_warnings_ignored():
        overhead = measure_capture(16, 1, str(tiny_model), tmp_path, repeats=2)
    assert len(overhead.training) == len(overhead.capture) == 2
    assert min(*overhead.training, *overhead.capture) > 0
    assert not (tmp_path / "capture").exists()


def test_each_repeat_is_compared_with_itself() -> None:
    assert Overhead(training=(10, 20, 90), capture=(5, 4, 9)).ratio == 0.2
