"""Proposals of `MarketGovernor`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.ids import Account

_RESTRICTION = re.compile(r"#proposer=0x[0-9a-fA-F]{40}\Z")


def restrict(description: str, proposer: Account) -> str:
    """The description with the suffix by which OpenZeppelin's `Governor` accepts it of this proposer only.

    A proposal's id does not depend on its proposer: without the suffix, who copies a pending proposal can be
    first and cancel it, and a cancelled proposal cannot be proposed again.
    """
    return f"{without_restriction(description)}#proposer={proposer.lower()}"


def without_restriction(description: str) -> str:
    """The description as people read it, without the suffix of `restrict`."""
    return _RESTRICTION.sub("", description)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A governance proposal, without its state, which depends on time and is read from the chain.

    Votes are in 10^-18 market tokens, instants in unix seconds.
    """

    id: int
    proposer: Account
    description: str
    """As proposed, of which the proposal's id has the hash."""
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

    @property
    def text(self) -> str:
        """The description as people read it."""
        return without_restriction(self.description)
