"""Methods of the package `dattri-llm` on the studies: `make bench-attribution-packages`.

The package scores pairs of a training row and an answer, from the same LoRA gradients at the same checkpoint
as `gradient-ridge-4`; the rows' scores are added for each contributor. They are compared with the retrainings
that the study's report is made from, so only the reference is trained. Each method is stored when it is done,
and a run that was killed continues with the others. A method that was measured over fewer retrainings than
the study now has is measured again.

| method | as computed here |
| --- | --- |
| TracIn | dot product of gradients at one checkpoint; at the two, their sum |
| cosine | the same of unit gradients |
| LoGra | gradients projected to 8 x 8 for each module, times their inverse covariance |
| LoGra, EK-FAC | the same projection; the covariance has the eigenvectors of K-FAC |
| TRAK | 64 random coordinates of each module's gradient, times their inverse covariance; without the weights
of TRAK's outputs |
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.attribution.command import add_docs, add_truth, make_parser, run, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from benchmarks.attribution.measure import Floats
    from benchmarks.attribution.study import Plan
    from workers.training.progress import Emit
    from workers.training.rows import Example

PACKAGES = "packages"
"""Key of the report."""
KINDS = ("generated", "held-out")
DAMPING = 0.1
"""Relative to the mean eigenvalue of each matrix that is inverted."""
LOGRA_SIZE = 8
TRAK_SIZE = 64


@dataclass(frozen=True, slots=True)
class Measured:
    """`scores` [rows, answers], and the processor seconds that they took for all rows and answers."""

    scores: Floats
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if importlib.util.find_spec("dattri_llm") is None:
        print("error: dattri-llm is not installed: run make bench-attribution-packages", file=sys.stderr)
        return 1
    return run(lambda: _measure(options), options.threads)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """By study and method, with what the report has already."""
    from benchmarks.attribution import page
    from benchmarks.attribution.study import Plan, train

    report = page.read(options.docs) or {}
    studies = {each["name"]: each for each in report.get("studies", ())}
    if missing := set(options.study) - set(studies):
        names = ", ".join(sorted(missing))
        raise ValueError(f"{options.docs / page.KEPT} has no study {names}: run make bench-attribution")
    found: dict[str, Any] = dict(report.get(PACKAGES, {}))
    for name in options.study:
        num_halves = studies[name]["num_halves"]
        plan = Plan(name, options.work, options.truth, num_halves, 0, options.threads)
        for method in options.methods or open_methods(found.get(name, {}), num_halves):
            train(plan, show)
            found[name] = page.add(options.docs, PACKAGES, name, measure_study(plan, [method], show))
    return found


def open_methods(done: Mapping[str, Any], num_halves: int) -> list[str]:
    """The methods that `done`, the report of a study, does not have over `num_halves` retrainings."""
    return [name for name in METHODS if name not in done or done[name]["num_halves"] != num_halves]


def measure_study(plan: Plan, methods: Sequence[str], emit: Emit) -> dict[str, Any]:
    """By method: LDS over the plan's halves, also as paid, and processor seconds for each answer."""
    import numpy as np

    from backend.domain.attribution import ROWS_METHOD
    from benchmarks.attribution.measure import Series, as_paid, draw, figures, predict
    from benchmarks.attribution.methods import Scored, rows_scores
    from benchmarks.attribution.retrain import Run

    truth = plan.require_truth()
    chosen = [number for number, answer in enumerate(truth.answers) if answer.kind in KINDS]
    answers = [truth.answers[number].example for number in chosen]
    contributions = [row.contribution for row in plan.study.rows]
    halves = [half for half in plan.halves if Run(half, 0) in truth.losses]
    actual = -np.array([truth.losses[Run(half, 0)] for half in halves]).T[chosen]
    measured = score_methods(plan, plan.study.rows, answers, methods, emit)
    indicator = np.eye(len(plan.study.names))[contributions]
    scored = {name: Scored(each.scores.T @ indicator) for name, each in measured.items()}
    scored[ROWS_METHOD] = Scored(rows_scores(contributions, len(answers)), adds_squares=True)
    series = {
        name: Series(predict(each.addends, halves), predict(as_paid(each.scores), halves))
        for name, each in scored.items()
    }
    kinds = [truth.answers[number].kind for number in chosen]
    found = figures(draw(series, actual, kinds), ROWS_METHOD)
    return {
        name: {
            "by_kind": found[name],
            "num_halves": len(halves),
            "seconds_per_answer": round(each.seconds / (len(answers) + len(contributions)), 3),
        }
        for name, each in measured.items()
    }


