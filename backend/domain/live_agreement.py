"""Live agreement: how well the default attribution method agrees with the gradient on served answers.

Blocks sample the answers: each by the first block with a timestamp after the answer's `served_at`. The hash
of that block is unknown when the answer is signed, so the operator cannot choose which answers are measured.
Which answers of a batch were sampled follows from its receipts and the chain.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.attribution import check_finite, rank_correlation
from backend.domain.hashing import to_bytes
from backend.domain.money import PPM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.ids import Hash32


@dataclass(frozen=True, slots=True)
class LiveAgreement:
    """Figures of sampled answers, each once for every version that has a part of it.

    `num_unranked`: those whose gradient gives all contributions the same score, as a single one; they say
    nothing of an order. `sum_ppm`: sum of the rank correlations of the `num_measured` others, in ppm.
    """

    num_sampled: int = 0
    num_measured: int = 0
    num_unranked: int = 0
    sum_ppm: int = 0

    @property
    def num_missing(self) -> int:
        """Sampled answers that were not measured, or not yet."""
        return self.num_sampled - self.num_measured - self.num_unranked

    @property
    def mean(self) -> float | None:
        """Mean rank correlation, from -1 to 1; None before the first measurement."""
        return self.sum_ppm / (self.num_measured * PPM) if self.num_measured else None


def is_sampled(block: Hash32, response_hash: Hash32, rate_ppm: int) -> bool:
    """Whether the block with this hash samples an answer: if sha-256 of the block's hash and the receipt's
    `response_hash` is in the lowest `rate_ppm` of all numbers of 32 bytes.

    `response_hash` is salted, so that it differs between answers, and the same in a charge and its receipt.
    """
    digest = hashlib.sha256(to_bytes(block) + to_bytes(response_hash)).digest()
    return int.from_bytes(digest, "big") * PPM < rate_ppm << 256


def agreement_ppm(scores: Mapping[int, float], gradient: Mapping[int, float]) -> int | None:
    """Rank correlation of two methods' scores of the same contributions, in ppm; 0 if only `gradient` ranks
    them, and None if it does not. Contributions that one of them has not scored do not count.

    Errors: `ScoreNotFinite`.
    """
    check_finite(gradient)
    positions = sorted(scores.keys() & gradient.keys())
    reference = [gradient[position] for position in positions]
    if len(set(reference)) < 2:
        return None
    return round((rank_correlation([scores[position] for position in positions], reference) or 0.0) * PPM)
