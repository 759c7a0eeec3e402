"""Screening of adapters before they are listed: anomaly of their weights, and similarity to other versions.

Scores are informative. A low score does not mean that an adapter is safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Self

    from backend.domain.ids import Account, Hash32, VersionId

COPY_COSINE = 0.9
"""Cosine from which an update counts as a copy, possibly perturbed. Measurements: docs/training.md."""
SAME_MODULE = 0.95
"""Cosine from which the update of one linear layer counts as a copy."""
COPY_SHARE = 0.25
"""Fraction of an update's energy in copied layers from which the adapter counts as a copy."""
SKETCHED = 64
"""Numbers per linear layer of the base model in a sketch."""
MIN_KNOWN = 8
"""Fewest known adapters for a risk score."""
_LEAST_SPREAD = 0.05
"""Lower bound of a statistic's spread, relative to its median, since known adapters may be all alike."""


class AdapterRefused(InvalidInput):
    """An adapter that the engine would not serve; `details["reason"]` is the engine's code."""


class CopiedVersion(Conflict):
    """The adapter copies, exactly or perturbed, another creator's version, which `details` name.

    An adapter without snapshot must not copy a version of the same creator that has one, either.
    """


@dataclass(frozen=True, slots=True)
class Inspection:
    """Features of an adapter's weight update s B A, independent of its factorisation.

    They are empty for a registered adapter that the engine refuses.
    """

    adapter_digest: Hash32
    base_model: Hash32
    sketch: bytes
    """`SKETCHED` numbers per linear layer, little-endian float16, which preserve dot products."""
    statistics: Mapping[str, float]
    """Means over the layers: `norm` relative to the weights, and of the spectrum `concentration`, `entropy`
    and `kurtosis`; `largest_norm` of any layer."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """Similarity to `version`. `shared_ppm` is the part of the update's energy in similar layers."""

    version: VersionId
    creator: Account
    cosine: float
    shared_ppm: int

    @property
    def is_copy(self) -> bool:
        return self.cosine >= COPY_COSINE or self.shared_ppm >= COPY_SHARE * 1_000_000


@dataclass(frozen=True, slots=True)
class Risk:
    """A score of 0 to 100: ten times the robust z-score of the most unusual statistic, `by`.

    A harmful adapter with usual statistics has a low score.
    """

    score: int
    by: str


@dataclass(frozen=True, slots=True)
class ScreeningReport:
    """`risk` is None if too few adapters are known, `nearest` if no other creator's version is known."""

    risk: Risk | None
    nearest: Likeness | None
    num_compared: int
    num_unknown: int
    """Registered versions of the base model that were not compared, as they could not be fetched or read."""

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        """From the data of a `screening` event."""
        risk, nearest = stored["risk"], stored["nearest"]
        return cls(
            risk=None if risk is None else Risk(**risk),
            nearest=None if nearest is None else Likeness(**nearest),
            num_compared=stored["num_compared"],
            num_unknown=stored["num_unknown"],
        )

    @property
    def message(self) -> str:
        risk = (
            "No risk score" if self.risk is None else f"Risk score {self.risk.score}/100, by {self.risk.by}"
        )
        near = "no other creator's version is known"
        if self.nearest is not None:
            what = "a copy of" if self.nearest.is_copy else "the nearest version is"
            near = f"{what} {self.nearest.version} (cosine {self.nearest.cosine:.2f})"
        return f"{risk}; {near}; {self.num_compared} compared, {self.num_unknown} unavailable."


def risk_of(statistics: Mapping[str, float], known: Sequence[Mapping[str, float]]) -> Risk | None:
    """Risk by robust z-scores (median and median absolute deviation, insensitive to outliers)."""
    if len(known) < MIN_KNOWN:
        return None
    distances = {name: _distance(value, [one[name] for one in known]) for name, value in statistics.items()}
    by = max(sorted(distances), key=lambda name: distances[name])
    return Risk(min(100, round(10 * distances[by])), by)


def _distance(value: float, usual: Sequence[float]) -> float:
    middle = median(usual)
    spread = 1.4826 * median(abs(one - middle) for one in usual)  # the sigma of a normal distribution
    least = max(_LEAST_SPREAD * abs(middle), 1e-9)
    return abs(value - middle) / max(spread, least)
