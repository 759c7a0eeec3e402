"""Runs the study: retrainings, then the predictions of each method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoTokenizer

from backend.domain.attribution import GRADIENT_METHOD
from benchmarks.attribution.answers import losses, read_answers
from benchmarks.attribution.data import half_subsets, read_study
from benchmarks.attribution.gaming import CITATION, PADDING, Method, gains, padded, trivial
from benchmarks.attribution.measure import aboutness, as_paid, figures, predict, spearman
from benchmarks.attribution.retrain import (
    CONFIG,
    Base,
    Run,
    load_weights,
    make_model,
    midway_file,
    planned,
    retrain,
    weights_file,
)
from benchmarks.attribution.signals import (
    cosine_scores,
    forward_signals,
    gradient_signals,
    ridge_scores,
    uniform_scores,
)
from benchmarks.engine import machine
from inference.model.sources import model_name, resolve_model
from workers.training.index import load_adapter
from workers.training.influence import ERROR_RIDGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.attribution.answers import Answer
    from benchmarks.attribution.data import Study
    from benchmarks.attribution.measure import Floats
    from workers.training.progress import Emit
    from workers.training.rows import Example


TRIVIAL = "trivial rows"


@dataclass(frozen=True)
class Plan:
    """Size and location of a study. `num_repeats` of the halves are trained twice, with different seeds.
    Files are stored below `home` by the study's digest.
    """

    home: Path
    num_subsets: int
    num_repeats: int
    num_threads: int
    base_model: str = ""
    """As for `inference.model.sources`; empty selects the bundled model."""

    @cached_property
    def base(self) -> Base:
        folder = resolve_model(self.base_model, self.home / "models")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return Base(folder, tokenizer.pad_token_id)

    @cached_property
    def study(self) -> Study:
        return read_study(AutoTokenizer.from_pretrained(self.base.folder, local_files_only=True))

    @property
    def work(self) -> Path:
        return self.home / self.study.digest[:12]

    @property
    def all_contributors(self) -> Run:
        return Run(tuple(range(len(self.study.names))), 0)

    @property
    def halves(self) -> list[tuple[int, ...]]:
        return half_subsets(len(self.study.names), self.num_subsets)


@dataclass(frozen=True, slots=True)
class _Methods:
    """Methods with the signals of rows and answers, and `variants` with the signals of manipulated rows."""

    methods: Mapping[str, Method]
    contributions: Sequence[int]
    costs: Mapping[str, float]
    """Forward passes over an answer in addition to serving it, by method."""
    variants: Mapping[str, Mapping[str, torch.Tensor]]

    def scores(self, name: str) -> Floats:
        """Scores [answers, contributors] of a method."""
        method = self.methods[name]
        found = method.score(method.rows, self.contributions, method.answers)
        return np.asarray(found, dtype=np.float64)


def train(plan: Plan, emit: Emit) -> None:
    """Run the retrainings that are missing. The run on all contributors is first, because its adapter
    generates answers for the others. Runs that another process is working on are skipped.
    """
    torch.set_num_threads(plan.num_threads)
    runs = [plan.all_contributors, *planned(plan.halves, plan.num_repeats)]
    opened: tuple[Any, list[Answer]] | None = None
    for number, run in enumerate(runs):
        emit("retraining", {"run": run.name, "done": number, "total": len(runs)})
        try:
            retrain(run, plan.study.rows_of(run.contributors), plan.base, plan.work, emit)
        except BlockingIOError:
            emit("skipped", {"run": run.name})
            continue
        if opened is None and weights_file(plan.all_contributors, plan.work).exists():
            opened = _open_answers(plan)
        if opened is not None:
            losses(*opened, run, plan.work)


def _open_answers(plan: Plan) -> tuple[Any, list[Answer]]:
    """(model with the adapter of all contributors, answers). Errors: `FileNotFoundError` before it is
    trained.
    """
    model = make_model(plan.base)
    load_weights(model, weights_file(plan.all_contributors, plan.work))
    return model, read_answers(plan.study, model, plan.base, plan.work / "generated.json")


def report(plan: Plan) -> dict[str, Any]:
    """The report as JSON. Errors: `FileNotFoundError` before the run on all contributors is done,
    `ValueError` before three halves are.
    """
    torch.set_num_threads(plan.num_threads)
    model, answers = _open_answers(plan)
    methods = _methods(plan, model, answers)
    done = [half for half in plan.halves if weights_file(Run(half, 0), plan.work).exists()]
    if len(done) < 3:
        raise ValueError(f"{len(done)} retrainings are done, at least three are needed")
    first = {half: losses(model, answers, Run(half, 0), plan.work) for half in done}
    again = [half for half in done if weights_file(Run(half, 1), plan.work).exists()]
    second = {half: losses(model, answers, Run(half, 1), plan.work) for half in again}
    kinds = [answer.kind for answer in answers]
    actual = -np.array(list(first.values())).T
    scores = {name: methods.scores(name) for name in methods.methods}
    measured = figures({name: predict(found, done) for name, found in scores.items()}, actual, kinds)
    paid = figures({name: predict(as_paid(found), done) for name, found in scores.items()}, actual, kinds)
    about = [answer.example.contribution for answer in answers]
    is_new = [kind == "held-out" for kind in kinds]
    return {
        "methods": {
            name: {
                **measured[name],
                "lds_as_paid": paid[name]["lds"],
                "cost": round(methods.costs[name], 3),
                "aboutness": aboutness(found, about),
                "aboutness_held_out": aboutness(
                    found[is_new], [c for c, new in zip(about, is_new, strict=True) if new]
                ),
            }
            for name, found in scores.items()
        },
        "gradient_method": GRADIENT_METHOD,
        "ceiling": _ceiling(first, second),
        "gaming": _gaming(methods),
        "planned": {"subsets": plan.num_subsets, "repeats": plan.num_repeats},
        "num_subsets": len(done),
        "num_repeats": len(again),
        "num_answers": len(answers),
        "num_by_kind": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "num_rows": len(plan.study.rows),
        "contributors": list(plan.study.names),
        "study": plan.study.digest,
        "base_model": model_name(plan.base.folder),
        "config": asdict(CONFIG),
        "machine": machine.describe(),
    }


def _methods(plan: Plan, model: Any, answers: Sequence[Answer]) -> _Methods:
    """`model` has the final adapter before the call, and the checkpoint after it."""
    rows = sorted(plan.study.rows, key=lambda row: -len(row.token_ids))
    variants = _variants(rows, plan)
    examples = [answer.example for answer in answers]
    contributions = [row.contribution for row in rows]
    of_rows, of_answers = (forward_signals(model, each) for each in (rows, examples))
    of_variants = {name: forward_signals(model, each) for name, each in variants.items()}
    load_adapter(model, midway_file(plan.all_contributors, plan.work).read_bytes())
    preamble = plan.study.preamble
    row_gradients, _ = gradient_signals(model, rows, preamble)
    gradients, seconds = gradient_signals(model, examples, preamble)
    variant_gradients = {name: gradient_signals(model, each, preamble)[0] for name, each in variants.items()}
    methods = {
        "uniform by rows": Method(uniform_scores, of_rows.hidden, of_answers.hidden),
        "hidden states": Method(cosine_scores, of_rows.hidden, of_answers.hidden),
        "error vector": Method(partial(ridge_scores, ridge=ERROR_RIDGE), of_rows.error, of_answers.error),
        "gradient": Method(ridge_scores, row_gradients, gradients),
    }
    manipulated = {
        "uniform by rows": {name: each.hidden for name, each in of_variants.items()},
        "hidden states": {name: each.hidden for name, each in of_variants.items()},
        "error vector": {name: each.error for name, each in of_variants.items()},
        "gradient": variant_gradients,
    }
    # The first three are by-products of the pass that generates the answer.
    costs = {**dict.fromkeys(methods, 0.0), "gradient": seconds / of_answers.forward_seconds}
    return _Methods(methods, contributions, costs, manipulated)


def _variants(rows: Sequence[Example], plan: Plan) -> dict[str, list[Example]]:
    tokenizer = AutoTokenizer.from_pretrained(plan.base.folder, local_files_only=True)
    names = plan.study.names
    return {
        "answers padded": padded(rows, tokenizer, names, PADDING),
        "answers that cite themselves": padded(rows, tokenizer, names, CITATION),
        TRIVIAL: trivial(tokenizer),
    }


def _gaming(methods: _Methods) -> dict[str, Any]:
    found = {}
    for name, method in methods.methods.items():
        variants = dict(methods.variants[name])
        extra = variants.pop(TRIVIAL)
        found[name] = gains(method, methods.contributions, variants, extra)
    return found


def _ceiling(
    first: Mapping[tuple[int, ...], Sequence[float]], second: Mapping[tuple[int, ...], Sequence[float]]
) -> float | None:
    """LDS of one seed as a prediction of another, which no method can exceed. None with fewer than three
    repeats.
    """
    if len(second) < 3:
        return None
    one: Floats = np.array([first[half] for half in second]).T
    other: Floats = np.array(list(second.values())).T
    return float(spearman(one, other).mean())
