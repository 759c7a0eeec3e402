"""What rounding changes in an index, on a tiny base model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from backend.domain.attribution import DISTILLED_METHOD, ERROR_METHOD, GRADIENT_METHOD
from backend.domain.attribution_checks import (
    AGREEMENT,
    DISTANCE,
    ERROR_DISTANCE,
    MEAN_MISS,
    MISS,
    MOVED_PPM,
)
from benchmarks.attribution.command import STUDIES
from benchmarks.attribution.forgery import moved_by_forger
from benchmarks.attribution.page import KEPT, page, read
from benchmarks.attribution.rounding import ROUNDING, main, measure_rounding
from tests.unit.benchmarks.attribution.support import NUM_ROWS, ignore
from workers.training.spec import ADAPTER, RESULT_FILE, ROWS_FILE

if TYPE_CHECKING:
    from benchmarks.attribution.study import Plan


@pytest.mark.deep
def test_an_index_of_another_processor_differs_by_what_the_page_says(
    plan: Plan, tiny_model: Path, tmp_path: Path
) -> None:
    job = tmp_path / "rounding" / "job"
    found = measure_rounding(plan.name, plan.name, job, 1, ignore, str(tiny_model))
    methods = {each["method"]: each for each in found["methods"]}
    for method in (GRADIENT_METHOD, DISTILLED_METHOD):
        assert 0 < methods[method]["distance"] < DISTANCE
    assert not found["rows"]
    assert found["draws"]["num_answers"] <= 2 * sum(NUM_ROWS.values())
    text = page({"rounding": {"tiny": found}})
    distance = methods[GRADIENT_METHOD]["distance"]
    assert f"| `{GRADIENT_METHOD}`: of a vector's norm | {distance:.2g} | {DISTANCE:g} |" in text


def test_the_page_states_the_tolerances_that_are_checked() -> None:
    text = page(read(Path("docs")))
    assert re.search(rf"`{ERROR_METHOD}`: of a vector's norm \|.*\| {ERROR_DISTANCE:g} \|\n", text)
    assert re.search(rf"`{DISTILLED_METHOD}`: of a vector's norm \|.*\| {DISTANCE:g} \|\n", text)
    assert f"{DISTANCE:g} of the norm of any contribution's vector" in text
    assert f"for `{ERROR_METHOD}` {ERROR_DISTANCE:g}" in text


def test_tolerances_are_at_least_ten_times_the_published_differences() -> None:
    report = read(Path("docs"))
    assert report is not None
    assert set(report[ROUNDING]) == set(STUDIES)
    for found in report[ROUNDING].values():
        for method in found["methods"]:
            assert 10 * method["distance"] <= DISTANCE
            assert 10 * method["moved_ppm"] <= MOVED_PPM
        for published, ours in found["agreements"].values():
            assert 10 * abs(published - ours) <= AGREEMENT
        assert 10 * found["draws"]["mean_miss"] <= MEAN_MISS
        assert 10 * found["draws"]["largest_miss"] <= MISS


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


def test_a_forger_moves_what_verification_does_not_measure_in_proportion_to_the_tolerance() -> None:
    vectors = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    known, targets = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([[0.1, 0.1, 1.0]])
    exact = 0.12**2 / (0.12**2 + 0.08**2) - 0.5  # scores of 0.1 each become 0.1 + 0.02 and 0.1 - 0.02
    assert moved_by_forger(vectors, known, targets, 0.02) == pytest.approx(1e6 * exact, abs=1)
    assert 0 < moved_by_forger(vectors, known, targets, 0.002) < 1e5 * exact * 1.1
    assert moved_by_forger(vectors, np.eye(3), targets, 0.02) == 0


def test_an_index_that_cannot_be_computed_again_is_an_error(
    plan: Plan, tiny_model: Path, tmp_path: Path
) -> None:
    job = tmp_path / "rounding" / "job"
    job.mkdir(parents=True)
    (job / RESULT_FILE).write_text("{}")
    (job / ROWS_FILE).write_text("")
    folder = job / ADAPTER
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text("{}")
    with pytest.raises(ValueError, match="cannot be computed again"):
        measure_rounding(plan.name, plan.name, job, 1, ignore, str(tiny_model))
