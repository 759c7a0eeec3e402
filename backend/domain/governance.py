"""Proposals of `MarketGovernor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.ids import Account


@dataclass(frozen=True, slots=True)
class Proposal:
    """A governance proposal, without its state, which depends on time and is read from the chain.

    Votes are in 10^-18 market tokens, instants in unix seconds.
    """

    id: int
    proposer: Account
    description: str
    targets: tuple[Account, ...]
    values: tuple[int, ...]
    calldatas: tuple[str, ...]
    vote_starts_at: int
    vote_ends_at: int
    votes_against: int
    votes_for: int
    votes_abstain: int
    executable_at: int
    """End of the timelock's delay; zero until the proposal is queued."""
    block_number: int
