"""Periodic, idempotent work of the relays."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SWEEP_SECONDS = 5.0
"""Interval between the runs of all sweeps."""
log = logging.getLogger(__name__)


def at_most_every(
    seconds: float, task: Callable[[], object], clock: Callable[[], float] = time.monotonic
) -> Callable[[], None]:
    """The task for a loop: a call does nothing unless `seconds` have passed since the task last ended."""
    due_at = -math.inf

    def run() -> None:
        nonlocal due_at
        if clock() >= due_at:
            try:
                task()
            finally:
                due_at = clock() + seconds

    return run


def run_sweeps(sweeps: Sequence[Callable[[], object]]) -> None:
    """Run all sweeps: one that fails, such as on hostile content, does not hold up the others."""
    for sweep in sweeps:
        try:
            sweep()
        except Exception:
            log.exception("a sweep failed; the next round tries again")
