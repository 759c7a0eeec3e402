"""The terms of a market, which are fixed at its deployment, and their validation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from backend.deployment.compromised_keys import compromised_accounts
from backend.deployment.profiles import (
    BOUNDS,
    LOCAL,
    MIN_GOVERNANCE,
    NAMES,
    PROFILE_OF_CHAIN,
    max_collection_seconds,
    out_of_bounds,
)
from backend.deployment.quorum import TOKEN, Quorum
from backend.domain.channels import MAX_THAW_SECONDS
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.ids import ZERO_ACCOUNT, Account, Hash32

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_VOTES = (1 << 208) - 1
"""Highest supply of the market token, whose checkpoints are 208 bits wide."""
TIMELOCK: Literal["timelock"] = "timelock"
"""Placeholder for the timelock's address, which is unknown before the deployment."""

Holder = Account | Literal["timelock"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Times are in seconds, ratios in ppm, market tokens in 10^-18."""

    chain_id: int
    profile: int
    payment_token: Account
    treasury: Holder
    guardian: Account
    curators: tuple[Account, ...]
    thaw_seconds: int
    timelock_seconds: int
    voting_rules: Mapping[str, int]
    """Solidity's `VotingRules`."""
    first_set: Mapping[str, int]
    """Solidity's `ParameterSet` without the treasury."""
    supply: int
    distribution: Mapping[Holder, int] = field(default_factory=dict)
    """Holder -> amount. The deployer keeps the rest of the supply, which only a local chain permits."""

    @property
    def digest(self) -> Hash32:
        """sha-256 of the canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return Hash32("0x" + hashlib.sha256(text.encode()).hexdigest())

    @property
    def quorum(self) -> Quorum:
        """The quorum if every holder but the timelock delegates to itself."""
        votable = {str(h): amount for h, amount in self.distribution.items() if h != TIMELOCK}
        return Quorum(
            self.supply, self.voting_rules["quorumPercent"], self.voting_rules["proposalThreshold"], votable
        )

    def accounts(self) -> Iterator[tuple[str, Account]]:
        """Every account in the terms, with the field that names it."""
        yield "payment_token", self.payment_token
        if self.treasury != TIMELOCK:
            yield "treasury", self.treasury
        yield "guardian", self.guardian
        yield from ((f"curators.{n}", account) for n, account in enumerate(self.curators))
        yield from (("distribution", holder) for holder in self.distribution if holder != TIMELOCK)


def validate(terms: Terms) -> dict[str, str]:
    """All errors by field of the terms; empty if a market can be deployed on them."""
    found: dict[str, list[str]] = {}
    for check in (_profile, _accounts, _times, _parameters, _voting, _distribution):
        for field_name, error in check(terms):
            found.setdefault(field_name, []).append(error)
    return {field_name: "; ".join(errors) for field_name, errors in found.items()}


def _profile(terms: Terms) -> Iterator[tuple[str, str]]:
    expected = PROFILE_OF_CHAIN.get(terms.chain_id, terms.profile)
    if terms.profile == LOCAL:
        yield "profile", "`local` with its windows of seconds is deployed by `loraledger up` only"
    elif terms.profile != expected:
        yield "profile", f"chain {terms.chain_id} needs `{NAMES[expected]}`: its answer times fit its halts"


def _accounts(terms: Terms) -> Iterator[tuple[str, str]]:
    is_public = terms.chain_id != LOCAL_CHAIN_ID
    for field_name, account in terms.accounts():
        if account == ZERO_ACCOUNT:
            yield field_name, "is the zero address"
        elif account[2:4] * 20 == account[2:]:
            yield field_name, f"{account} is a placeholder"
        elif is_public and account in compromised_accounts():
            yield field_name, f"the private key of {account} is public"
    if len(set(terms.curators)) < len(terms.curators):
        yield "curators", "names an account twice"


def _times(terms: Terms) -> Iterator[tuple[str, str]]:
    bounds = BOUNDS[terms.profile]
    if not max_collection_seconds(bounds) < terms.thaw_seconds <= MAX_THAW_SECONDS:
        yield "thaw_seconds", f"must exceed {max_collection_seconds(bounds)} and not {MAX_THAW_SECONDS}"
    if terms.timelock_seconds < (least := MIN_GOVERNANCE[terms.profile]["timelock"]):
        yield "timelock_seconds", f"must be at least {least} with profile `{NAMES[terms.profile]}`"


PARAMETER_FIELDS = {
    "feePpm": "fee_ppm",
    "stakeCoverPpm": "stake_cover_ppm",
    "disputeWindow": "dispute_window_seconds",
    "minContributorsPpm": "min_contributors_ppm",
    "minOperatorPpm": "min_operator_ppm",
    "maxOperatorPpm": "max_operator_ppm",
    "challengerPpm": "challenger_ppm",
}
"""Field of `ParameterSet` -> field of a terms file."""
VOTING_FIELDS = {
    "votingDelay": "delay_seconds",
    "votingPeriod": "period_seconds",
    "lateQuorumExtension": "late_quorum_extension_seconds",
    "quorumPercent": "quorum_percent",
    "proposalThreshold": "proposal_threshold",
}
"""Field of `VotingRules` -> field of a terms file."""


def _parameters(terms: Terms) -> Iterator[tuple[str, str]]:
    for name, error in out_of_bounds(terms.first_set, BOUNDS[terms.profile]):
        yield f"parameters.{PARAMETER_FIELDS[name]}", error


def _voting(terms: Terms) -> Iterator[tuple[str, str]]:
    rules = terms.voting_rules
    for name, least in MIN_GOVERNANCE[terms.profile].items():
        if name != "timelock" and rules[name] < least:
            yield (
                f"voting.{VOTING_FIELDS[name]}",
                f"must be at least {least} with profile `{NAMES[terms.profile]}`",
            )
    if not 1 <= rules["quorumPercent"] <= 100:
        yield "voting.quorum_percent", f"{rules['quorumPercent']} is outside 1 to 100"
    if not terms.distribution:
        return
    votable = terms.quorum.total
    if terms.quorum.needed > votable:
        yield (
            "voting.quorum_percent",
            "the quorum exceeds the votes of all holders (the timelock has no vote)",
        )
    if rules["proposalThreshold"] > votable:
        yield "voting.proposal_threshold", "exceeds the votes of all holders (the timelock has no vote)"


def _distribution(terms: Terms) -> Iterator[tuple[str, str]]:
    if not 0 < terms.supply <= MAX_VOTES:
        yield "supply", f"must be 1 to {MAX_VOTES // TOKEN}"
    if terms.profile == LOCAL and not terms.distribution:
        return
    total = sum(terms.distribution.values())
    if total != terms.supply:
        yield "distribution", f"adds up to {total // TOKEN}, not to the supply of {terms.supply // TOKEN}"
    for holder, amount in terms.distribution.items():
        if amount <= 0:
            yield "distribution", f"{holder} gets nothing"
