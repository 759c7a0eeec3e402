"""Polling for what a market or a chain does a moment later."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from backend.client.errors import ApiError, is_passing
from backend.domain.errors import DiskFull, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
POLL_SECONDS = 0.25
OUTAGE_POLLS = 8
"""Polls that are left out after one that found an outage."""
CONFIRMED_SECONDS = 1800.0
"""More than a transaction takes to be indexed, also where the market waits for Ethereum's finality."""

log = logging.getLogger(__name__)


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
    database or the node is away or busy, says nothing about it. The reason is logged once for each outage.

    Errors: as of `wait_until`, with the reason if the outage lasts; others of `probe`; `DiskFull`.
    """
    outage = _Outage()
    try:
        return wait_until(lambda: outage.ask(probe), what, seconds)
    except Unavailable as error:
        if outage.reason is None or isinstance(error, DiskFull):
            raise
        raise Unavailable(f"{error}: {outage.reason}") from error


class _Outage:
    def __init__(self) -> None:
        self.reason: Exception | None = None

    def ask(self, probe: Callable[[], T | None]) -> T | None:
        try:
            found = probe()
        except DiskFull:  # a person must act
            raise
        except Unavailable as error:
            self._begin(error)
        except ApiError as error:
            if not is_passing(error):
                raise
            self._begin(error)
        else:
            self.reason = None
            return found
        return None

    def _begin(self, reason: Exception) -> None:
        if self.reason is None:
            log.warning("%s; still waiting", reason)
        self.reason = reason
        time.sleep(OUTAGE_POLLS * POLL_SECONDS)
