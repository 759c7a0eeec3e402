"""Rows of the adapter arena that running requests use: what they cost, and how many a payer may use.

A running request occupies one of `max_running` places and its part of the rows of its adapter. It is charged
for the scarcer of both, its dominant share (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from inference.scheduling.fair_queue import ANSWER_WEIGHT

if TYPE_CHECKING:
    from inference.request import Request

_MAX_PARTS = 4
"""The rows are divided among the payers, into at most this many parts."""

K = TypeVar("K")


class RowShares:
    """Counts running requests by payer and by adapter."""

    def __init__(self, num_rows: int, max_running: int) -> None:
        self._num_rows = num_rows
        self._max_running = max_running
        self._requests: Counter[str] = Counter()  # by payer
        self._users: Counter[str | None] = Counter()  # by adapter
        self._uses: Counter[tuple[str, str | None]] = Counter()  # by payer and adapter
        self._rows: Counter[str] = Counter()  # by payer, those of an adapter once
        self._rows_of: dict[str | None, int] = {}  # by adapter in use

    def is_in_use(self, digest: str | None) -> bool:
        """Whether a running request uses the adapter."""
        return digest in self._users

    def start(self, request: Request, num_rows: int) -> None:
        """The request runs from now on, with an adapter of `num_rows` rows."""
        payer, digest = request.payer, request.adapter_digest
        self._rows_of[digest] = num_rows
        self._requests[payer] += 1
        self._users[digest] += 1
        self._uses[payer, digest] += 1
        if self._uses[payer, digest] == 1:
            self._rows[payer] += num_rows

    def end(self, request: Request) -> None:
        """The request no longer runs."""
        payer, digest = request.payer, request.adapter_digest
        if _drop(self._uses, (payer, digest)):
            self._rows[payer] -= self._rows_of[digest]
        if _drop(self._users, digest):
            del self._rows_of[digest]
        if _drop(self._requests, payer):
            del self._rows[payer]

    def cost(self, request: Request) -> int:
        """Weight of an answer token of a running request. Requests of one adapter share its rows."""
        digest = request.adapter_digest
        places = self._rows_of[digest] * self._max_running
        return max(ANSWER_WEIGHT, -(-ANSWER_WEIGHT * places // (self._num_rows * self._users[digest])))

    def exceeds(self, payer: str, num_rows: int, num_waiting: int) -> bool:
        """Whether `num_rows` more exceed the part of the payer while `num_waiting` payers wait. One adapter
        alone never does.
        """
        used = self._rows[payer]
        num_payers = max(num_waiting, len(self._requests))
        return used > 0 and used + num_rows > self._num_rows // min(num_payers, _MAX_PARTS)

    def check_integrity(self, running: list[Request]) -> None:
        """Compare with the running requests. Raises `AssertionError`."""
        if Counter((each.payer, each.adapter_digest) for each in running) != self._uses:
            raise AssertionError(f"running requests miscounted: {self._uses}")
        rows: Counter[str] = Counter()
        for payer, digest in self._uses:
            rows[payer] += self._rows_of[digest]
        if rows != self._rows or self._rows_of.keys() != self._users.keys():
            raise AssertionError(f"rows of running requests miscounted: {self._rows}, not {rows}")


def _drop(counts: Counter[K], key: K) -> bool:
    """Count one less; True if none is left."""
    counts[key] -= 1
    if counts[key]:
        return False
    del counts[key]
    return True
