"""Periodic, idempotent work of the relays."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SWEEP_SECONDS = 5.0
"""Interval between the runs of all sweeps."""
log = logging.getLogger(__name__)


def run_sweeps(sweeps: Sequence[Callable[[], object]]) -> None:
    """Run all sweeps: one that fails, such as on hostile content, does not hold up the others."""
    for sweep in sweeps:
        try:
            sweep()
        except Exception:
            log.exception("a sweep failed; the next round tries again")
