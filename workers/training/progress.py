"""Progress events of long stages that have no steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Emit = Callable[[str, Mapping[str, Any]], None]

INTERVAL_SECONDS = 30.0
"""Far below the silence after which `workers.training.supervise` kills the process."""


class ProgressReporter:
    """Emits `working` (stage, done, total) at most once per `INTERVAL_SECONDS`."""

    def __init__(self, emit: Emit, stage: str, total: int) -> None:
        self._emit = emit
        self._stage = stage
        self._total = total
        self._done = 0
        self._emitted_at = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Count `count` more items of `total` as done."""
        self._done += count
        now = time.monotonic()
        if now - self._emitted_at >= INTERVAL_SECONDS:
            self._emitted_at = now
            self._emit("working", {"stage": self._stage, "done": self._done, "total": self._total})
