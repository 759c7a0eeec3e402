"""The bounds of each profile, as in `contracts/libraries/Profiles.sol`, and minimum delays of governance.

Ratios are in ppm, times in seconds, bonds in micro-units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOCAL, PRODUCTION = 0, 1
"""`Profile` of `IParameters.sol`."""
NAMES = ("local", "production")
MINUTE, HOUR, DAY = 60, 3600, 86_400

_RATIOS = {
    "maxFeePpm": 200_000,
    "minStakeCoverPpm": 50_000,
    "maxStakeCoverPpm": 1_000_000,
    "maxContributorsFloorPpm": 900_000,
    "maxOperatorFloorPpm": 500_000,
    "minChallengerPpm": 50_000,
    "maxChallengerPpm": 490_000,
    "minDemandBond": 10**9,
    "maxDemandBond": 10**15,
}
BOUNDS: tuple[Mapping[str, int], ...] = (
    _RATIOS
    | {
        "minDisputeWindow": 3,
        "maxDisputeWindow": 2 * MINUTE,
        "maxPause": MINUTE,
        "pauseCoolDown": 5 * MINUTE,
        "maxSettlementInterval": MINUTE,
        "margin": 30,
        "maxBlockSeconds": 0,
    },
    _RATIOS
    | {
        "minDisputeWindow": DAY,
        "maxDisputeWindow": 7 * DAY,
        "maxPause": 3 * DAY,
        "pauseCoolDown": 14 * DAY,
        "maxSettlementInterval": DAY,
        "margin": DAY,
        "maxBlockSeconds": 16,
    },
)
"""Bounds of each profile, with the field names of Solidity's `Bounds`."""
MIN_GOVERNANCE: tuple[Mapping[str, int], ...] = (
    {"votingDelay": 0, "votingPeriod": 1, "lateQuorumExtension": 1, "timelock": 0},
    {"votingDelay": DAY, "votingPeriod": 3 * DAY, "lateQuorumExtension": DAY, "timelock": DAY},
)
"""Minimum governance settings of each profile, which the contracts do not enforce. Payers need the time to
withdraw before a change of the rules takes effect.
"""
MAX_THAW_SECONDS = 365 * DAY
MAX_PPM = 1_000_000


def max_collection_seconds(bounds: Mapping[str, int]) -> int:
    """The longest time that a collection can take under these bounds; the thaw must exceed it."""
    return (
        bounds["maxSettlementInterval"] + bounds["maxDisputeWindow"] + bounds["maxPause"] + bounds["margin"]
    )


def out_of_bounds(values: Mapping[str, int], bounds: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Fields of a `ParameterSet` that the contract `Parameters` would reject, each with the reason."""
    left_for_operator = MAX_PPM - values["minContributorsPpm"]
    ranges = {
        "feePpm": (0, bounds["maxFeePpm"]),
        "stakeCoverPpm": (bounds["minStakeCoverPpm"], bounds["maxStakeCoverPpm"]),
        "disputeWindow": (bounds["minDisputeWindow"], bounds["maxDisputeWindow"]),
        "minContributorsPpm": (0, bounds["maxContributorsFloorPpm"]),
        "minOperatorPpm": (0, min(bounds["maxOperatorFloorPpm"], left_for_operator)),
        "maxOperatorPpm": (values["minOperatorPpm"], MAX_PPM),
        "challengerPpm": (bounds["minChallengerPpm"], bounds["maxChallengerPpm"]),
        "demandBond": (bounds["minDemandBond"], bounds["maxDemandBond"]),
    }
    for field, (least, most) in ranges.items():
        if not least <= values[field] <= most:
            yield field, f"{values[field]} is outside {least} to {most}"
