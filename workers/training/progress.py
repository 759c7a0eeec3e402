"""Signs of life of long stages that have no steps to report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Emit = Callable[[str, Mapping[str, Any]], None]

PULSE_SECONDS = 30.0
"""Far below the silence that `workers.training.supervise` takes for a hang, and few events in a record."""


class Pulse:
    """Emits `working` (stage, done, total) when something is done and the last sign is long enough ago."""

    def __init__(self, emit: Emit, stage: str, total: int) -> None:
        self._emit = emit
        self._stage = stage
        self._total = total
        self._done = 0
        self._emitted_at = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """`count` more of `total` are done."""
        self._done += count
        now = time.monotonic()
        if now - self._emitted_at >= PULSE_SECONDS:
            self._emitted_at = now
            self._emit("working", {"stage": self._stage, "done": self._done, "total": self._total})
