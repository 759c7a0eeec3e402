"""What rounding changes in an index, on a tiny base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from backend.domain.attribution import DISTILLED_METHOD, GRADIENT_METHOD
from backend.domain.attribution_checks import AGREEMENT, DISTANCE, MEAN_MISS, MISS, MOVED_PPM
from benchmarks.attribution.command import STUDIES
from benchmarks.attribution.page import KEPT, page, read
from benchmarks.attribution.rounding import ROUNDING, main, measure_rounding
from tests.unit.benchmarks.attribution.support import NUM_ROWS, ignore

if TYPE_CHECKING:
    from benchmarks.attribution.study import Plan


def test_an_index_in_bf16_differs_from_one_in_fp32_by_what_the_page_says(
    plan: Plan, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.bfloat16)
    found = json.loads(
        json.dumps(measure_rounding(plan.name, tmp_path / "rounding" / "job", 1, ignore, str(tiny_model)))
    )
    methods = {each["method"]: each for each in found["methods"]}
    for method in (GRADIENT_METHOD, DISTILLED_METHOD):
        assert 0 < methods[method]["distance"] < 1
    assert not found["rows"]
    assert found["draws"]["num_answers"] <= 2 * sum(NUM_ROWS.values())
    text = page({"rounding": {"tiny": found}})
    distance = methods[GRADIENT_METHOD]["distance"]
    assert f"| `{GRADIENT_METHOD}`: of a vector's norm | {distance:.3f} | {DISTANCE:g} |" in text


def test_tolerances_are_at_least_twice_the_published_differences() -> None:
    report = read(Path("docs"))
    assert report is not None
    assert set(report[ROUNDING]) == set(STUDIES)
    for found in report[ROUNDING].values():
        for method in found["methods"]:
            assert 2 * method["distance"] <= DISTANCE
            assert 2 * method["moved_ppm"] <= MOVED_PPM
        for published, ours in found["agreements"].values():
            assert 2 * abs(published - ours) <= AGREEMENT
        assert 2 * found["draws"]["mean_miss"] <= MEAN_MISS
        assert 2 * found["draws"]["largest_miss"] <= MISS


def test_a_study_is_stored_before_the_next_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = read(Path("docs"))
    assert report is not None
    found = report.pop(ROUNDING)["docstrings"]
    (tmp_path / KEPT).write_text(json.dumps(report))

    def measure(name: str, *_: Any) -> Any:
        if name == "docstrings":
            return found
        raise ValueError(f"{name} fails")

    monkeypatch.setattr("benchmarks.attribution.rounding.measure_rounding", measure)
    assert main(["--docs", str(tmp_path), "--study", "docstrings", "fortunes"]) == 1
    assert "error: fortunes fails" in capsys.readouterr().err
    assert read(tmp_path) == {**report, ROUNDING: {"docstrings": found}}


def test_a_processor_that_trains_in_fp32_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.float32)
    with pytest.raises(ValueError, match="no index in bf16"):
        measure_rounding("docstrings", tmp_path, 1, ignore)
