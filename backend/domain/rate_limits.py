"""Counts of requests and tokens in windows of a minute, which rate limits are compared with."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted under a key in its window, and the seconds until the window ends."""

    total: int
    seconds_left: float
