"""What is fixed when a market is deployed, and what is wrong or unwise about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from backend.deployment.profiles import (
    BOUNDS,
    LEAST_GOVERNANCE,
    LOCAL,
    MAX_THAW_SECONDS,
    NAMES,
    least_unstake,
    longest_delay,
    out_of_bounds,
)
from backend.deployment.quorum import TOKEN, Quorum
from backend.deployment.well_known import well_known_accounts
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.ids import ZERO_ACCOUNT, Account, Hash32

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_VOTES = (1 << 208) - 1
"""Most that the market token can count."""
TIMELOCK: Literal["timelock"] = "timelock"
"""Stands for the timelock's address, which is not known before it is deployed."""

Holder = Account | Literal["timelock"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Times in seconds, ratios in ppm, market tokens in 10^-18."""

    chain_id: int
    profile: int
    payment_token: Account
    treasury: Holder
    guardian: Account
    curators: tuple[Account, ...]
    thaw_seconds: int
    unstake_seconds: int
    timelock_seconds: int
    voting_rules: Mapping[str, int]
    """As Solidity's `VotingRules`."""
    first_set: Mapping[str, int]
    """As Solidity's `ParameterSet`, without the treasury."""
    supply: int
    distribution: Mapping[Holder, int] = field(default_factory=dict)
    """Holder -> amount. What it leaves of the supply stays with the deployer: on a local chain only."""

    @property
    def digest(self) -> Hash32:
        """Tells these terms from others: sha-256 of their canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return Hash32("0x" + hashlib.sha256(text.encode()).hexdigest())

    @property
    def quorum(self) -> Quorum:
        """The arithmetic of votes as if every holder but the timelock had delegated to itself."""
        votable = {str(h): amount for h, amount in self.distribution.items() if h != TIMELOCK}
        return Quorum(
            self.supply, self.voting_rules["quorumPercent"], self.voting_rules["proposalThreshold"], votable
        )

    def parties(self) -> Iterator[tuple[str, Account]]:
        """Every account named, with the place that names it."""
        yield "payment_token", self.payment_token
        if self.treasury != TIMELOCK:
            yield "treasury", self.treasury
        yield "guardian", self.guardian
        yield from ((f"curators.{n}", account) for n, account in enumerate(self.curators))
        yield from (("distribution", holder) for holder in self.distribution if holder != TIMELOCK)


def faults(terms: Terms) -> dict[str, str]:
    """Place in the terms -> what is wrong there, all at once; empty when a market may be deployed on them."""
    found: dict[str, list[str]] = {}
    for check in (_profile, _parties, _times, _parameters, _voting, _distribution):
        for place, why in check(terms):
            found.setdefault(place, []).append(why)
    return {place: "; ".join(reasons) for place, reasons in found.items()}


def _profile(terms: Terms) -> Iterator[tuple[str, str]]:
    if terms.profile == LOCAL and terms.chain_id != LOCAL_CHAIN_ID:
        yield "profile", f"`local` with its windows of seconds is refused on chain {terms.chain_id}"


def _parties(terms: Terms) -> Iterator[tuple[str, str]]:
    public = terms.chain_id != LOCAL_CHAIN_ID
    for place, account in terms.parties():
        if account == ZERO_ACCOUNT:
            yield place, "is the zero address"
        elif account[2:4] * 20 == account[2:]:
            yield place, f"{account} is a placeholder"
        elif public and account in well_known_accounts():
            yield place, f"everybody has the key of {account}"
    if len(set(terms.curators)) < len(terms.curators):
        yield "curators", "names an account twice"


def _times(terms: Terms) -> Iterator[tuple[str, str]]:
    bounds = BOUNDS[terms.profile]
    if not longest_delay(bounds) < terms.thaw_seconds <= MAX_THAW_SECONDS:
        yield "thaw_seconds", f"must exceed {longest_delay(bounds)} and not {MAX_THAW_SECONDS}"
    if terms.unstake_seconds < least_unstake(bounds):
        yield "unstake_seconds", f"must be at least {least_unstake(bounds)}"
    if terms.timelock_seconds < (least := LEAST_GOVERNANCE[terms.profile]["timelock"]):
        yield "timelock_seconds", f"must be at least {least} with profile `{NAMES[terms.profile]}`"


PARAMETERS = {
    "feePpm": "fee_ppm",
    "stakeCoverPpm": "stake_cover_ppm",
    "disputeWindow": "dispute_window_seconds",
    "minContributorsPpm": "min_contributors_ppm",
    "minOperatorPpm": "min_operator_ppm",
    "maxOperatorPpm": "max_operator_ppm",
    "challengerPpm": "challenger_ppm",
    "demandBond": "demand_bond",
}
"""Fields of `ParameterSet` -> their names in a terms file."""
VOTING = {
    "votingDelay": "delay_seconds",
    "votingPeriod": "period_seconds",
    "lateQuorumExtension": "late_quorum_extension_seconds",
    "quorumPercent": "quorum_percent",
    "proposalThreshold": "proposal_threshold",
}
"""Fields of `VotingRules` -> their names in a terms file."""


def _parameters(terms: Terms) -> Iterator[tuple[str, str]]:
    for name, why in out_of_bounds(terms.first_set, BOUNDS[terms.profile]):
        yield f"parameters.{PARAMETERS[name]}", why


def _voting(terms: Terms) -> Iterator[tuple[str, str]]:
    rules = terms.voting_rules
    for name, least in LEAST_GOVERNANCE[terms.profile].items():
        if name != "timelock" and rules[name] < least:
            yield f"voting.{VOTING[name]}", f"must be at least {least} with profile `{NAMES[terms.profile]}`"
    if not 1 <= rules["quorumPercent"] <= 100:
        yield "voting.quorum_percent", f"{rules['quorumPercent']} is outside 1 to 100"
    if not terms.distribution:
        return
    votable = terms.quorum.total
    if terms.quorum.needed > votable:
        yield "voting.quorum_percent", "the quorum exceeds all that can ever vote: the timelock has no vote"
    if rules["proposalThreshold"] > votable:
        yield "voting.proposal_threshold", "exceeds all that can ever vote: the timelock has no vote"


def _distribution(terms: Terms) -> Iterator[tuple[str, str]]:
    if not 0 < terms.supply <= MAX_VOTES:
        yield "supply", f"must be 1 to {MAX_VOTES // TOKEN}"
    if terms.profile == LOCAL and not terms.distribution:
        return
    given = sum(terms.distribution.values())
    if given != terms.supply:
        yield "distribution", f"adds up to {given // TOKEN}, not to the supply of {terms.supply // TOKEN}"
    for holder, amount in terms.distribution.items():
        if amount <= 0:
            yield "distribution", f"{holder} gets nothing"
