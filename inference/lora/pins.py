"""Pins of adapters that waiting requests need, ordered by arrival."""

from __future__ import annotations

import math
from collections import defaultdict


class Pins:
    """A holder (the digest of an adapter or of a blend) pins the digests that it needs, until it is dropped.

    Earlier holders take precedence over later ones. Without an order, two blends that each have one adapter
    resident and wait for memory for another would block each other.
    """

    def __init__(self) -> None:
        self._digests: dict[str, set[str]] = {}  # by holder
        self._holders: defaultdict[str, set[str]] = defaultdict(set)  # by digest
        self._arrivals: dict[str, int] = {}  # by holder
        self._clock = 0

    @property
    def holders(self) -> set[str]:
        return set(self._digests)

    @property
    def digests(self) -> list[str]:
        """All pinned digests."""
        return list(self._holders)

    def add(self, digest: str, holder: str) -> None:
        if holder not in self._digests:
            self._digests[holder] = set()
            self._clock += 1
            self._arrivals[holder] = self._clock
        self._digests[holder].add(digest)
        self._holders[digest].add(holder)

    def drop(self, holder: str) -> None:
        """Remove all pins of `holder`."""
        for digest in self._digests.pop(holder, ()):
            self._holders[digest].discard(holder)
            if not self._holders[digest]:
                del self._holders[digest]
        self._arrivals.pop(holder, None)

    def arrival(self, digest: str) -> float:
        """Sequence number of its earliest holder; infinity if it is not pinned."""
        return min((self._arrivals[holder] for holder in self._holders.get(digest, ())), default=math.inf)
