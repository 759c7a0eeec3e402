"""Measurements of one run of a workload. Standard library only: peers import this module."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Measurement:
    """Result of one run. `seconds` is wall time from the first submission to the last token."""

    seconds: float
    num_tokens: int  # new tokens, without prompts
    ttft_seconds: list[float]  # of each timed request, from its submission
    itl_seconds: list[float]  # gaps between consecutive tokens of a request, for all requests
    rss_bytes: int  # at the end of the run
    peak_rss_bytes: int  # since the process started
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


class TokenClock:
    """Records when each request was submitted and when each of its tokens arrived."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._submitted: dict[str, float] = {}
        self._last_token: dict[str, float] = {}
        self._ended = self._began
        self._num_tokens = 0
        self._ttft: list[float] = []
        self._itl: list[float] = []

    def submit(self, request_id: str, *, is_timed: bool = True) -> None:
        """`is_timed`: whether the request's time to first token counts."""
        if is_timed:
            self._submitted[request_id] = time.perf_counter()

    def tokens(self, request_id: str, count: int) -> None:
        """Record `count` tokens that arrived together: the first ends a gap, the others have a zero gap."""
        if count == 0:
            return
        at = time.perf_counter()
        last = self._last_token.get(request_id)
        if last is not None:
            self._itl.append(at - last)
        elif request_id in self._submitted:
            self._ttft.append(at - self._submitted[request_id])
        self._itl += [0.0] * (count - 1)
        self._last_token[request_id] = self._ended = at
        self._num_tokens += count

    @property
    def last_ttft(self) -> float:
        """Time to first token of the latest request that has one, in seconds."""
        return self._ttft[-1]

    def measurement(self, **extra: float) -> Measurement:
        return Measurement(
            seconds=self._ended - self._began,
            num_tokens=self._num_tokens,
            ttft_seconds=self._ttft,
            itl_seconds=self._itl,
            rss_bytes=rss_bytes(),
            peak_rss_bytes=peak_rss_bytes(),
            extra=extra,
        )


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def anonymous_bytes() -> int:
    """Resident memory of this process without the pages of files."""
    status = Path("/proc/self/status").read_text()
    return sum(int(status.partition(f"{name}:")[2].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024


def peak_rss_bytes() -> int:
    """Peak resident memory of this process alone: `getrusage` includes the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that `percent` % of `values` do not exceed. Raises `ValueError` without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values to take a percentile of")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": percentile(values, 50), "min": min(values), "max": max(values)}
