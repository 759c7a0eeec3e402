"""The bounds and chains of each profile, and minimum delays of governance.

The bounds are those of `contracts/libraries/Profiles.sol` and `contracts/local/LocalParameters.sol`. Ratios
are in ppm, times in seconds, `bondFee` in wei per gas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.money import GWEI

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOCAL, ETHEREUM, OP_STACK, ARBITRUM = range(4)
"""`Profile` of `IParameters.sol`."""
NAMES = ("local", "ethereum", "op-stack", "arbitrum")
PROFILE_OF_CHAIN = {
    **dict.fromkeys((1, 11155111, 560048), ETHEREUM),
    **dict.fromkeys((10, 11155420, 8453, 84532), OP_STACK),
    **dict.fromkeys((42161, 42170, 421614), ARBITRUM),
}
"""Chain id -> profile. Ethereum and its test networks Sepolia and Hoodi; OP Mainnet, Base and their Sepolia
networks; Arbitrum One, Nova and Sepolia. Other chains take the profile of their kind.
"""
MINUTE, HOUR, DAY = 60, 3600, 86_400

_RATIOS = {
    "maxFeePpm": 200_000,
    "minStakeCoverPpm": 50_000,
    "maxStakeCoverPpm": 1_000_000,
    "maxContributorsFloorPpm": 900_000,
    "maxOperatorFloorPpm": 500_000,
    "minChallengerPpm": 50_000,
    "maxChallengerPpm": 490_000,
}
_PUBLIC = _RATIOS | {
    "maxDisputeWindow": 7 * DAY,
    "secondsPerAnswer": 12,
    "maxExtension": DAY,
    "maxPause": 3 * DAY,
    "pauseCoolDown": 14 * DAY,
    "maxSettlementInterval": DAY,
    "margin": DAY,
}
BOUNDS: tuple[Mapping[str, int], ...] = (
    _RATIOS
    | {
        "minDisputeWindow": 4,
        "maxDisputeWindow": 2 * MINUTE,
        "answerSeconds": 1,
        "secondsPerAnswer": 1,
        "maxExtension": 4,
        "maxPause": MINUTE,
        "pauseCoolDown": 5 * MINUTE,
        "maxSettlementInterval": MINUTE,
        "margin": 30,
        "maxBlockSeconds": 0,
        "bondFee": GWEI,
    },
    _PUBLIC
    | {
        "minDisputeWindow": DAY,
        "answerSeconds": 3 * HOUR,
        "maxBlockSeconds": 16,
        "bondFee": GWEI,
    },
    _PUBLIC
    | {
        "minDisputeWindow": 3 * DAY,
        "answerSeconds": 15 * HOUR,
        "maxBlockSeconds": 0,
        "bondFee": GWEI // 4,
    },
    _PUBLIC
    | {
        "minDisputeWindow": 7 * DAY,
        "answerSeconds": 27 * HOUR,
        "maxBlockSeconds": 0,
        "bondFee": GWEI // 4,
    },
)
"""Bounds of each profile, with the field names of Solidity's `Bounds`."""
_PUBLIC_GOVERNANCE = {
    "votingDelay": DAY,
    "votingPeriod": 3 * DAY,
    "lateQuorumExtension": DAY,
    "timelock": DAY,
}
MIN_GOVERNANCE: tuple[Mapping[str, int], ...] = (
    {"votingDelay": 0, "votingPeriod": 1, "lateQuorumExtension": 1, "timelock": 0},
    *[_PUBLIC_GOVERNANCE] * 3,
)
"""Minimum governance settings of each profile, which the contracts do not enforce. Payers need the time to
withdraw before a change of the rules takes effect.
"""
MAX_PPM = 1_000_000


def max_collection_seconds(bounds: Mapping[str, int]) -> int:
    """The longest time that a collection can take under these bounds; the thaw must exceed it."""
    delays = ("maxSettlementInterval", "maxDisputeWindow", "maxExtension", "maxPause", "margin")
    return sum(bounds[delay] for delay in delays)


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
    }
    for field, (least, most) in ranges.items():
        if not least <= values[field] <= most:
            yield field, f"{values[field]} is outside {least} to {most}"
