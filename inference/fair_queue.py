"""Who is next among waiting requests: capacity is divided fairly, in tokens, first among payers, then among
the adapters of each payer.

Virtual token counters, algorithm 2 of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024:
each client's counter grows with the tokens it is served; the smallest is next; who comes back from idling
starts at the smallest of those who wait, so that idling saves up nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.request import Request

PROMPT_WEIGHT = 1
ANSWER_WEIGHT = 2
"""As in the paper: a token of an answer takes a step of its own, those of a prompt share one."""

_PUSHES_PER_PRUNING = 1024
_MAX_REMEMBERED = 4096

K = TypeVar("K")


class TokenCounters(Generic[K]):
    """Weighted tokens served to each key, and which keys wait."""

    def __init__(self) -> None:
        self._served: dict[K, int] = {}
        self._waiting: dict[K, None] = {}
        self._last: K | None = None  # the last one that stopped waiting

    def __contains__(self, key: K) -> bool:
        return key in self._served

    @property
    def is_anyone_waiting(self) -> bool:
        return bool(self._waiting)

    def join(self, key: K) -> None:
        """The key waits from now on."""
        if key not in self._waiting:
            self._served[key] = max(self._served.get(key, 0), self._level())
            self._waiting[key] = None

    def leave(self, key: K) -> None:
        """It waits no longer; what it was served is remembered."""
        del self._waiting[key]
        self._last = key

    def charge(self, key: K, num_tokens: int) -> None:
        self._served[key] = self._served.get(key, self._level()) + num_tokens

    def fairest(self) -> list[K]:
        """Those that wait, the one served least first; among equals, who has waited longest."""
        return sorted(self._waiting, key=self._served.__getitem__)

    def prune(self) -> None:
        """Forget those that `join` would lift anyway, and of the rest all but the most indebted: else each
        stranger who ever came would be remembered.
        """
        level = self._level()
        kept = {*self._waiting, self._last}
        debtors = (item for item in self._served.items() if item[1] > level and item[0] not in kept)
        remembered = heapq.nlargest(_MAX_REMEMBERED, debtors, key=itemgetter(1))
        self._served = {key: num for key, num in self._served.items() if key in kept} | dict(remembered)

    def _level(self) -> int:
        """Where a newcomer starts."""
        if self._waiting:
            return min(self._served[key] for key in self._waiting)
        return 0 if self._last is None else self._served[self._last]


class FairQueue:
    """Waiting requests of one priority class. Within a payer and an adapter the order is that of arrival."""

    def __init__(self) -> None:
        self._payers = TokenCounters[str]()
        self._adapters: dict[str, TokenCounters[str | None]] = {}
        self._flows: dict[tuple[str, str | None], deque[Request]] = {}
        self._num_pushed = 0

    def __iter__(self) -> Iterator[Request]:
        for flow in self._flows.values():
            yield from flow

    def push(self, request: Request) -> None:
        payer, digest = request.payer, request.adapter_digest
        self._flows.setdefault((payer, digest), deque()).append(request)
        self._payers.join(payer)
        self._adapters.setdefault(payer, TokenCounters()).join(digest)
        self._num_pushed += 1
        if self._num_pushed % _PUSHES_PER_PRUNING == 0:
            self._prune()

    def remove(self, request: Request) -> None:
        payer, digest = request.payer, request.adapter_digest
        flow = self._flows[payer, digest]
        flow.remove(request)
        if flow:
            return
        del self._flows[payer, digest]
        self._adapters[payer].leave(digest)
        if not self._adapters[payer].is_anyone_waiting:
            self._payers.leave(payer)

    def charge(self, request: Request, num_tokens: int) -> None:
        """`num_tokens`, weighted, were served to a request that came from this queue."""
        self._payers.charge(request.payer, num_tokens)
        self._adapters.setdefault(request.payer, TokenCounters()).charge(request.adapter_digest, num_tokens)

    def heads(self) -> list[list[Request]]:
        """A list for each payer, the fairest first: the first request of each of its adapters, likewise."""
        return [
            [self._flows[payer, digest][0] for digest in self._adapters[payer].fairest()]
            for payer in self._payers.fairest()
        ]

    def _prune(self) -> None:
        self._payers.prune()
        self._adapters = {p: counters for p, counters in self._adapters.items() if p in self._payers}
        for counters in self._adapters.values():
            counters.prune()
