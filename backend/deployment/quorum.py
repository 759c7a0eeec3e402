"""Quorum arithmetic: whether proposals can pass, and how many accounts it takes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TOKEN = 10**18
"""Smallest units of one market token."""


@dataclass(frozen=True, slots=True)
class Quorum:
    """Supply, threshold and votes are in 10^-18 tokens.

    The quorum is a fraction of the whole supply. Votes for and abstentions count towards it.
    """

    supply: int
    percent: int
    threshold: int
    """Votes that a delegate needs to propose."""
    votes: Mapping[str, int]
    """Account -> votes that it can cast."""

    @property
    def needed(self) -> int:
        """Votes for a quorum, rounded down as in OpenZeppelin's `GovernorVotesQuorumFraction`."""
        return self.supply * self.percent // 100

    @property
    def total(self) -> int:
        """All votes that can be cast."""
        return sum(self.votes.values())

    @property
    def largest(self) -> tuple[str, int]:
        """The account with the most votes, and its votes."""
        return max(self.votes.items(), key=lambda item: item[1], default=("no account", 0))

    @property
    def min_accounts(self) -> int | None:
        """The smallest number of accounts that reach the quorum together; None if all together do not."""
        descending = sorted(self.votes.values(), reverse=True)
        return next((n for n, sum_ in enumerate(accumulate(descending), 1) if sum_ >= self.needed), None)

    def errors(self) -> Iterator[str]:
        """Reasons why no proposal can pass, or why one account decides alone."""
        if self.needed == 0:
            yield "the quorum is zero: every proposer decides alone"
        if self.total < self.needed:
            yield (
                f"{in_tokens(self.total)} votes are delegated and the quorum is {in_tokens(self.needed)}: "
                "no proposal can pass"
            )
        if self.largest[1] < self.threshold:
            yield (
                f"no account can propose: the largest delegate has {in_tokens(self.largest[1])} votes, "
                f"a proposal needs {in_tokens(self.threshold)}"
            )

    def warnings(self) -> Iterator[str]:
        """Concentrations of votes that holders should know of."""
        account, votes = self.largest
        if self.needed and votes >= self.needed:
            yield (
                f"{account} reaches the quorum of {in_tokens(self.needed)} alone, "
                f"with {in_tokens(votes)} votes"
            )
        if len(self.votes) > 1 and votes * 2 > self.total:
            yield f"{account} outvotes all others, with {in_tokens(votes)} of {in_tokens(self.total)} votes"


def in_tokens(amount: int) -> str:
    """Format an amount in 10^-18 tokens: `1,234,567`, `0.5`."""
    whole, rest = divmod(amount, TOKEN)
    return f"{whole:,}" + (f".{rest:018d}".rstrip("0") if rest else "")
