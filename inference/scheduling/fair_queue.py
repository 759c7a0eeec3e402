"""Fair queue of waiting requests: divides capacity, in tokens, among payers, then among each payer's
adapters.

Virtual token counters of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024: each client's
counter grows with the tokens it is served, and the client with the smallest counter is next. A client that
returns from idling starts at the counter of the client that was next last, as in Goyal et al., "Start-time
Fair Queueing", SIGCOMM 1996, so that idling earns no credit, and waiting alone remits no debt.
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
"""Weights of Sheng et al.: each answer token needs its own step, while the tokens of a prompt share one."""

_PUSHES_PER_PRUNING = 1024
_MAX_IDLE_KEYS = 4096

K = TypeVar("K")


class TokenCounters(Generic[K]):
    """Weighted tokens served to each key, and the keys that wait."""

    def __init__(self) -> None:
        self._served: dict[K, int] = {}
        self._waiting: dict[K, None] = {}
        self._level = 0  # the largest counter of a key when it was served; new keys start at it

    def __contains__(self, key: K) -> bool:
        return key in self._served

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def join(self, key: K) -> None:
        """Mark the key as waiting."""
        if key not in self._waiting:
            self._served[key] = max(self._served.get(key, 0), self._level)
            self._waiting[key] = None

    def leave(self, key: K) -> None:
        """Mark the key as not waiting. Its counter is kept."""
        del self._waiting[key]

    def serve(self, key: K) -> None:
        """A request of the waiting key starts."""
        self._level = max(self._level, self._served[key])

    def charge(self, key: K, num_tokens: int) -> None:
        self._served[key] = self._served.get(key, self._level) + num_tokens

    def forfeit(self, key: K) -> None:
        """Give up what the waiting key has been served less than the others."""
        self._served[key] = max(self._served[key], self._level)

    def fairest(self) -> list[K]:
        """Waiting keys, least served first; equal ones in the order in which they started to wait."""
        return sorted(self._waiting, key=self._served.__getitem__)

    def prune(self) -> None:
        """Drop idle keys whose counter `join` would raise anyway, and all others but the largest: otherwise
        every key that ever occurred would stay in memory.
        """
        idle = ((k, num) for k, num in self._served.items() if num > self._level and k not in self._waiting)
        largest = heapq.nlargest(_MAX_IDLE_KEYS, idle, key=itemgetter(1))
        self._served = {key: self._served[key] for key in self._waiting} | dict(largest)


class FairQueue:
    """Waiting requests of one priority class, and those of lower classes that joined it by ageing. Within a
    payer and an adapter the order is that of joining.
    """

    def __init__(self, priority: int) -> None:
        self._priority = priority
        self._num_own = 0
        self._payers = TokenCounters[str]()
        self._adapters: dict[str, TokenCounters[str | None]] = {}
        self._flows: dict[tuple[str, str | None], deque[Request]] = {}
        self._num_pushed = 0

    def __iter__(self) -> Iterator[Request]:
        """The class's own requests."""
        return (each for flow in self._flows.values() for each in flow if each.priority == self._priority)

    @property
    def has_own(self) -> bool:
        """Whether requests of the class itself wait."""
        return self._num_own > 0

    def push(self, request: Request) -> None:
        payer, digest = request.payer, request.adapter_digest
        self._num_own += request.priority == self._priority
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
        self._num_own -= request.priority == self._priority
        if flow:
            return
        del self._flows[payer, digest]
        self._adapters[payer].leave(digest)
        if not self._adapters[payer].has_waiting:
            self._payers.leave(payer)

    def serve(self, request: Request) -> None:
        """A waiting request starts."""
        self._payers.serve(request.payer)
        self._adapters[request.payer].serve(request.adapter_digest)

    def charge(self, request: Request, num_tokens: int) -> None:
        """Count `num_tokens`, weighted, as served to a request of this queue."""
        self._payers.charge(request.payer, num_tokens)
        self._adapters.setdefault(request.payer, TokenCounters()).charge(request.adapter_digest, num_tokens)

    def forfeit(self, request: Request) -> None:
        """The request waits for others of its own payer. The payer gets no credit for the wait."""
        self._payers.forfeit(request.payer)

    def heads(self) -> list[list[Request]]:
        """For each payer, the first request of each of its adapters; payers and adapters least served
        first.
        """
        return [
            [self._flows[payer, digest][0] for digest in self._adapters[payer].fairest()]
            for payer in self._payers.fairest()
        ]

    def _prune(self) -> None:
        self._payers.prune()
        self._adapters = {p: counters for p, counters in self._adapters.items() if p in self._payers}
        for counters in self._adapters.values():
            counters.prune()
