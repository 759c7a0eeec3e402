"""The report of the studies as JSON, which the page and its charts are written from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain.attribution import (
    DISTILLED_ERROR_METHOD,
    DISTILLED_METHOD,
    ERROR_METHOD,
    GRADIENT_METHOD,
    HIDDEN_METHOD,
    ROWS_METHOD,
)
from benchmarks.attribution.cost import serving_costs
from benchmarks.attribution.measure import (
    CONSTANT,
    Series,
    aboutness,
    as_paid,
    ceiling,
    differences,
    draw,
    figures,
    predict,
)
from benchmarks.attribution.methods import ONE_PRECONDITIONER, score_methods
from benchmarks.attribution.retrain import CONFIG, Run
from benchmarks.attribution.signals import read_signals
from benchmarks.attribution.truth import KINDS
from benchmarks.engine import machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.attribution.measure import Floats
    from benchmarks.attribution.methods import Scored
    from benchmarks.attribution.study import Plan
    from benchmarks.attribution.truth import Truth
    from workers.training.progress import Emit

MIN_HALVES = 3
PAIRS = (
    (DISTILLED_METHOD, ERROR_METHOD),
    (DISTILLED_METHOD, CONSTANT),
    (GRADIENT_METHOD, DISTILLED_METHOD),
    (GRADIENT_METHOD, ONE_PRECONDITIONER),
)
"""Methods whose difference is reported, besides that of each to counting rows."""


def report_study(plan: Plan, emit: Emit) -> dict[str, Any]:
    """Errors: `FileNotFoundError` before the study's reference is trained, `ValueError` before `MIN_HALVES`
    halves are, `OtherStudy`.
    """
    truth = plan.require_truth()
    halves = _halves(truth, 0)
    if len(halves) < MIN_HALVES:
        raise ValueError(f"{plan.name}: {len(halves)} retrainings are done, at least {MIN_HALVES} are needed")
    kinds = [answer.kind for answer in truth.answers]
    methods = score_methods(
        read_signals(plan.reference, [answer.example for answer in truth.answers], emit),
        [row.contribution for row in plan.study.rows],
    )
    repeated = [half for half in halves if half in _halves(truth, 1)]
    top = ceiling(_gained(truth, repeated, 0), _gained(truth, repeated, 1), kinds) if repeated else {}
    study = plan.study
    return {
        "name": plan.name,
        "num_by_kind": {kind: kinds.count(kind) for kind in KINDS},
        "num_sampled": sum(answer.seed is not None for answer in truth.answers),
        "num_halves": len(halves),
        "num_repeats": len(repeated),
        "ceiling": {kind: top[kind]["lds"] for kind in KINDS if kind in top},
        "ceiling_interval": {kind: top[kind]["interval"] for kind in KINDS if kind in top},
        **_accuracy(methods, _gained(truth, halves, 0), halves, truth),
        "num_rows": len(study.rows),
        "contributors": dict(zip(study.names, study.licences, strict=True)),
        "study": study.digest,
        "base_model": plan.base.name,
        "config": asdict(CONFIG),
    }


def measure_costs(plan: Plan, emit: Emit) -> dict[str, Any]:
    """`serving_costs` with the adapter of `plan`, and the machine that they were measured on."""
    return {**serving_costs(plan, emit), "machine": machine.describe()}


def combine(studies: Sequence[dict[str, Any]], costs: Mapping[str, Any]) -> dict[str, Any]:
    """The report of `studies`. `costs` as from `measure_costs`; empty before they are measured."""
    paid, stage = costs.get("serving_cost_paid"), costs.get("serving_cost_stage")
    by_method = {
        ROWS_METHOD: 0.0,
        **dict.fromkeys((HIDDEN_METHOD, ERROR_METHOD, DISTILLED_METHOD, DISTILLED_ERROR_METHOD), paid),
        GRADIENT_METHOD: stage,
    }
    for study in studies:
        for name, each in study["methods"].items():
            each["cost"] = by_method.get(name)
    return {"paid_method": DISTILLED_METHOD, "stage_method": GRADIENT_METHOD, "studies": studies, **costs}


def _halves(truth: Truth, seed: int) -> list[tuple[int, ...]]:
    return [run.contributors for run in truth.losses if run.seed == seed]


def _gained(truth: Truth, halves: Sequence[tuple[int, ...]], seed: int) -> Floats:
    """Log-probabilities [answers, halves]."""
    return -np.array([truth.losses[Run(half, seed)] for half in halves]).T


def _accuracy(
    methods: Mapping[str, Scored], actual: Floats, halves: Sequence[tuple[int, ...]], truth: Truth
) -> dict[str, Any]:
    """`methods` and `differences` of the report."""
    kinds = [answer.kind for answer in truth.answers]
    series = {
        name: Series(predict(each.addends, halves), predict(as_paid(each.scores), halves))
        for name, each in methods.items()
    }
    drawn = draw(series, actual, kinds)
    measured = figures(drawn, ROWS_METHOD)
    about = np.array([answer.contributor for answer in truth.answers])
    generated = np.array([kind == "generated" for kind in kinds])
    found = {
        name: {
            "by_kind": {kind: found["scored"] for kind, found in measured[name].items()},
            "as_paid": {kind: found["paid"]["lds"] for kind, found in measured[name].items()},
            "as_paid_detail": {kind: found["paid"] for kind, found in measured[name].items()},
            "is_variant": each.is_variant,
            "aboutness": aboutness(each.scores[generated], about[generated].tolist()),
        }
        for name, each in methods.items()
    }
    return {"methods": found, "differences": differences(drawn, PAIRS)}
