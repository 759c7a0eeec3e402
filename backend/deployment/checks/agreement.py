"""Whether a market is what its terms say."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from backend.deployment.checks.reading import Finding, off
from backend.deployment.contracts import resolve
from backend.deployment.quorum import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reading import Reading
    from backend.deployment.terms import Terms


def check_terms(reading: Reading, terms: Terms) -> Iterator[Finding]:
    """Governance may have changed some of it since, by vote."""
    at = reading.record.addresses
    facts = {
        ("Parameters", "profile"): terms.profile,
        ("PaymentVault", "token"): terms.payment_token,
        ("PaymentVault", "thawSeconds"): terms.thaw_seconds,
        ("OperatorRegistry", "unstakeSeconds"): terms.unstake_seconds,
        ("TimelockController", "getMinDelay"): terms.timelock_seconds,
        ("MarketToken", "totalSupply"): terms.supply,
        ("MarketGovernor", "votingDelay"): terms.voting_rules["votingDelay"],
        ("MarketGovernor", "votingPeriod"): terms.voting_rules["votingPeriod"],
        ("MarketGovernor", "proposalThreshold"): terms.voting_rules["proposalThreshold"],
        ("MarketGovernor", "quorumNumerator"): terms.voting_rules["quorumPercent"],
        ("MarketGovernor", "lateQuorumVoteExtension"): terms.voting_rules["lateQuorumExtension"],
    }
    for (contract, getter), expected in facts.items():
        found = reading.ask(contract, getter)
        if found != expected:
            yield off(contract, f"{getter} is {found}, the terms say {expected}")
    for role, holders, promised in (
        ("guardians", reading.record.guardians, (terms.guardian,)),
        ("curators", reading.record.curators, terms.curators),
    ):
        if sorted(holders) != sorted(promised):
            yield off("record", f"its {role} are {', '.join(holders)}, the terms say {', '.join(promised)}")
    current = reading.ask("Parameters", "current")
    for name, expected in {**terms.first_set, "treasury": resolve(terms.treasury, at)}.items():
        if current[name] != expected:
            yield off("Parameters", f"{name} is {current[name]}, the terms say {expected}")


def check_distribution(reading: Reading, terms: Terms) -> Iterator[Finding]:
    """What the deployer handed out, whatever its receivers did with it since."""
    given: dict[str, int] = defaultdict(int)
    for event in reading.events("MarketToken", "Transfer"):
        if event.args["from"] == reading.record.deployer:
            given[event.args["to"]] += event.args["value"]
    promised = {
        resolve(holder, reading.record.addresses): amount for holder, amount in terms.distribution.items()
    }
    for account in sorted(given.keys() | promised.keys()):
        was, should = given.get(account, 0), promised.get(account, 0)  # type: ignore[call-overload]
        if was != should:
            yield off("MarketToken", f"{account} was given {tokens(was)}, the terms say {tokens(should)}")
