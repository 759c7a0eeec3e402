"""What rounding changes in an index, on a tiny base model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from backend.domain.attribution import DISTILLED_METHOD, GRADIENT_METHOD
from benchmarks.attribution.page import page
from benchmarks.attribution.rounding import measure_rounding
from tests.unit.benchmarks.attribution.support import NUM_ROWS, ignore

if TYPE_CHECKING:
    from pathlib import Path

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
    assert (
        f"| `{GRADIENT_METHOD}`: of a vector's norm | {methods[GRADIENT_METHOD]['distance']:.3f} | 0.15 |"
        in text
    )


def test_a_processor_that_trains_in_fp32_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.float32)
    with pytest.raises(ValueError, match="no index in bf16"):
        measure_rounding("docstrings", tmp_path, 1, ignore)
