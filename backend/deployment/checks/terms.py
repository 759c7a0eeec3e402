"""Compares a market with its terms."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from backend.deployment.checks.reader import Finding, error_at
from backend.deployment.contracts import resolve_holder
from backend.deployment.quorum import in_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reader import MarketReader
    from backend.deployment.terms import Terms


def check_terms(market: MarketReader, terms: Terms) -> Iterator[Finding]:
    """Compare everything but the distribution. A difference may be a later change by vote."""
    at = market.record.addresses
    expected_values = {
        ("Parameters", "profile"): terms.profile,
        ("PaymentVault", "token"): terms.payment_token,
        ("PaymentVault", "thawSeconds"): terms.thaw_seconds,
        ("TimelockController", "getMinDelay"): terms.timelock_seconds,
        ("MarketToken", "totalSupply"): terms.supply,
        ("MarketGovernor", "votingDelay"): terms.voting_rules["votingDelay"],
        ("MarketGovernor", "votingPeriod"): terms.voting_rules["votingPeriod"],
        ("MarketGovernor", "proposalThreshold"): terms.voting_rules["proposalThreshold"],
        ("MarketGovernor", "quorumNumerator"): terms.voting_rules["quorumPercent"],
        ("MarketGovernor", "lateQuorumVoteExtension"): terms.voting_rules["lateQuorumExtension"],
    }
    for (contract, getter), expected in expected_values.items():
        found = market.call(contract, getter)
        if found != expected:
            yield error_at(contract, f"{getter} is {found}, the terms say {expected}")
    for role, holders, expected_holders in (
        ("guardians", market.record.guardians, (terms.guardian,)),
        ("curators", market.record.curators, terms.curators),
    ):
        if sorted(holders) != sorted(expected_holders):
            yield error_at(
                "record", f"its {role} are {', '.join(holders)}, the terms say {', '.join(expected_holders)}"
            )
    current = market.call("Parameters", "current")
    for name, expected in {**terms.first_set, "treasury": resolve_holder(terms.treasury, at)}.items():
        if current[name] != expected:
            yield error_at("Parameters", f"{name} is {current[name]}, the terms say {expected}")


def check_distribution(market: MarketReader, terms: Terms) -> Iterator[Finding]:
    """Compare the deployer's transfers with the distribution. Later transfers of receivers do not count."""
    given: dict[str, int] = defaultdict(int)
    for event in market.events("MarketToken", "Transfer"):
        if event.args["from"] == market.record.deployer:
            given[event.args["to"]] += event.args["value"]
    expected = {
        resolve_holder(holder, market.record.addresses): amount
        for holder, amount in terms.distribution.items()
    }
    for account in sorted(given.keys() | expected.keys()):
        was, should = given.get(account, 0), expected.get(account, 0)  # type: ignore[call-overload]
        if was != should:
            yield error_at(
                "MarketToken",
                f"{account} was given {in_tokens(was)}, the terms say {in_tokens(should)}",
            )
