"""Benchmarks the API and settlement: `python -m benchmarks.api [--json] [--only NAME ...] [--seconds S]`.

Each figure is the median of its repeats. All components are real, except those that the method of the figure
names. `other_cpu` in the rows is the share of the CPU that other processes used.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console

from benchmarks.api import batch, events, gateway, limits, receipts
from benchmarks.engine import machine
from benchmarks.engine.figures import QUIET

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.api.figures import Row

Measure: TypeAlias = "Callable[[Path, float, int], list[Row]]"
PARTS: dict[str, tuple[Measure, float]] = {
    "receipts": (receipts.measure, 10),
    "events": (events.measure, 10),
    "gateway": (gateway.measure, 60),
    "limits": (limits.measure, 10),
    "batch": (batch.measure, 0),
}
"""Measurements, each with the seconds of one repeat; a batch has no time limit."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    rows: list[Row] = []
    for name in options.only or PARTS:
        console.print(f"benchmarks.api: {name}", markup=False)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure, seconds = PARTS[name]
            rows += measure(Path(folder), options.seconds or seconds, options.repeats)
    if options.json:
        sys.stdout.write(json.dumps(report_of(rows)) + "\n")
    else:
        print("\n".join(f"{row.name:20} {row.value:10,.1f}" for row in rows))
    return 0


def report_of(rows: Sequence[Row]) -> dict[str, object]:
    """The report as JSON."""
    return {
        "figures": {row.name: round(row.value, 3) for row in rows},
        "rows": [row.as_json() for row in rows],
        "is_quiet": all(median(row.other_cpu) <= QUIET for row in rows),
        "machine": machine.describe(),
        "commit": machine.commit(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to measure; default: all")
    parser.add_argument("--seconds", type=float, help="duration of one repeat; default: by part")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder",
        type=Path,
        help="scratch folder, on the disk to measure; default: the system's, which PostgreSQL always uses",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
