"""What a run has measured, for its report and its page."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRESSURE = Path("/proc/pressure/cpu")


class CpuWait:
    """Part of the time since its creation in which a process of this machine waited for a processor."""

    def __init__(self) -> None:
        self._began, self._waited = time.monotonic(), _cpu_wait_seconds()

    def ppm(self) -> int | None:
        """None where the kernel has no pressure stall information."""
        waited = _cpu_wait_seconds()
        if waited is None or self._waited is None:
            return None
        return round(1e6 * (waited - self._waited) / (time.monotonic() - self._began))


def _cpu_wait_seconds() -> float | None:
    """Total so far."""
    try:
        some = _PRESSURE.read_text().splitlines()[0]
    except OSError:
        return None
    return int(some.rpartition("total=")[2]) / 1e6


def table(rounds: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line for each fault, with the seconds until an answer."""
    lines = [
        "| fault | times | back after, median (s) | longest (s) | answers | failed requests |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for fault in dict.fromkeys(each["fault"] for each in rounds):
        same = [each for each in rounds if each["fault"] == fault]
        seconds = [each["back_after_seconds"] for each in same]
        answers, failures = (sum(each[name] for each in same) for name in ("answers", "failures"))
        lines.append(
            f"| {fault} | {len(same)} | {median(seconds):.1f} | {max(seconds):.1f} | {answers} | {failures} |"
        )
    return "\n".join(lines)
