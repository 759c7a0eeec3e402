"""Checks whether proposals can be made and pass, and how concentrated the votes are."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from backend.deployment.checks.reader import Finding, error_at, warning_at
from backend.deployment.quorum import Quorum, in_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reader import MarketReader

TOKEN, GOVERNOR = "MarketToken", "MarketGovernor"


def delegated_quorum(market: MarketReader) -> Quorum:
    """The quorum rule and the votes of each delegate, read from the chain."""
    votes: dict[str, int] = {}
    for event in market.events(TOKEN, "DelegateVotesChanged"):
        votes[event.args["delegate"]] = event.args["newVotes"]
    return Quorum(
        supply=market.call(TOKEN, "totalSupply"),
        percent=market.call(GOVERNOR, "quorumNumerator"),
        threshold=market.call(GOVERNOR, "proposalThreshold"),
        votes={account: amount for account, amount in votes.items() if amount},
    )


def check_votes(market: MarketReader) -> Iterator[Finding]:
    quorum = delegated_quorum(market)
    yield from (error_at(GOVERNOR, message) for message in quorum.errors())
    yield from (warning_at(GOVERNOR, message) for message in quorum.warnings())
    excluded = {market.address("TimelockController")} | {
        account for account, votes in quorum.votes.items() if votes >= quorum.needed
    }
    for account, amount in balances(market).items():
        if amount >= quorum.needed and account not in excluded:
            yield warning_at(TOKEN, f"{account} holds {in_tokens(amount)}, enough to reach the quorum alone")


def balances(market: MarketReader) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for event in market.events(TOKEN, "Transfer"):
        totals[event.args["from"]] -= event.args["value"]
        totals[event.args["to"]] += event.args["value"]
    return totals


def check_deployer(market: MarketReader) -> Iterator[Finding]:
    deployer = market.record.deployer
    if held := market.call(TOKEN, "balanceOf", deployer):
        yield error_at(TOKEN, f"the deployer still holds {in_tokens(held)}")
