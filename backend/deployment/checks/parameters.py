"""Checks parameters, delays and governance against the profile and against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.deployment.checks.reader import Finding, error_at, warning_at
from backend.deployment.profiles import (
    BOUNDS,
    LOCAL,
    MIN_GOVERNANCE,
    NAMES,
    PROFILE_OF_CHAIN,
    max_collection_seconds,
    out_of_bounds,
)
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.ids import ZERO_ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reader import MarketReader


def check_parameters(market: MarketReader) -> Iterator[Finding]:
    profile, bounds = market.call("Parameters", "profile"), market.call("Parameters", "bounds")
    needed = PROFILE_OF_CHAIN.get(market.record.chain_id, profile)
    if profile == LOCAL and market.record.chain_id != LOCAL_CHAIN_ID:
        yield error_at("Parameters", "has profile `local`, with windows of seconds, on a public chain")
    elif profile != needed:
        yield error_at("Parameters", f"has profile `{NAMES[profile]}`, the chain needs `{NAMES[needed]}`")
    if NAMES[profile] != market.record.profile:
        yield error_at(
            "Parameters", f"has profile `{NAMES[profile]}`, the record says `{market.record.profile}`"
        )
    for name, expected in BOUNDS[profile].items():
        if bounds[name] != expected:
            yield error_at("Parameters", f"bounds.{name} is {bounds[name]}, not {expected}")
    current = market.call("Parameters", "current")
    for name, reason in out_of_bounds(current, bounds):
        yield error_at("Parameters", f"{name} {reason}")
    if current["treasury"] == ZERO_ACCOUNT:
        yield error_at("Parameters", "the treasury is the zero address")
    if (until := market.call("Parameters", "pausedUntil")) > market.head.timestamp:
        yield warning_at("Parameters", f"commits are paused for {until - market.head.timestamp} s more")


def check_times(market: MarketReader) -> Iterator[Finding]:
    """A deposit must not thaw before it can be collected."""
    bounds: dict[str, Any] = market.call("Parameters", "bounds")
    thaw = market.call("PaymentVault", "thawSeconds")
    if thaw <= max_collection_seconds(bounds):
        yield error_at(
            "PaymentVault", f"thaws in {thaw} s; a collection may take {max_collection_seconds(bounds)} s"
        )


def check_governance(market: MarketReader) -> Iterator[Finding]:
    minimum = MIN_GOVERNANCE[NAMES.index(market.record.profile)]
    found = {
        "votingDelay": market.call("MarketGovernor", "votingDelay"),
        "votingPeriod": market.call("MarketGovernor", "votingPeriod"),
        "lateQuorumExtension": market.call("MarketGovernor", "lateQuorumVoteExtension"),
        "timelock": market.call("TimelockController", "getMinDelay"),
    }
    for name, value in found.items():
        if value < minimum[name]:
            subject = "TimelockController" if name == "timelock" else "MarketGovernor"
            yield error_at(subject, f"{name} is {value} s, below {minimum[name]} s")
