"""Whether the market's times and numbers are those of its profile and fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.deployment.checks.reading import Finding, off, warning
from backend.deployment.profiles import (
    BOUNDS,
    LEAST_GOVERNANCE,
    LOCAL,
    NAMES,
    least_unstake,
    longest_delay,
    out_of_bounds,
)
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.ids import ZERO_ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reading import Reading


def check_parameters(reading: Reading) -> Iterator[Finding]:
    profile, bounds = reading.ask("Parameters", "profile"), reading.ask("Parameters", "bounds")
    if profile == LOCAL and reading.record.chain_id != LOCAL_CHAIN_ID:
        yield off("Parameters", "has profile `local`, with windows of seconds, on a public chain")
    if NAMES[profile] != reading.record.profile:
        yield off("Parameters", f"has profile `{NAMES[profile]}`, the record says `{reading.record.profile}`")
    for name, expected in BOUNDS[profile].items():
        if bounds[name] != expected:
            yield off("Parameters", f"bounds.{name} is {bounds[name]}, not {expected}")
    current = reading.ask("Parameters", "current")
    for name, why in out_of_bounds(current, bounds):
        yield off("Parameters", f"{name} {why}")
    if current["treasury"] == ZERO_ACCOUNT:
        yield off("Parameters", "the treasury is the zero address")
    if (until := reading.ask("Parameters", "pausedUntil")) > reading.head.timestamp:
        yield warning("Parameters", f"commits are paused for {until - reading.head.timestamp} s more")


def check_times(reading: Reading) -> Iterator[Finding]:
    """Money cannot leave before it can be collected, nor a stake before it can be slashed."""
    bounds: dict[str, Any] = reading.ask("Parameters", "bounds")
    thaw = reading.ask("PaymentVault", "thawSeconds")
    if thaw <= longest_delay(bounds):
        yield off("PaymentVault", f"thaws in {thaw} s; a collection may take {longest_delay(bounds)} s")
    reach = reading.ask("Settlement", "ringSize") * bounds["minSettlementInterval"]
    if reach < bounds["maxDisputeWindow"]:
        yield off("Settlement", f"its ring fills in {reach} s, before the longest window has passed")
    unstake = reading.ask("OperatorRegistry", "unstakeSeconds")
    if unstake < least_unstake(bounds):
        yield off("OperatorRegistry", f"frees stakes in {unstake} s, before {least_unstake(bounds)} s")


def check_governance(reading: Reading) -> Iterator[Finding]:
    least = LEAST_GOVERNANCE[NAMES.index(reading.record.profile)]
    found = {
        "votingDelay": reading.ask("MarketGovernor", "votingDelay"),
        "votingPeriod": reading.ask("MarketGovernor", "votingPeriod"),
        "lateQuorumExtension": reading.ask("MarketGovernor", "lateQuorumVoteExtension"),
        "timelock": reading.ask("TimelockController", "getMinDelay"),
    }
    for name, value in found.items():
        if value < least[name]:
            subject = "TimelockController" if name == "timelock" else "MarketGovernor"
            yield off(subject, f"{name} is {value} s, below {least[name]} s")
