from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.training.trainer import Comparison, Plan, Run, compare
from tests.fixtures_engine import peft_warnings_ignored

if TYPE_CHECKING:
    from pathlib import Path


def runs(*paces: float) -> tuple[Run, ...]:
    return tuple(Run(pace, 2 * pace, 3.0) for pace in paces)


def test_each_repeat_is_compared_with_itself() -> None:
    comparison = Comparison(ours=runs(20, 30, 90), plain=runs(10, 10, 45))
    assert comparison.by_clock == comparison.by_processor == 2


@pytest.mark.deep
def test_the_speed_of_a_worse_adapter_does_not_count(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.fit.fit", lambda *_: None)
    plan = Plan(16, 1, 1, 2, tmp_path, str(tiny_model))
    with peft_warnings_ignored():
        assert not compare(plan, tmp_path / "work").is_no_worse
