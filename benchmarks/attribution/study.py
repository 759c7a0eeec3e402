"""The whole of it: retrainings, then what each method would have predicted of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoTokenizer

from backend.domain.attribution import GRADIENT_METHOD
from benchmarks.attribution.answers import losses, read_answers
from benchmarks.attribution.data import half_subsets, read_study
from benchmarks.attribution.gaming import CITATION, PADDING, Method, gains, padded, trivial
from benchmarks.attribution.measure import aboutness, as_paid, figures, predicted, spearman
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
    """`num_repeats` of the halves are trained on twice. What is kept is kept by the study's digest."""

    home: Path
    num_subsets: int
    num_repeats: int
    num_threads: int
    base_model: str = ""
    """As `inference.model.sources` takes it; empty: the bundled one."""

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
    def everybody(self) -> Run:
        return Run(tuple(range(len(self.study.names))), 0)

    @property
    def halves(self) -> list[tuple[int, ...]]:
        return half_subsets(len(self.study.names), self.num_subsets)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What the methods see: of all rows as they are, of the answers, and by `variants` of rows that game."""

    methods: Mapping[str, Method]
    contributions: Sequence[int]
    costs: Mapping[str, float]
    """In forward passes over an answer beyond serving it."""
    variants: Mapping[str, Mapping[str, torch.Tensor]]

    def scores(self, name: str) -> Floats:
        """[answers, contributors]"""
        method = self.methods[name]
        found = method.score(method.rows, self.contributions, method.answers)
        return np.asarray(found, dtype=np.float64)


def train(plan: Plan, emit: Emit) -> None:
    """Everybody together first, so that there are answers to evaluate the others on. Runs that another
    process is at are left to it.
    """
    torch.set_num_threads(plan.num_threads)
    runs = [plan.everybody, *planned(plan.halves, plan.num_repeats)]
    opened: tuple[Any, list[Answer]] | None = None
    for number, run in enumerate(runs):
        emit("retraining", {"run": run.name, "done": number, "total": len(runs)})
        try:
            retrain(run, plan.study.rows_of(run.contributors), plan.base, plan.work, emit)
        except BlockingIOError:
            emit("left", {"run": run.name})
            continue
        if opened is None and weights_file(plan.everybody, plan.work).exists():
            opened = _open_answers(plan)
        if opened is not None:
            losses(*opened, run, plan.work)


def _open_answers(plan: Plan) -> tuple[Any, list[Answer]]:
    """(the model with everybody's adapter, the answers). Errors: `FileNotFoundError` before it is there."""
    model = make_model(plan.base)
    load_weights(model, weights_file(plan.everybody, plan.work))
    return model, read_answers(plan.study, model, plan.base, plan.work / "generated.json")


def report(plan: Plan) -> dict[str, Any]:
    """Errors: `FileNotFoundError` before everybody is trained on, `ValueError` before three halves are."""
    torch.set_num_threads(plan.num_threads)
    model, answers = _open_answers(plan)
    seen = _methods(plan, model, answers)
    done = [half for half in plan.halves if weights_file(Run(half, 0), plan.work).exists()]
    if len(done) < 3:
        raise ValueError(f"{len(done)} retrainings are done; three make the least of rankings")
    first = {half: losses(model, answers, Run(half, 0), plan.work) for half in done}
    again = [half for half in done if weights_file(Run(half, 1), plan.work).exists()]
    second = {half: losses(model, answers, Run(half, 1), plan.work) for half in again}
    kinds = [answer.kind for answer in answers]
    actual = -np.array(list(first.values())).T
    named = {name: seen.scores(name) for name in seen.methods}
    measured = figures({name: predicted(found, done) for name, found in named.items()}, actual, kinds)
    paid = figures({name: predicted(as_paid(found), done) for name, found in named.items()}, actual, kinds)
    about = [answer.example.contribution for answer in answers]
    is_new = [kind == "held-out" for kind in kinds]
    return {
        "methods": {
            name: {
                **measured[name],
                "lds_as_paid": paid[name]["lds"],
                "cost": round(seen.costs[name], 3),
                "aboutness": aboutness(found, about),
                "aboutness_held_out": aboutness(
                    found[is_new], [c for c, new in zip(about, is_new, strict=True) if new]
                ),
            }
            for name, found in named.items()
        },
        "gradient_method": GRADIENT_METHOD,
        "ceiling": _ceiling(first, second),
        "gaming": _gaming(seen),
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


def _methods(plan: Plan, model: Any, answers: Sequence[Answer]) -> _Measured:
    """`model` holds the final adapter, and the checkpoint afterwards."""
    rows = sorted(plan.study.rows, key=lambda row: -len(row.token_ids))
    variants = _variants(rows, plan)
    asked = [answer.example for answer in answers]
    contributions = [row.contribution for row in rows]
    known, told = (forward_signals(model, each) for each in (rows, asked))
    seen = {name: forward_signals(model, each) for name, each in variants.items()}
    load_adapter(model, midway_file(plan.everybody, plan.work).read_bytes())
    preamble = plan.study.preamble
    known_gradients, _ = gradient_signals(model, rows, preamble)
    gradients, seconds = gradient_signals(model, asked, preamble)
    taken = {name: gradient_signals(model, each, preamble)[0] for name, each in variants.items()}
    methods = {
        "uniform by rows": Method(uniform_scores, known.hidden, told.hidden),
        "hidden states": Method(cosine_scores, known.hidden, told.hidden),
        "error vector": Method(ridge_scores, known.error, told.error),
        "gradient": Method(ridge_scores, known_gradients, gradients),
    }
    others = {
        "uniform by rows": {name: each.hidden for name, each in seen.items()},
        "hidden states": {name: each.hidden for name, each in seen.items()},
        "error vector": {name: each.error for name, each in seen.items()},
        "gradient": taken,
    }
    # The first three come out of the pass that wrote the answer.
    costs = {**dict.fromkeys(methods, 0.0), "gradient": seconds / told.forward_seconds}
    return _Measured(methods, contributions, costs, others)


def _variants(rows: Sequence[Example], plan: Plan) -> dict[str, list[Example]]:
    tokenizer = AutoTokenizer.from_pretrained(plan.base.folder, local_files_only=True)
    names = plan.study.names
    return {
        "answers padded": padded(rows, tokenizer, names, PADDING),
        "answers that cite themselves": padded(rows, tokenizer, names, CITATION),
        TRIVIAL: trivial(tokenizer),
    }


def _gaming(measured: _Measured) -> dict[str, Any]:
    found = {}
    for name, method in measured.methods.items():
        variants = dict(measured.variants[name])
        extra = variants.pop(TRIVIAL)
        found[name] = gains(method, measured.contributions, variants, extra)
    return found


def _ceiling(
    first: Mapping[tuple[int, ...], Sequence[float]], second: Mapping[tuple[int, ...], Sequence[float]]
) -> float | None:
    """How well one seed predicts another: no method can do better. None with fewer than three repeats."""
    if len(second) < 3:
        return None
    one: Floats = np.array([first[half] for half in second]).T
    other: Floats = np.array(list(second.values())).T
    return float(spearman(one, other).mean())
