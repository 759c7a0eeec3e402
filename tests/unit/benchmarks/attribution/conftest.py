"""A study of four contributors on a tiny base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.attribution.study import Plan
from tests.fixtures_engine import peft_warnings_ignored
from tests.unit.benchmarks.attribution.support import sources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def plan(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    monkeypatch.setattr("benchmarks.attribution.data.SOURCES", {"tiny": sources})
    monkeypatch.setattr("benchmarks.attribution.answers.ANSWER_TOKENS", 3)
    monkeypatch.setattr("workers.training.answers.MAX_ANSWER_TOKENS", 3)
    monkeypatch.setattr("benchmarks.attribution.measure.NUM_DRAWS", 50)
    with peft_warnings_ignored():
        yield Plan("tiny", tmp_path / "work", tmp_path / "truth", 3, 3, 1, str(tiny_model))
