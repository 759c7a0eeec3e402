"""What is known of an adapter's numbers before it is listed: how far from the usual, and like which version.

A score is shown as a score. None of this says that an adapter is safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.domain.ids import Account, Hash32, VersionId

COPY_COSINE = 0.9
"""From here on two updates are one and the same, perturbed at most. What noise leaves of a copy, and what
honest trainings reach, stands in docs/training.md.
"""
SAME_MODULE = 0.95
"""Cosine of two updates of one linear layer from which on one is a copy of the other."""
COPY_SHARE = 0.25
"""The part of an update's energy in copied layers from which on the whole is a copy."""
SKETCHED = 64
"""Numbers of a sketch for each linear layer of the base model."""
MIN_KNOWN = 8
"""Fewer adapters show no usual."""
_LEAST_SPREAD = 0.05
"""Of a statistic, as a part of its median: what is known may be all alike."""


class AdapterRefused(InvalidInput):
    """An adapter that the engine would not serve; `details["reason"]` is the engine's code."""


class CopiedVersion(Conflict):
    """The adapter is a copy, or a perturbed copy, of a version of somebody else, whom `details` name; or,
    without a snapshot, of one's own that has one.
    """


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was read off an adapter's update of the base model, s B A, however it is factored.

    Of an adapter that is registered, but that the engine refuses, `sketch` and `statistics` are empty.
    """

    adapter_digest: Hash32
    base_model: Hash32
    sketch: bytes
    """`SKETCHED` numbers of each linear layer, little-endian float16; dot products survive."""
    statistics: Mapping[str, float]
    """Means over the layers: `norm` relative to the weights, and of the spectrum `concentration`, `entropy`
    and `kurtosis`; `largest_norm` of any layer."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """`shared_ppm`: the part of the inspected update's energy that lies in layers like those of `version`."""

    version: VersionId
    creator: Account
    cosine: float
    shared_ppm: int

    @property
    def is_copy(self) -> bool:
        return self.cosine >= COPY_COSINE or self.shared_ppm >= COPY_SHARE * 1_000_000


@dataclass(frozen=True, slots=True)
class Risk:
    """`score` of 100: ten times the distance of the statistic `by` from the median of the known adapters, in
    their spreads. An adapter like all others has a low one, be it harmful or not.
    """

    score: int
    by: str


@dataclass(frozen=True, slots=True)
class ScreeningReport:
    """`risk` is None where too few adapters are known; `nearest` where no other creator's is."""

    risk: Risk | None
    nearest: Likeness | None
    num_compared: int
    num_unknown: int
    """Registered versions of the base that could not be fetched or read, so that nothing was compared."""

    @property
    def message(self) -> str:
        risk = (
            "No risk score" if self.risk is None else f"Risk score {self.risk.score}/100, by {self.risk.by}"
        )
        near = "no version of others is known"
        if self.nearest is not None:
            what = "a copy of" if self.nearest.is_copy else "the nearest version is"
            near = f"{what} {self.nearest.version} (cosine {self.nearest.cosine:.2f})"
        return f"{risk}; {near}; {self.num_compared} compared, {self.num_unknown} not within reach."


def risk_of(statistics: Mapping[str, float], known: Sequence[Mapping[str, float]]) -> Risk | None:
    """By robust z-scores: median and median absolute deviation, which single odd ones do not move."""
    if len(known) < MIN_KNOWN:
        return None
    distances = {name: _distance(value, [one[name] for one in known]) for name, value in statistics.items()}
    by = max(sorted(distances), key=lambda name: distances[name])
    return Risk(min(100, round(10 * distances[by])), by)


def _distance(value: float, usual: Sequence[float]) -> float:
    middle = median(usual)
    spread = 1.4826 * median(abs(one - middle) for one in usual)  # of a normal distribution: its sigma
    least = max(_LEAST_SPREAD * abs(middle), 1e-9)
    return abs(value - middle) / max(spread, least)
