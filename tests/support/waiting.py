"""Bounded waits for effects that a server has after its response, such as log lines and spans."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
SECONDS = 20.0
POLL_SECONDS = 0.01


def wait_for(probe: Callable[[], T], seconds: float = SECONDS) -> T:
    """The first truthy result of `probe`, or its last result after `seconds`, for an assertion to fail on."""
    deadline = time.monotonic() + seconds
    while not (found := probe()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return found
