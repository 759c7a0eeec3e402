from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.training.trainer import Outcome, Race, Run, race
from tests.fixtures_engine import peft_warnings_ignored

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def runs(*paces: float) -> tuple[Run, ...]:
    return tuple(Run(pace, 2 * pace, 3.0) for pace in paces)


def test_each_repeat_is_compared_with_itself() -> None:
    outcome = Outcome(ours=runs(20, 30, 90), plain=runs(10, 10, 45))
    assert outcome.by_clock == outcome.by_processor == 2


def test_an_adapter_that_is_worse_wins_no_race(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.fit.fit", lambda *_: None)
    laps = Race(16, 1, 1, 2, tmp_path, str(tiny_model))
    with peft_warnings_ignored():
        assert not race(laps, tmp_path / "work").is_no_worse