def score_methods(
    plan: Plan, rows: Sequence[Example], answers: Sequence[Example], methods: Sequence[str], emit: Emit
) -> dict[str, Measured]:
    """Each method at the checkpoint a third of the way through training, TracIn also at the end."""
    from benchmarks.attribution.retrain import load_weights, make_model, midway_file
    from workers.training.index import load_adapter

    model = make_model(plan.base)
    model.set_attn_implementation("sdpa")
    load_adapter(model, midway_file(plan.work).read_bytes())
    found: dict[str, Measured] = {}
    for name in methods:
        emit("package", {"study": plan.name, "method": name})
        found[name] = METHODS[name](model, rows, answers)
    if "TracIn" in methods:
        load_weights(model, plan.work)
        emit("package", {"study": plan.name, "method": "TracIn at the end"})
        end = METHODS["TracIn"](model, rows, answers)
        both = found["TracIn"]
        found["TracIn at the end"] = end
        found["TracIn at both"] = Measured(both.scores + end.scores, both.seconds + end.seconds)
    return found


def _tracin(model: Any, rows: Sequence[Example], answers: Sequence[Example]) -> Measured:
    return _attribute("TracInAttributor", {}, model, rows, answers, capture_style="materialized")


def _cosine(model: Any, rows: Sequence[Example], answers: Sequence[Example]) -> Measured:
    options = {"normalized_grad": True}
    return _attribute("TracInAttributor", options, model, rows, answers, capture_style="materialized")


def _logra(model: Any, rows: Sequence[Example], answers: Sequence[Example]) -> Measured:
    capture = {"capture_style": "materialized", **_projected("logra", LOGRA_SIZE)}
    return _attribute("KFACAttributor", _COVARIANCES, model, rows, answers, **capture)


def _ekfac(model: Any, rows: Sequence[Example], answers: Sequence[Example]) -> Measured:
    return _attribute("EKFACAttributor", _RELATIVE, model, rows, answers, **_projected("logra", LOGRA_SIZE))


def _trak(model: Any, rows: Sequence[Example], answers: Sequence[Example]) -> Measured:
    return _attribute("KFACAttributor", _COVARIANCES, model, rows, answers, **_projected("mask", TRAK_SIZE))


_RELATIVE = {"damping": DAMPING, "relative_damping": True}
_COVARIANCES = {**_RELATIVE, "covariances_at_capture": False}
"""Of `KFACAttributor`, which takes the whole covariance of what is captured without factors."""
METHODS = {"TracIn": _tracin, "cosine": _cosine, "LoGra": _logra, "LoGra, EK-FAC": _ekfac, "TRAK": _trak}


def _projected(style: str, size: int) -> dict[str, Any]:
    projection: dict[str, Any] = {"style": style, "proj_dim": size}
    if style == "logra":
        projection["proj_max_batch_size"] = 8
    return {"projection_kwargs": {"__default__": projection}}


def _attribute(
    algorithm: str,
    options: dict[str, Any],
    model: Any,
    rows: Sequence[Example],
    answers: Sequence[Example],
    **capture: Any,
) -> Measured:
    """Gradients of LoRA's B matrices, each side collected once, in memory; products of them in fp32."""
    import dattri_llm
    from dattri_llm.gradient import ops
    from dattri_llm.utils.hashing import hash_sample

    from workers.training.packing import is_bf16

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder, ops.compute_dtype("float32"):
        arguments = dattri_llm.AttributionArguments(
            folder,
            per_device_train_batch_size=1,
            per_device_eval_batch_size=1,
            bf16=is_bf16(model),
            use_cpu=True,
            max_grad_norm=None,
        )
        task = dattri_llm.AttributionTask(_loss, model)
        found = getattr(dattri_llm, algorithm)(arguments, task=task).attribute(
            _dataset(rows),
            _dataset(answers),
            hook_config=dattri_llm.HookManagerConfig(linear_io=[r"\.lora_B\."], **capture),
            gradient_cache_residency="memory",
            **options,
        )
    keys = ([hash_sample(each) for each in _dataset(part)] for part in (rows, answers))
    scores = found.query(*keys).double().numpy()
    return Measured(scores, time.process_time() - began)


def _dataset(examples: Sequence[Example]) -> list[dict[str, Tensor]]:
    import torch

    return [
        {"input_ids": torch.tensor(each.token_ids), "labels": torch.tensor(each.labels)} for each in examples
    ]


def _loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy in nats, summed over the answer's tokens."""
    from torch.nn import functional

    logits = model(**batch).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("benchmarks.attribution.packages", __doc__)
    add_docs(parser)
    add_truth(parser)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        help="default: those that the report lacks over all halves",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
