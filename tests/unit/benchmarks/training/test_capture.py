from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.training.capture import Overhead, measure_capture
from tests.fixtures_engine import peft_warnings_ignored

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arithmetic", "repeats"), [pytest.param("bfloat16", 2, marks=pytest.mark.deep), ("float32", 1)]
)
def test_all_stages_are_measured_on_the_same_rows(
    tiny_model: Path, tmp_path: Path, arithmetic: Any, repeats: int
) -> None:
    with peft_warnings_ignored():
        overhead = measure_capture(16, 1, str(tiny_model), tmp_path, repeats=repeats, arithmetic=arithmetic)
    stages = (overhead.training, overhead.capture, overhead.distillation)
    assert [len(stage) for stage in stages] == [repeats] * 3
    assert min(seconds for stage in stages for seconds in stage) > 0
    assert not (tmp_path / "capture").exists()


def test_each_repeat_is_compared_with_itself() -> None:
    overhead = Overhead(1_000, training=(10, 20, 90), capture=(5, 4, 9), distillation=(1, 2, 90))
    assert (overhead.of_capture, overhead.of_distillation) == (0.2, 0.1)


def test_each_stage_is_related_to_the_unit_that_is_priced() -> None:
    overhead = Overhead(1_000_000, training=(7200,), capture=(3600,), distillation=(900,))
    assert overhead.hours_per_million_tokens() == {"training": 2, "capture": 1, "distillation": 0.25}
