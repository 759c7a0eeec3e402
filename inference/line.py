"""How much may wait, and who must go when not all can: a bound that no payer can fill against the others."""

from __future__ import annotations

from collections import Counter


class Line:
    """Requests and prompt tokens that wait, by payer. A payer's share is the larger of its parts of either
    bound, its dominant share (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011).
    """

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._requests: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self.num_requests = 0
        self.num_tokens = 0

    def enter(self, payer: str, num_tokens: int) -> None:
        self._count(payer, 1, num_tokens)

    def leave(self, payer: str, num_tokens: int) -> None:
        self._count(payer, -1, -num_tokens)

    def has_room(self, num_tokens: int) -> bool:
        """For one more request. Alone it may be of any length."""
        if self.num_requests == 0:
            return True
        return self.num_requests < self._max_requests and self.num_tokens + num_tokens <= self._max_tokens

    def has_room_for(self, payer: str, num_tokens: int) -> bool:
        """For one more of this payer, if nobody may take more than what is left for the others: the dynamic
        threshold of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6 (2), 1998.
        """
        if self.num_requests == 0:
            return True
        left = 1 - self._part(self.num_requests, self.num_tokens)
        return self.has_room(num_tokens) and self.share(payer, 1, num_tokens) <= left

    def share(self, payer: str, more_requests: int = 0, more_tokens: int = 0) -> float:
        """The payer's, with so much more."""
        return self._part(self._requests[payer] + more_requests, self._tokens[payer] + more_tokens)

    def heaviest(self) -> str:
        """The payer with the largest share. Somebody must wait."""
        return max(self._requests, key=self.share)

    def _part(self, num_requests: int, num_tokens: int) -> float:
        return max(num_requests / self._max_requests, num_tokens / self._max_tokens)

    def _count(self, payer: str, num_requests: int, num_tokens: int) -> None:
        self.num_requests += num_requests
        self.num_tokens += num_tokens
        self._requests[payer] += num_requests
        self._tokens[payer] += num_tokens
        if self._requests[payer] == 0:
            del self._requests[payer], self._tokens[payer]
