"""Converts attribution scores to the shares of a receipt. Source: docs/protocol.md, "Receipt parts"."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.hashing import response_bytes
from backend.domain.money import PPM
from backend.domain.receipt import PackedShares
from backend.domain.split import MAX_SHARES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

INDEX_FILE = "attribution.safetensors"
"""File in an adapter's folder, written by training: one direction per contribution and method."""
CHECKPOINT_FILE = "attribution_checkpoint.safetensors"
"""The adapter after a third of its training, where `gradient-ridge-4` computes gradients."""
ANSWERS_FILE = "attribution_answers.safetensors"
"""Generated answers of the adapter, on which training fitted the distilled maps of the index."""
MAX_ANSWERS = 256
"""Most answers in that file."""
MAX_ANSWER_TOKENS = 32
"""Length limit of such an answer. Its time is that of decoding and of one gradient, both proportional to
it.
"""
MAX_INDEX_BYTES = 512 << 20
"""Most bytes of an index that answers are attributed by; a larger one is as none. Operators and verifiers
must agree on it. `GRADIENT_METHOD` needs an index that has no more with its gradients.
"""
INDEX_METADATA = {"version": "2"}
"""Metadata that the index must have; other versions are not read."""
DISTILLED_METHOD = "distilled-1"
"""Predicts the scores of `GRADIENT_METHOD` from the mean hidden state and the error vector of an answer."""
DISTILLED_ERROR_METHOD = "distilled-error-1"
"""The same from the error vector alone, for engines that return nothing else."""
GRADIENT_METHOD = "gradient-ridge-4"
ERROR_METHOD = "error-ridge-1"
HIDDEN_METHOD = "hidden-cosine-1"
ROWS_METHOD = "uniform-rows-1"
UNIFORM_METHOD = "uniform-1"
METHODS_OF_INDEX = (DISTILLED_METHOD, DISTILLED_ERROR_METHOD, GRADIENT_METHOD, ERROR_METHOD, HIDDEN_METHOD)
"""Methods of an index as training writes it."""
METHODS_OF_ERRORS = frozenset({DISTILLED_METHOD, DISTILLED_ERROR_METHOD, ERROR_METHOD})
"""Methods that need an answer's error vector."""

AGREEMENTS = {DISTILLED_METHOD: "distilled_agreement", DISTILLED_ERROR_METHOD: "distilled_error_agreement"}
"""Method -> name of its agreement with `GRADIENT_METHOD` in the index's metadata and training's metrics: the
mean Spearman correlation of the contributions' scores over `NUM_KEPT_OUT` answers.
"""
NUM_KEPT_OUT = "num_kept_out"

_RESOLUTION = 1 << 32


def served_index_bytes(num_contributions: int, hidden_size: int) -> int:
    """Bytes of an index that count for `MAX_INDEX_BYTES`, apart from gradients: five vectors of fp32 for each
    contribution, of which the maps have three, with two biases; position and number of rows; the centre.
    """
    return num_contributions * (20 * hidden_size + 24) + 4 * hidden_size


class ScoreNotFinite(InvalidInput):
    """An attribution method returned NaN or an infinity for `details["position"]`."""


def answer_draw(body: bytes, texts: Iterable[str]) -> int:
    """The number by which an answer decides between equal scores. It has no salt: an operator that chooses
    one could choose whom it pays. `body`: of the request; `texts`: of the choices.
    """
    return int.from_bytes(hashlib.sha256(body + response_bytes(texts)).digest(), "big")


def shares_from_scores(scores: Mapping[int, float], draw: int = 0) -> PackedShares:
    """Shares in proportion to relu(score)^2, by rising position, that sum to 1,000,000 ppm.

    Only the 256 highest scores count, and shares below 1 ppm are dropped. If the lowest of them is that of n
    positions, more than are left to count, those count that begin with number `draw` modulo n of them, and
    continue with the first after the last. The remainder goes to the largest share (the lowest position on a
    tie). If no score is positive, all positions count equally. Without scores the result is empty. After one
    rounding the arithmetic is in integers, so that equal scores give equal shares on every machine.
    """
    check_finite(scores)
    positions = sorted(scores)
    weights = _weights([scores[position] for position in positions])
    if len(positions) > MAX_SHARES:
        counted = _counted(weights, draw)
        positions, weights = [positions[i] for i in counted], [weights[i] for i in counted]
    total = sum(weights)
    ppms = [weight * PPM // total for weight in weights]
    if ppms:
        ppms[weights.index(max(weights))] += PPM - sum(ppms)
    if not all(ppms):
        positions = [position for position, ppm in zip(positions, ppms, strict=True) if ppm]
        ppms = [ppm for ppm in ppms if ppm]
    return PackedShares.of(positions, ppms)


def _counted(weights: Sequence[int], draw: int) -> list[int]:
    """Rising indices of the 256 highest of more weights."""
    lowest = sorted(weights, reverse=True)[MAX_SHARES - 1]
    higher = [index for index, weight in enumerate(weights) if weight > lowest]
    equal = [index for index, weight in enumerate(weights) if weight == lowest]
    first = draw % len(equal)
    drawn = (equal[first:] + equal[:first])[: MAX_SHARES - len(higher)]
    return sorted(higher + drawn)


def check_finite(scores: Mapping[int, float]) -> None:
    """Raises ScoreNotFinite for the first score that is no finite number."""
    if all(map(math.isfinite, scores.values())):
        return
    for position, score in scores.items():
        if not math.isfinite(score):
            raise ScoreNotFinite(
                f"the score of position {position} is {score}", details={"position": position}
            )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's correlation of two methods' scores of the same contributions, ties with average ranks. None
    if either has no two different scores.
    """
    ranks = [_ranks(scores) for scores in (one, other)]
    centre = (len(one) + 1) / 2
    first, second = ([rank - centre for rank in each] for each in ranks)
    norm = math.hypot(*first) * math.hypot(*second)
    products = (a * b for a, b in zip(first, second, strict=True))
    return math.fsum(products) / norm if norm else None


def _ranks(scores: Sequence[float]) -> list[float]:
    """Ranks from 1; equal scores have the mean of theirs."""
    ordered = sorted(scores)
    return [(bisect_left(ordered, score) + bisect_right(ordered, score) + 1) / 2 for score in scores]


def _weights(scores: list[float]) -> list[int]:
    top = max(scores, default=0.0)
    if top <= 0:
        return [1] * len(scores)
    return [round(score / top * _RESOLUTION) ** 2 if score > 0 else 0 for score in scores]
