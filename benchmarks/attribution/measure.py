"""Accuracy of attribution methods: LDS by kind of answer with bootstrap intervals.

LDS is the linear datamodeling score of TRAK (Park et al. 2023): for each answer, the rank correlation over
random halves of the contributors between the sum of their scores and the answer's probability under the
model retrained on them; averaged over the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain.attribution import shares_from_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Drawn = Mapping[str, Mapping[str, Mapping[str, Floats]]]
    """By method, kind of answer and part of `Series`: the LDS of all answers and halves, then that of each of
    `NUM_DRAWS` bootstrap draws of both. They are the same for all methods, so that differences are paired.
    """

NUM_DRAWS = 2000
CONSTANT = "mean gradient score"
"""The control: the same scores for each answer, the mean of those that the gradient gives other answers."""
SCORED, PAID = "scored", "paid"
PARTS = (SCORED, PAID)
"""Of `Series`."""


@dataclass(frozen=True, slots=True)
class Series:
    """What a method predicts, [answers, halves]: from its scores, and from its shares in ppm."""

    scored: Floats
    paid: Floats


def spearman(one: Floats, other: Floats) -> Floats:
    """Rank correlation along the last axis, with average ranks for ties; 0 if one side is constant."""
    first, second = _centred_ranks(one), _centred_ranks(other)
    norms = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    products = (first * second).sum(-1)
    found: Floats = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return found


def predict(scores: Floats, subsets: Sequence[Sequence[int]]) -> Floats:
    """Predictions [answers, subsets]: the sum over each subset of `scores` [answers, contributors]."""
    return np.stack([scores[:, list(subset)].sum(1) for subset in subsets], axis=1)


def as_paid(scores: Floats) -> Floats:
    """Shares in ppm, as in a receipt, for each answer's `scores` [answers, contributors]."""
    paid = np.zeros_like(scores)
    for number, row in enumerate(scores.tolist()):
        for share in shares_from_scores(dict(enumerate(row))):
            paid[number, share.position] = share.ppm
    return paid


def draw(series: Mapping[str, Series], actual: Floats, kinds: Sequence[str], seed: int = 0) -> Drawn:
    """LDS of each method. `actual` is [answers, halves]."""
    values = {(name, part): getattr(each, part) for name, each in series.items() for part in PARTS}
    drawn = _draws(values, actual, kinds, seed)
    return {
        name: {kind: {part: drawn[name, part][kind] for part in PARTS} for kind in sorted(set(kinds))}
        for name in series
    }


def figures(drawn: Drawn, baseline: str) -> dict[str, dict[str, Any]]:
    """For each method, by kind of answer: `lds` of its scores, and `paid`, of its shares, each with the
    interval of 95 % of the draws and the difference to the same of `baseline`.
    """
    return {
        name: {
            kind: {part: _figure(parts[part], drawn[baseline][kind][part]) for part in PARTS}
            for kind, parts in by_kind.items()
        }
        for name, by_kind in drawn.items()
    }


def differences(drawn: Drawn, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """By how much the LDS of the scores of each pair's first method exceeds that of its second, by kind."""
    found = []
    for method, other in pairs:
        gaps = {kind: drawn[method][kind][SCORED] - drawn[other][kind][SCORED] for kind in drawn[method]}
        by_kind = {
            kind: {"lds": _rounded(gap[0]), "interval": _interval(gap[1:])} for kind, gap in gaps.items()
        }
        found.append({"method": method, "over": other, "by_kind": by_kind})
    return found


def ceiling(first: Floats, second: Floats, kinds: Sequence[str], seed: int = 0) -> dict[str, dict[str, Any]]:
    """By kind: how well retrainings with one seed, [answers, halves], predict those with another."""
    drawn = _draws({("", SCORED): first}, second, kinds, seed)["", SCORED]
    return {kind: {"lds": _rounded(each[0]), "interval": _interval(each[1:])} for kind, each in drawn.items()}


def aboutness(scores: Floats, contributors: Sequence[int]) -> float:
    """Share of answers whose highest score is that of the contributor they are about."""
    return float((scores.argmax(1) == np.asarray(contributors)).mean())


def _draws(
    predictions: Mapping[tuple[str, str], Floats], actual: Floats, kinds: Sequence[str], seed: int
) -> dict[tuple[str, str], dict[str, Floats]]:
    """By prediction and kind: the LDS of all answers and halves, then of each bootstrap draw of both."""
    rng = np.random.default_rng(seed)
    num_halves = actual.shape[1]
    members = {kind: np.flatnonzero([each == kind for each in kinds]) for kind in sorted(set(kinds))}
    picks = [np.arange(num_halves), *rng.integers(num_halves, size=(NUM_DRAWS, num_halves))]
    chosen = {
        kind: [each, *each[rng.integers(len(each), size=(NUM_DRAWS, len(each)))]]
        for kind, each in members.items()
    }
    found: dict[tuple[str, str], dict[str, Floats]] = {}
    for name, values in predictions.items():
        by_answer = [spearman(values[:, pick], actual[:, pick]) for pick in picks]
        found[name] = {
            kind: np.array([each[answers].mean() for each, answers in zip(by_answer, drawn, strict=True)])
            for kind, drawn in chosen.items()
        }
    return found


def _figure(drawn: Floats, baseline: Floats) -> dict[str, Any]:
    lead = drawn - baseline
    return {
        "lds": _rounded(drawn[0]),
        "interval": _interval(drawn[1:]),
        "lead": _rounded(lead[0]),
        "lead_interval": _interval(lead[1:]),
    }


def _centred_ranks(values: Floats) -> Floats:
    above = (values[..., :, None] > values[..., None, :]).sum(-1)
    equal = (values[..., :, None] == values[..., None, :]).sum(-1)
    ranks = above + equal / 2
    return np.asarray(ranks - ranks.mean(-1, keepdims=True), dtype=np.float64)


def _interval(draws: Floats) -> list[float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return [_rounded(low), _rounded(high)]


def _rounded(value: float) -> float:
    return round(float(value), 4)
