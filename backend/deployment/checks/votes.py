"""Whether proposals can be made and passed, and by how few."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from backend.deployment.checks.reading import Finding, off, warning
from backend.deployment.quorum import Quorum, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reading import Reading

TOKEN, GOVERNOR = "MarketToken", "MarketGovernor"


def delegated(reading: Reading) -> Quorum:
    """The arithmetic of the votes that are delegated now."""
    votes: dict[str, int] = {}
    for event in reading.events(TOKEN, "DelegateVotesChanged"):
        votes[event.args["delegate"]] = event.args["newVotes"]
    return Quorum(
        supply=reading.ask(TOKEN, "totalSupply"),
        percent=reading.ask(GOVERNOR, "quorumNumerator"),
        threshold=reading.ask(GOVERNOR, "proposalThreshold"),
        votes={account: amount for account, amount in votes.items() if amount},
    )


def check_votes(reading: Reading) -> Iterator[Finding]:
    quorum = delegated(reading)
    yield from (off(GOVERNOR, message) for message in quorum.off())
    yield from (warning(GOVERNOR, message) for message in quorum.warnings())
    silent = {reading.at("TimelockController")} | {a for a, v in quorum.votes.items() if v >= quorum.needed}
    for account, amount in balances(reading).items():
        if amount >= quorum.needed and account not in silent:
            yield warning(TOKEN, f"{account} holds {tokens(amount)}, enough for the quorum once delegated")


def balances(reading: Reading) -> dict[str, int]:
    held: dict[str, int] = defaultdict(int)
    for event in reading.events(TOKEN, "Transfer"):
        held[event.args["from"]] -= event.args["value"]
        held[event.args["to"]] += event.args["value"]
    return held


def check_deployer(reading: Reading) -> Iterator[Finding]:
    deployer = reading.record.deployer
    if held := reading.ask(TOKEN, "balanceOf", deployer):
        yield off(TOKEN, f"the deployer still holds {tokens(held)}")
