"""The hard bounds of each profile, as `contracts/libraries/Profiles.sol` has them, and what a public network
asks of its governance beyond them. Ratios in ppm, times in seconds, bonds in micro-units.
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
        "minSettlementInterval": 1,
        "maxSettlementInterval": MINUTE,
        "margin": 30,
    },
    _RATIOS
    | {
        "minDisputeWindow": DAY,
        "maxDisputeWindow": 7 * DAY,
        "maxPause": 3 * DAY,
        "pauseCoolDown": 14 * DAY,
        "minSettlementInterval": HOUR,
        "maxSettlementInterval": DAY,
        "margin": DAY,
    },
)
"""By profile; names as in Solidity's `Bounds`."""
LEAST_GOVERNANCE: tuple[Mapping[str, int], ...] = (
    {"votingDelay": 0, "votingPeriod": 1, "lateQuorumExtension": 1, "timelock": 0},
    {"votingDelay": DAY, "votingPeriod": 3 * DAY, "lateQuorumExtension": DAY, "timelock": DAY},
)
"""By profile. The contracts do not enforce these; a market whose rules change within hours is not one to
deposit into.
"""
MAX_THAW_SECONDS = 365 * DAY
MAX_PPM = 1_000_000


def longest_delay(bounds: Mapping[str, int]) -> int:
    """What the thaw must exceed: the longest that a collection can take under any governed setting."""
    return (
        bounds["maxSettlementInterval"] + bounds["maxDisputeWindow"] + bounds["maxPause"] + bounds["margin"]
    )


def least_unstake(bounds: Mapping[str, int]) -> int:
    return bounds["maxDisputeWindow"] + bounds["margin"]


def out_of_bounds(found: Mapping[str, int], bounds: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Fields of a `ParameterSet` that `Parameters` would refuse, each with the reason."""
    room = MAX_PPM - found["minContributorsPpm"]
    ranges = {
        "feePpm": (0, bounds["maxFeePpm"]),
        "stakeCoverPpm": (bounds["minStakeCoverPpm"], bounds["maxStakeCoverPpm"]),
        "disputeWindow": (bounds["minDisputeWindow"], bounds["maxDisputeWindow"]),
        "minContributorsPpm": (0, bounds["maxContributorsFloorPpm"]),
        "minOperatorPpm": (0, min(bounds["maxOperatorFloorPpm"], room)),
        "maxOperatorPpm": (found["minOperatorPpm"], MAX_PPM),
        "challengerPpm": (bounds["minChallengerPpm"], bounds["maxChallengerPpm"]),
        "demandBond": (bounds["minDemandBond"], bounds["maxDemandBond"]),
    }
    for field, (least, most) in ranges.items():
        if not least <= found[field] <= most:
            yield field, f"{found[field]} is outside {least} to {most}"
