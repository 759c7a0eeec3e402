"""What is computed from a package's scores; the package itself is installed by its target of make alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.attribution.packages import METHODS, Measured, main, measure_study, open_methods
from benchmarks.attribution.retrain import Run
from benchmarks.attribution.truth import KINDS, Answer, Truth, add_runs
from tests.unit.benchmarks.attribution.support import ignore
from workers.training.rows import last_answer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.attribution.measure import Floats
    from benchmarks.attribution.study import Plan


def retrained(plan: Plan) -> tuple[tuple[Answer, ...], Floats]:
    """Answers, and the influence [answers, contributors] that the stored retrainings have without noise."""
    answers = tuple(
        Answer(kind, row.contribution, None, *last_answer(row))
        for kind, row in zip(KINDS, plan.study.held_out, strict=False)
    )
    influence = np.random.default_rng(1).uniform(1, 9, (len(answers), len(plan.study.names)))
    losses = {Run(half, 0): (-influence[:, list(half)].sum(1)).tolist() for half in plan.halves}
    add_runs(plan.truth_file, Truth(plan.study.digest, plan.base.name, answers), losses)
    return answers, influence


def test_scores_of_rows_are_added_by_contributor(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(plan, num_subsets=6)
    answers, influence = retrained(plan)
    of_rows = [row.contribution for row in plan.study.rows]
    by_row = (influence / np.bincount(of_rows))[
        :2, of_rows
    ].T  # the rows of a contributor share its influence

    def scored(_plan: Plan, rows: Sequence[Any], asked: Sequence[Any], *_: Any) -> dict[str, Measured]:
        assert list(asked) == [each.example for each in answers[:2]]  # in-sample answers are left out
        assert list(rows) == list(plan.study.rows)
        return {"exact": Measured(by_row, 7.0), "opposite": Measured(-by_row, 14.0)}

    monkeypatch.setattr("benchmarks.attribution.packages.score_methods", scored)
    found = measure_study(plan, ["exact", "opposite"], ignore)
    for name, lds in (("exact", 1), ("opposite", -1)):
        assert {kind: each["scored"]["lds"] for kind, each in found[name]["by_kind"].items()} == {
            "generated": pytest.approx(lds),
            "held-out": pytest.approx(lds),
        }
    assert found["exact"]["num_halves"] == len(plan.halves)
    assert found["exact"]["seconds_per_answer"] == pytest.approx(7 / (len(of_rows) + 2), abs=1e-3)


def test_a_method_is_measured_again_when_the_study_has_more_retrainings() -> None:
    done = {name: {"num_halves": 24} for name in METHODS} | {"TRAK": {"num_halves": 20}}
    assert open_methods(done, 24) == ["TRAK"]
    assert open_methods({}, 24) == list(METHODS)


def test_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["--docs", str(tmp_path)]) == 1
    assert "run make bench-attribution-packages" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    (tmp_path / "attribution.json").write_text(json.dumps({"studies": [{"name": "docstrings"}]}))
    assert main(["--docs", str(tmp_path)]) == 1
    assert "no study fortunes, instructions: run make bench-attribution" in capsys.readouterr().err
