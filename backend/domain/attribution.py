"""From scores to the list that a receipt carries. Source: docs/protocol.md, "Receipt parts"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.receipt import Share
from backend.domain.split import MAX_SHARES, PPM

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX_FILE = "attribution.safetensors"
"""What training leaves in an adapter's folder for `hidden-cosine-1`."""
INDEX_METHOD = "hidden-cosine-1"
INDEX_METADATA = {"method": INDEX_METHOD, "version": "1"}

_RESOLUTION = 1 << 32


class ScoreNotFinite(InvalidInput):
    """An attribution method returned NaN or an infinity; `details["position"]` says for whom."""


def shares_from_scores(scores: Mapping[int, float]) -> tuple[Share, ...]:
    """Weights in proportion to relu(score)^2, positions rising, summing to 1,000,000 ppm.

    Only the 256 highest count; who would get less than one ppm gets none; the remainder goes to the largest
    (the lowest position on a tie). If no score is positive all positions count alike. Nothing for no scores.
    Integer arithmetic after one rounding, so that equal scores give equal lists on every machine.
    """
    for position, score in scores.items():
        if not math.isfinite(score):
            raise ScoreNotFinite(
                f"the score of position {position} is {score}", details={"position": position}
            )
    top = max(scores.values(), default=0.0)
    if top > 0:
        weights = {p: round(max(s, 0.0) / top * _RESOLUTION) ** 2 for p, s in scores.items()}
    else:
        weights = dict.fromkeys(scores, 1)
    ranked = sorted(weights, key=lambda position: (-weights[position], position))[:MAX_SHARES]
    total = sum(weights[position] for position in ranked)
    ppms = {position: weights[position] * PPM // total for position in ranked}
    if ranked:
        ppms[ranked[0]] += PPM - sum(ppms.values())
    return tuple(Share(position, ppms[position]) for position in sorted(ppms) if ppms[position])
