"""Limits of the waiting queue, which no payer can use up at the expense of the others."""

from __future__ import annotations

from collections import Counter


class QueueLimits:
    """Counts waiting requests and prompt tokens by payer. A payer's share is the larger of its fractions of
    the two limits, its dominant share (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011).
    """

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._requests: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self.num_requests = 0
        self.num_tokens = 0

    @property
    def num_payers(self) -> int:
        """Payers with waiting requests."""
        return len(self._requests)

    def enter(self, payer: str, num_tokens: int) -> None:
        """A request of `num_tokens` waits from now on."""
        self._count(payer, 1, num_tokens)

    def leave(self, payer: str, num_tokens: int) -> None:
        """A request of `num_tokens` no longer waits."""
        self._count(payer, -1, -num_tokens)

    def has_room(self, num_tokens: int) -> bool:
        """Whether one more request fits. If nothing waits, a request of any length fits."""
        if self.num_requests == 0:
            return True
        return self.num_requests < self._max_requests and self.num_tokens + num_tokens <= self._max_tokens

    def has_room_for(self, payer: str, num_tokens: int) -> bool:
        """Whether one more request of `payer` fits. No payer may occupy a larger share of the queue than is
        free: the dynamic threshold of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6 (2), 1998.
        """
        if self.num_requests == 0:
            return True
        free = 1 - self._dominant_share(self.num_requests, self.num_tokens)
        return self.has_room(num_tokens) and self.share(payer, 1, num_tokens) <= free

    def share(self, payer: str, more_requests: int = 0, more_tokens: int = 0) -> float:
        """The payer's share after adding `more_requests` and `more_tokens`."""
        return self._dominant_share(self._requests[payer] + more_requests, self._tokens[payer] + more_tokens)

    def heaviest_payer(self) -> str:
        """The payer with the largest share. At least one request must be waiting."""
        return max(self._requests, key=self.share)

    def _dominant_share(self, num_requests: int, num_tokens: int) -> float:
        return max(num_requests / self._max_requests, num_tokens / self._max_tokens)

    def _count(self, payer: str, num_requests: int, num_tokens: int) -> None:
        self.num_requests += num_requests
        self.num_tokens += num_tokens
        self._requests[payer] += num_requests
        self._tokens[payer] += num_tokens
        if self._requests[payer] == 0:
            del self._requests[payer], self._tokens[payer]
