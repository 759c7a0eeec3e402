"""Polling for what a market or a chain does a moment later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

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
