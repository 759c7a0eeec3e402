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
from benchmarks.attribution.measure import CONSTANT
from workers.training.index import distil_scores, hidden_index
from workers.training.influence import ERROR_RIDGE, GRADIENT_RIDGE, directions
from workers.training.sketch import DEPTHS, PART_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from benchmarks.attribution.measure import Floats
    from benchmarks.attribution.signals import StudySignals

RIDGES = (1.0, 3.0, 10.0)
"""Values of lambda that are compared."""
ONE_PRECONDITIONER = "gradient, one preconditioner"
"""That of all parts together, as in `gradient-ridge-3`, with the same sketches."""
FOLDED_SIZE = PART_SIZE // 4
FOLDED = "gradient, sketches of a quarter of the size"
"""Directions take the space of those of `gradient-ridge-3`."""


@dataclass(frozen=True, slots=True)
class Scored:
    """`scores` [answers, contributors], whose squares shares are proportional to."""

    scores: Floats
    is_variant: bool = False
    """Whether it is a control or a variant of a method, which no receipt names."""
    adds_squares: bool = False
    """Whether the scores are square roots of what adds up over contributors."""

    @property
    def addends(self) -> Floats:
        """What a method predicts of single contributors, and adds up over a half of them."""
        return self.scores**2 if self.adds_squares else self.scores


def score_methods(signals: StudySignals, contributions: Sequence[int]) -> dict[str, Scored]:
    """`contributions` has the contributor of each row."""
    of_rows = signals.rows.gradients
    of_sampled = gradient_scores(of_rows, contributions, signals.sampled.gradients)
    gradient = gradient_scores(of_rows, contributions, signals.answers.gradients)
    methods = {
        HIDDEN_METHOD: cosine_scores(signals.rows.hidden, contributions, signals.answers.hidden),
        ERROR_METHOD: ridge_scores(signals.rows.error, contributions, signals.answers.error, ERROR_RIDGE),
        **distilled_scores(signals, of_sampled, signals.rows.error, contributions),
        GRADIENT_METHOD: gradient,
    }
    constant = np.broadcast_to(of_sampled.mean(0), gradient.shape).copy()
    return {
        ROWS_METHOD: Scored(rows_scores(contributions, len(gradient)), adds_squares=True),
        **{name: Scored(scores) for name, scores in methods.items()},
        CONSTANT: Scored(constant, is_variant=True),
        **_gradient_variants(signals, contributions),
    }


def rows_scores(contributions: Sequence[int], num_answers: int) -> Floats:
    """As `uniform-rows-1`: square roots of the numbers of rows, since shares are proportional to squares."""
    counts = np.sqrt(np.bincount(contributions))
    return np.tile(counts, (num_answers, 1))


def ridge_scores(rows: Tensor, contributions: Sequence[int], answers: Tensor, ridge: float) -> Floats:
    """By the formula of `error-ridge-1`, for any signal [n, size]."""
    return _numpy(answers @ directions(rows, contributions, ridge)[1].T)


def cosine_scores(rows: Tensor, contributions: Sequence[int], answers: Tensor) -> Floats:
    """By the formula of `hidden-cosine-1`."""
    index = hidden_index(rows, contributions)
    answered = functional.normalize(answers - index["hidden.centre"], dim=1)
    return _numpy((1 + answered @ index["hidden.vectors"].T) / 2)


def gradient_scores(
    rows: Tensor, contributions: Sequence[int], answers: Tensor, ridge: float = GRADIENT_RIDGE
) -> Floats:
    """By the formula of `gradient-ridge-4`; `rows` and `answers` [n, parts, part size]."""
    parts = zip(rows.unbind(1), answers.unbind(1), strict=True)
    found = [ridge_scores(of_rows, contributions, asked, ridge) for of_rows, asked in parts]
    return np.asarray(np.sum(found, axis=0), dtype=np.float64)


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
    rows, answers = signals.rows.gradients, signals.answers.gradients
    everything = tuple(range(rows.shape[1]))
    parts = {"gradient of o_proj alone": everything[::2]} | {
        f"gradient of the last 1/{depth} of the blocks": everything[: 2 * (place + 1)]
        for place, depth in enumerate(DEPTHS)
    }
    scores = {
        name: gradient_scores(rows[:, chosen], contributions, answers[:, chosen])
        for name, chosen in parts.items()
    }
    for ridge in RIDGES:
        if ridge != GRADIENT_RIDGE:
            name = f"gradient, lambda {ridge:g}"
            scores[name] = gradient_scores(rows, contributions, answers, ridge)
    together = (rows.flatten(1), contributions, answers.flatten(1))
    scores[ONE_PRECONDITIONER] = ridge_scores(*together, GRADIENT_RIDGE)
    scores[FOLDED] = gradient_scores(fold(rows), contributions, fold(answers))
    return {name: Scored(each, is_variant=True) for name, each in scores.items()}


def fold(gradients: Tensor) -> Tensor:
    """Sketches of `gradients` [n, parts, size] in `FOLDED_SIZE` numbers a part. Each is what `CountSketch`
    gives for that size, since it places coordinates by a remainder.
    """
    return torch.stack(torch.split(gradients, FOLDED_SIZE, dim=2)).sum(0)


def _numpy(scores: Tensor) -> Floats:
    return np.asarray(scores, dtype=np.float64)
