"""Distils the scores of gradients into a linear map of what serving an answer yields.

The gradient of an answer costs more than serving it; its mean hidden state and error vector are by-products.
On generated answers of the adapter, ridge regression fits the scores of all contributions to features of
these (`backend.services.answers.distilled`). It starts from another method's map, times one factor fitted by
least squares, and not from zero: what the answers do not tell remains as that method has it. Only the
direction of an answer's scores determines its shares, so they are scaled to unit norm. Generalised
cross-validation (Golub, Heath, Wahba 1979) chooses the strength of the regularisation. Solved in fp64 by an
eigendecomposition, whose size is the number of answers.

How well this works for an adapter is measured on answers kept out of a first fit. The published map is fitted
to all answers.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain.attribution import rank_correlation
from backend.services.answers.distilled import LinearMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

STRENGTHS = tuple(2.0**exponent for exponent in range(-20, 11))
"""Candidates, relative to the mean eigenvalue of the Gram matrix."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """A map fitted to all answers. `agreement` is the mean over the answers kept out of Spearman's
    correlation between the gradient's scores and those of a map fitted to the other answers; None with fewer
    than two contributions, or without answers kept out.
    """

    map: LinearMap
    strength: float
    agreement: float | None


def distil(
    features: NDArray[np.floating[Any]],
    scores: Floats,
    prior: Floats,
    is_kept_out: Sequence[bool],
    strengths: Sequence[float] = STRENGTHS,
) -> Distilled:
    """Fit `scores` [answers, contributions] to `features` [answers, size], starting from the map `prior`
    [contributions, size]. At least one answer must not be kept out. `strengths` are the candidates of that
    map, not of the one whose agreement is measured.
    """
    inputs, targets = features.astype(np.float64), _unit(scores)
    found, strength = _fit(inputs, targets, prior, strengths)
    return Distilled(found, strength, _agreement(inputs, targets, prior, is_kept_out))


def _agreement(features: Floats, targets: Floats, prior: Floats, is_kept_out: Sequence[bool]) -> float | None:
    kept_out = np.asarray(is_kept_out, dtype=bool)
    others, _ = _fit(features[~kept_out], targets[~kept_out], prior, STRENGTHS)
    pairs = zip(features[kept_out], targets[kept_out], strict=True)
    agreements = [rank_correlation(others.scores(each).tolist(), wanted.tolist()) for each, wanted in pairs]
    known = [agreement for agreement in agreements if agreement is not None]
    return statistics.fmean(known) if known else None


def _unit(scores: Floats) -> Floats:
    """Each answer's scores with unit norm, or zeros."""
    norms = np.linalg.norm(scores, axis=1, keepdims=True)
    found: Floats = np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 0)
    return found


def _fit(
    features: Floats, targets: Floats, prior: Floats, strengths: Sequence[float]
) -> tuple[LinearMap, float]:
    """(ridge regression towards a multiple of `prior`, with an intercept; its strength)."""
    centre, mean = features.mean(0), targets.mean(0)
    inputs, outputs = features - centre, targets - mean
    start = _slope(inputs @ prior.T, outputs) * prior
    correction, strength = _ridge(inputs, outputs - inputs @ start.T, strengths)
    weights = start + correction
    bias = mean - weights @ centre
    return LinearMap(weights.astype(np.float32), bias.astype(np.float32)), strength


def _slope(predicted: Floats, outputs: Floats) -> float:
    """The factor, not below 0, by which `predicted` comes closest to `outputs`."""
    square = float((predicted**2).sum())
    return max(0.0, float((predicted * outputs).sum()) / square) if square else 0.0


def _ridge(inputs: Floats, outputs: Floats, strengths: Sequence[float]) -> tuple[Floats, float]:
    """(weights [outputs, size], strength) for centred columns."""
    values, vectors = np.linalg.eigh(inputs @ inputs.T)
    values, rotated = values.clip(min=0), vectors.T @ outputs
    scale = values.mean()
    if scale == 0:  # equal answers
        return np.zeros((outputs.shape[1], inputs.shape[1])), float(strengths[-1])
    strength = min(strengths, key=lambda each: _cross_validate(values, rotated, each * scale))
    solved = vectors @ (rotated / (values + strength * scale)[:, None])
    return solved.T @ inputs, float(strength)


def _cross_validate(values: Floats, rotated: Floats, damping: float) -> float:
    """Generalised cross-validation: the squared residuals, relative to the square of the degrees of freedom
    that the fit and its intercept leave. `values` [answers] are the eigenvalues of the Gram matrix, `rotated`
    [answers, outputs] the targets in the basis of its eigenvectors.
    """
    remaining = damping / (values + damping)
    residuals = ((remaining[:, None] * rotated) ** 2).sum()
    return float(residuals / max(remaining.sum() - 1, 1e-9) ** 2)
