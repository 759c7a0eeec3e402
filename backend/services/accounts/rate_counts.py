"""What rate limits count, in windows of a minute: shared through PostgreSQL, or in this process's memory.

A key's window begins with its first count, and the first count after its end begins the next one.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from backend.domain.rate_limits import WINDOW_SECONDS, Count
from backend.services.channels.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backend.db.unit_of_work import Database

MAX_FORGOTTEN = 10_000
"""Counts that one statement deletes: callers wait for it."""


class RateCounts(Protocol):
    async def add(self, amounts: Mapping[str, int]) -> dict[str, Count]:
        """Add to the keys' counts; the counts right after it. An amount of 0 asks for the count.

        Errors: `DatabaseUnavailable`.
        """
        ...


class MemoryCounts:
    """Counts of this process. Used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[int, float]] = {}
        """Total, and the end of its window."""
        self._forget_at = 0.0

    async def add(self, amounts: Mapping[str, int]) -> dict[str, Count]:
        now = self._clock()
        if now >= self._forget_at:
            self._counts = {key: found for key, found in self._counts.items() if found[1] > now}
            self._forget_at = now + WINDOW_SECONDS
        return {key: self._add(key, amount, now) for key, amount in amounts.items()}

    def _add(self, key: str, amount: int, now: float) -> Count:
        total, ends_at = self._counts.get(key, (0, now))
        if ends_at <= now:
            total, ends_at = 0, now + WINDOW_SECONDS
        self._counts[key] = total + amount, ends_at
        return Count(total + amount, ends_at - now)


class SharedCounts:
    """Counts of all processes that use the PostgreSQL database, by its clock.

    Calls that arrive while a statement runs share the next one. Each gets a total of its own all the same, in
    the order of their calls.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._calls: GroupCommit[Mapping[str, int], dict[str, Count]] = GroupCommit(self._add, "rate-counts")
        self._forget_at = 0.0

    async def add(self, amounts: Mapping[str, int]) -> dict[str, Count]:
        return await self._calls.submit(amounts)

    def _add(self, calls: Sequence[Mapping[str, int]]) -> list[dict[str, Count]]:
        sums: Counter[str] = Counter()
        for amounts in calls:
            sums.update(amounts)
        with self._db.single_statements() as tx:
            counts = tx.rate_counts.add(sums)
            if time.monotonic() >= self._forget_at:
                is_done = tx.rate_counts.forget(MAX_FORGOTTEN) < MAX_FORGOTTEN
                self._forget_at = time.monotonic() + WINDOW_SECONDS * is_done
        return _one_by_one(calls, {key: counts[key].total - sums[key] for key in sums}, counts)


def _one_by_one(
    calls: Sequence[Mapping[str, int]], totals: dict[str, int], counts: Mapping[str, Count]
) -> list[dict[str, Count]]:
    """The counts right after each of the calls that were added together. `totals`: those before the first."""
    found = []
    for amounts in calls:
        for key, amount in amounts.items():
            totals[key] += amount
        found.append({key: Count(totals[key], counts[key].seconds_left) for key in amounts})
    return found
