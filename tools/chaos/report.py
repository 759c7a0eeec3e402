"""What a run has measured: its report, which grows with each fault, and the table for its page."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from backend.disk.files import write_durably
from tools import markdown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

_PRESSURE = Path("/proc/pressure/cpu")
NOT_ENDED = "the run did not reach its end"


@dataclass(frozen=True, slots=True)
class Round:
    """A fault and what followed.

    `back_after_seconds`: until both models have answered. `ready_after_seconds`: until the killed processes
    have successors that are connected to chain or database, or for engines listen; None for other faults.
    `usual_seconds`: median duration of an answer in this round before the fault; None without one.
    `waiting_ppm`: part of the time until the answer in which a process of this machine waited for a
    processor; None where the kernel does not say. `reasons`: failed requests by what their clients saw.
    `charged_failures`: those of them that were charged all the same.
    `receipts`, `charged`, `jobs`, and `received` by contributor and creator: all so far, once settled; None
    where the money was counted after a later fault. Amounts in micro-units.
    """

    fault: str
    back_after_seconds: float
    ready_after_seconds: float | None
    usual_seconds: float | None
    waiting_ppm: int | None
    answers: int
    reasons: Mapping[str, int]
    charged_failures: int
    receipts: int | None = None
    charged: int | None = None
    jobs: int | None = None
    received: int | None = None

    @property
    def failures(self) -> int:
        return sum(self.reasons.values())


class Report:
    """Written to `path` after each fault, so that a run that is stopped keeps what it found."""

    def __init__(self, path: Path, circumstances: Mapping[str, Any]) -> None:
        self._path, self._circumstances = path, circumstances
        self.base_model = ""
        self.rounds: list[Round] = []

    def add(self, round_: Round) -> None:
        self.rounds.append(round_)
        self.write(NOT_ENDED)

    def write(self, error: str | None) -> None:
        """`error`: the promise that was not kept, or why the run ended early."""
        content = {
            **self._circumstances,
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "base_model": self.base_model,
            "rounds": [asdict(each) for each in self.rounds],
            "error": error,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, json.dumps(content, indent=1) + "\n")


def circumstances(options: argparse.Namespace, planned: int) -> dict[str, Any]:
    """What a reader needs to repeat the run. `planned`: its number of faults."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "seed": options.seed,
        "kills": options.kills,
        "only": options.only,
        "planned": planned,
        "limit_seconds": options.limit,
        "processors": len(os.sched_getaffinity(0)),
    }


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


def table(rounds: Sequence[Round]) -> str:
    """Markdown: one line for each fault with its seconds and requests, then why requests failed."""
    rows = []
    for fault in dict.fromkeys(each.fault for each in rounds):
        same = [each for each in rounds if each.fault == fault]
        usual, _ = _median_and_longest([each.usual_seconds for each in same])
        back = _median_and_longest([each.back_after_seconds for each in same])
        ready = _median_and_longest([each.ready_after_seconds for each in same])
        counts = zip(*((1, each.answers, each.failures, each.charged_failures) for each in same), strict=True)
        times, *requests = (str(sum(column)) for column in counts)
        rows.append([fault, times, usual, *back, *ready, *requests])
    head = ["fault", "times", "usual answer (s)"]
    head += ["both models answer after, median (s)", "longest (s)"]
    head += ["process ready after, median (s)", "longest (s)"]
    head += ["answers", "failed requests", "of these charged"]
    lines = markdown.table(head, rows)
    reasons: Counter[str] = Counter()
    for each in rounds:
        reasons.update(each.reasons)
    if reasons:
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        lines += ["", f"Requests failed with: {counted}."]
    return "\n".join(lines)


def _median_and_longest(seconds: Sequence[float | None]) -> list[str]:
    known = [each for each in seconds if each is not None]
    return [f"{median(known):.1f}", f"{max(known):.1f}"] if known else ["", ""]
