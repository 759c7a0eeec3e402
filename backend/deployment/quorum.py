"""The arithmetic of a quorum: who can pass a proposal, and whether anybody can."""

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
    """`votes`: account -> votes that it can cast. Supply, threshold and votes in 10^-18 tokens.

    The quorum is counted in votes for and abstentions, as a part of the whole supply, whoever holds it.
    """

    supply: int
    percent: int
    threshold: int
    votes: Mapping[str, int]

    @property
    def needed(self) -> int:
        """Rounded down, as `GovernorVotesQuorumFraction` does."""
        return self.supply * self.percent // 100

    @property
    def total(self) -> int:
        return sum(self.votes.values())

    @property
    def largest(self) -> tuple[str, int]:
        return max(self.votes.items(), key=lambda item: item[1], default=("nobody", 0))

    @property
    def fewest(self) -> int | None:
        """How many accounts reach the quorum together at least; None if all together do not."""
        descending = sorted(self.votes.values(), reverse=True)
        return next((n for n, sum_ in enumerate(accumulate(descending), 1) if sum_ >= self.needed), None)

    def off(self) -> Iterator[str]:
        """Why no proposal could pass."""
        if self.needed == 0:
            yield "the quorum is zero: anybody who may propose decides alone"
        if self.total < self.needed:
            yield (
                f"{tokens(self.total)} votes are delegated and the quorum is {tokens(self.needed)}: "
                "no proposal can pass"
            )
        if self.largest[1] < self.threshold:
            yield (
                f"nobody can propose: the largest delegate has {tokens(self.largest[1])} votes, "
                f"a proposal needs {tokens(self.threshold)}"
            )

    def warnings(self) -> Iterator[str]:
        """What a holder should know."""
        account, votes = self.largest
        if self.needed and votes >= self.needed:
            yield f"{account} reaches the quorum of {tokens(self.needed)} alone, with {tokens(votes)} votes"
        if len(self.votes) > 1 and votes * 2 > self.total:
            yield f"{account} outvotes all others, with {tokens(votes)} of {tokens(self.total)} votes"


def tokens(amount: int) -> str:
    """Of 10^-18 tokens, to be read."""
    whole, rest = divmod(amount, TOKEN)
    return f"{whole:,}" + (f".{rest:018d}".rstrip("0") if rest else "")
