"""Polling for what a market or a chain does a moment later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from backend.client.errors import ApiError, is_passing
from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
POLL_SECONDS = 0.25
CONFIRMED_SECONDS = 1800.0
"""More than a transaction takes to be indexed, also where the market waits for Ethereum's finality."""


def wait_until(probe: Callable[[], T | None], what: str, seconds: float) -> T:
    """Poll until `probe` returns something other than None. Errors: `Unavailable` after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := probe()) is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {seconds:.0f} s for {what}")
        time.sleep(POLL_SECONDS)
    return found


def wait_through_outages(probe: Callable[[], T | None], what: str, seconds: float) -> T:
    """`wait_until` for what goes on by itself: that it cannot be seen for a while, because the market, the
    database or the node is away or busy, says nothing about it. Errors: as of `wait_until` and others of
    `probe`.
    """
    return wait_until(lambda: _if_answered(probe), what, seconds)


def _if_answered(probe: Callable[[], T | None]) -> T | None:
    try:
        return probe()
    except Unavailable:
        return None
    except ApiError as error:
        if not is_passing(error):
            raise
        return None
