"""Bounds the event streams that are open at the same time."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.domain.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator


class TooManyStreams(Overloaded):
    """The network address has as many event streams open as it may."""


class OpenStreams:
    """Up to `most` for each address: a stream reads the database several times a second for as long as it is
    open, and counts as one request. Used from one event loop.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, address: str) -> Iterator[None]:
        """Raises TooManyStreams."""
        if self._open[address] >= self._most:
            raise TooManyStreams(
                f"This network address has {self._most} event streams open: close one, or ask for the state "
                "now and then instead."
            )
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
