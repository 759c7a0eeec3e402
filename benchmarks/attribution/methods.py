"""Scores of each attribution method, by its name in receipts, of controls and of variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from backend.domain.attribution import (
    DISTILLED_ERROR_METHOD,
    DISTILLED_METHOD,
    ERROR_METHOD,
    GRADIENT_METHOD,
    HIDDEN_METHOD,
    ROWS_METHOD,
)
from backend.services.answers.distilled import distilled_features, error_features
from benchmarks.attribution.signals import DEPTHS
from workers.training.index import distil_scores, hidden_index
from workers.training.influence import ERROR_RIDGE, GRADIENT_RIDGE, directions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from benchmarks.attribution.measure import Floats
    from benchmarks.attribution.signals import Signals, StudySignals

RIDGES = (1.0, 3.0, 10.0)
"""Values of lambda that are compared."""
CONSTANT = "mean gradient score"
BY_PART = "gradient, preconditioned by part"
"""The sum of the scores of each part of `signals.part_of`, which has a preconditioner of its own. Directions
take as many times the space as there are parts.
"""
BY_PART_FOLDED = f"{BY_PART}, directions of the same size"
"""The same of sketches that are smaller by the number of parts."""


@dataclass(frozen=True, slots=True)
class Scored:
    """`scores` [answers, contributors]."""

    scores: Floats
    is_variant: bool = False
    """Whether it is a control or a variant of a method, which no receipt names."""


def score_methods(signals: StudySignals, contributions: Sequence[int]) -> dict[str, Scored]:
    """`contributions` has the contributor of each row."""
    of_sampled = _gradient_scores(signals.rows, contributions, signals.sampled)
    gradient = _gradient_scores(signals.rows, contributions, signals.answers)
    methods = {
        ROWS_METHOD: rows_scores(contributions, len(gradient)),
        HIDDEN_METHOD: cosine_scores(signals.rows.hidden, contributions, signals.answers.hidden),
        ERROR_METHOD: ridge_scores(signals.rows.error, contributions, signals.answers.error, ERROR_RIDGE),
        **distilled_scores(signals, of_sampled, signals.rows.error, contributions),
        GRADIENT_METHOD: gradient,
    }
    constant = np.broadcast_to(of_sampled.mean(0), gradient.shape).copy()
    return {
        **{name: Scored(scores) for name, scores in methods.items()},
        CONSTANT: Scored(constant, is_variant=True),
        **_gradient_variants(signals, contributions),
    }


def rows_scores(contributions: Sequence[int], num_answers: int) -> Floats:
    """As `uniform-rows-1`: square roots of the numbers of rows, since shares are proportional to squares."""
    counts = np.sqrt(np.bincount(contributions))
    return np.tile(counts, (num_answers, 1))


def ridge_scores(rows: Tensor, contributions: Sequence[int], answers: Tensor, ridge: float) -> Floats:
    """By the formula of `gradient-ridge-3` and `error-ridge-1`, for any signal."""
    return _numpy(answers @ directions(rows, contributions, ridge)[1].T)


def cosine_scores(rows: Tensor, contributions: Sequence[int], answers: Tensor) -> Floats:
    """By the formula of `hidden-cosine-1`."""
    index = hidden_index(rows, contributions)
    answered = functional.normalize(answers - index["hidden.centre"], dim=1)
    return _numpy((1 + answered @ index["hidden.vectors"].T) / 2)


def _gradient_scores(rows: Signals, contributions: Sequence[int], answers: Signals) -> Floats:
    return ridge_scores(rows.gradients.sum(1), contributions, answers.gradients.sum(1), GRADIENT_RIDGE)


def distilled_scores(
    signals: StudySignals, scores: Floats, errors: Tensor, contributions: Sequence[int]
) -> Mapping[str, Floats]:
    """The maps are fitted to the gradient's `scores` of the sampled answers, starting from the directions of
    the rows' `errors`, and applied to the answers.
    """
    of = signals.sampled
    start = directions(errors, contributions, ERROR_RIDGE)[1]
    maps = distil_scores(of.hidden, of.error, torch.from_numpy(scores), start, signals.distillation)
    hidden, error = signals.answers.hidden.numpy(), signals.answers.error.numpy()
    features = {
        DISTILLED_METHOD: distilled_features(hidden, error),
        DISTILLED_ERROR_METHOD: error_features(error),
    }
    return {
        name: np.stack([maps[name].map.scores(each) for each in found]) for name, found in features.items()
    }


def _gradient_variants(signals: StudySignals, contributions: Sequence[int]) -> dict[str, Scored]:
    everything = tuple(range(signals.rows.gradients.shape[1]))
    others = [ridge for ridge in RIDGES if ridge != GRADIENT_RIDGE]
    variants = {f"gradient, lambda {ridge:g}": (everything, ridge) for ridge in others}
    variants["gradient of o_proj alone"] = (everything[::2], GRADIENT_RIDGE)
    variants |= {
        f"gradient of the last {depth} blocks": (everything[: 2 * (place + 1)], GRADIENT_RIDGE)
        for place, depth in enumerate(DEPTHS)
    }
    rows, answers = signals.rows.gradients, signals.answers.gradients

    def score(parts: Sequence[int], ridge: float) -> Floats:
        return ridge_scores(rows[:, parts].sum(1), contributions, answers[:, parts].sum(1), ridge)

    scores = {name: score(parts, ridge) for name, (parts, ridge) in variants.items()}
    scores[BY_PART] = by_part_scores(rows, contributions, answers)
    scores[BY_PART_FOLDED] = by_part_scores(fold(rows), contributions, fold(answers))
    return {name: Scored(each, is_variant=True) for name, each in scores.items()}


def by_part_scores(rows: Tensor, contributions: Sequence[int], answers: Tensor) -> Floats:
    """The sum of the `ridge_scores` of each part of `rows` and `answers` [n, parts, size]."""
    parts = zip(rows.unbind(1), answers.unbind(1), strict=True)
    found = [ridge_scores(of_rows, contributions, asked, GRADIENT_RIDGE) for of_rows, asked in parts]
    return np.asarray(np.sum(found, axis=0), dtype=np.float64)


def fold(gradients: Tensor) -> Tensor:
    """Sketches of `gradients` [n, parts, size] with all parts together in `size` numbers: [n, parts, size //
    parts]. Each is what `CountSketch` gives for that size, since it places coordinates by a remainder.
    """
    num_rows, num_parts, size = gradients.shape
    return gradients.view(num_rows, num_parts, num_parts, size // num_parts).sum(2)


def _numpy(scores: Tensor) -> Floats:
    return np.asarray(scores, dtype=np.float64)
