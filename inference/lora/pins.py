"""Who waits for which adapters. Whoever came first comes first."""

from __future__ import annotations

import math
from collections import defaultdict


class Pins:
    """A holder (an adapter's digest, or a blend's) pins the digests that it needs, all until it is dropped.

    Ages settle who gives way to whom: a blend that has one of its adapters and waits for room for the other
    must not be able to stand against a second one that does the same.
    """

    def __init__(self) -> None:
        self._digests: dict[str, set[str]] = {}  # by holder
        self._holders: defaultdict[str, set[str]] = defaultdict(set)  # by digest
        self._ages: dict[str, int] = {}  # by holder
        self._clock = 0

    @property
    def holders(self) -> set[str]:
        return set(self._digests)

    @property
    def digests(self) -> list[str]:
        """What anybody needs."""
        return list(self._holders)

    def add(self, digest: str, holder: str) -> None:
        if holder not in self._digests:
            self._digests[holder] = set()
            self._clock += 1
            self._ages[holder] = self._clock
        self._digests[holder].add(digest)
        self._holders[digest].add(holder)

    def drop(self, holder: str) -> None:
        for digest in self._digests.pop(holder, ()):
            self._holders[digest].discard(holder)
            if not self._holders[digest]:
                del self._holders[digest]
        self._ages.pop(holder, None)

    def age(self, digest: str) -> float:
        """When the oldest of its holders came; infinity if nobody needs it."""
        return min((self._ages[holder] for holder in self._holders.get(digest, ())), default=math.inf)
