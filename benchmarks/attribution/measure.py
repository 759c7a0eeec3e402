"""Accuracy of attribution methods: LDS with bootstrap intervals, aboutness, and shares as paid.

LDS is the linear datamodeling score of TRAK (Park et al. 2023): for each answer, the rank correlation over
random halves of the contributors between the sum of their scores and the answer's probability under the
model retrained on them; averaged over the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain.attribution import shares_from_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NUM_DRAWS = 2000
BASELINE = "hidden states"


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


def figures(
    predictions: Mapping[str, Floats], actual: Floats, kinds: Sequence[str], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """For each method its LDS, the interval of its LDS and of its lead over `BASELINE`, and its LDS by kind
    of answer.

    `predictions` and `actual` are [answers, subsets]. Intervals contain 95 % of `NUM_DRAWS` bootstrap draws
    of answers and subsets, which are the same for all methods.
    """
    rng = np.random.default_rng(seed)
    num_answers, num_subsets = actual.shape
    drawn: dict[str, list[float]] = {name: [] for name in predictions}
    for _ in range(NUM_DRAWS):
        answers = rng.integers(num_answers, size=num_answers)
        subsets = rng.integers(num_subsets, size=num_subsets)
        pick = np.ix_(answers, subsets)
        for name, values in predictions.items():
            drawn[name].append(float(spearman(values[pick], actual[pick]).mean()))
    found = {}
    for name, values in predictions.items():
        each = spearman(values, actual)
        lead = np.subtract(drawn[name], drawn[BASELINE])
        found[name] = {
            "lds": float(each.mean()),
            "interval": _interval(drawn[name]),
            "lead_interval": _interval(lead),
            "by_kind": {kind: float(each[[k == kind for k in kinds]].mean()) for kind in sorted(set(kinds))},
        }
    return found


def aboutness(scores: Floats, contributors: Sequence[int]) -> float:
    """Share of answers whose highest score is that of the contributor they are about."""
    return float((scores.argmax(1) == np.asarray(contributors)).mean())


def _centred_ranks(values: Floats) -> Floats:
    above = (values[..., :, None] > values[..., None, :]).sum(-1)
    equal = (values[..., :, None] == values[..., None, :]).sum(-1)
    ranks = above + equal / 2
    return np.asarray(ranks - ranks.mean(-1, keepdims=True), dtype=np.float64)


def _interval(draws: Sequence[float] | Floats) -> list[float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return [float(low), float(high)]
