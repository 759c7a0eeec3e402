"""What contributors and creators wait for: `python -m benchmarks.training [--json]`.

`validate_mb_s`: structure of a JSONL file, megabytes a second by the clock, one process.
`near_duplicates_mb_s`: the whole check of an upload against a datanet of that size, database included.
`validate_peak_mb`: the most memory of that process. `capture_overhead`: what the index of gradients adds to a
training, by the processor's time. How busy the machine was with other things stands beside,
and `by_processor` the same paces by the time that the process was given.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engine import machine
from benchmarks.training.capture import Overhead, measure_capture
from benchmarks.training.data import MEGABYTE, Measured, Sizes, measure

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    sizes = Sizes(int(options.megabytes * MEGABYTE), int(options.near_megabytes * MEGABYTE))
    before = machine.Usage.now(os.getpid())
    # Its own process: the most memory that a process ever had does not come down again.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        measured = pool.submit(measure, sizes, options.work).result()
        training = options.rows, options.threads, options.base_model, options.work
        overhead = pool.submit(measure_capture, *training).result() if options.rows else None
    foreign = machine.Usage.now(os.getpid()).foreign_share_since(before)
    report = _report(measured, overhead, foreign)
    if options.json:
        print(json.dumps(report))
        return 0
    for name, value in report["figures"].items():
        print(f"{name:22} {value:10.2f}")
    print(f"{'foreign_share':22} {foreign:10.2f}")
    return 0


def _report(measured: Measured, overhead: Overhead | None, foreign_share: float) -> dict[str, Any]:
    paces = {"validate_mb_s": measured.structure, "near_duplicates_mb_s": measured.near}
    figures = {name: round(pace.by_clock, 2) for name, pace in paces.items()}
    figures["validate_peak_mb"] = round(measured.peak_megabytes, 1)
    trained = {} if overhead is None else {"capture_overhead": round(overhead.ratio, 3)}
    return {
        "figures": figures | trained,
        "by_processor": {name: round(pace.by_processor, 2) for name, pace in paces.items()},
        "foreign_share": round(foreign_share, 3),
        "machine": machine.describe(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--megabytes", type=float, default=1000, help="of rows; default: 1000")
    parser.add_argument("--near-megabytes", type=float, default=32, help="that are compared; default: 32")
    parser.add_argument("--rows", type=int, default=96, help="that are trained on, 0: none; default: 96")
    parser.add_argument("--base-model", default="", help="that is trained; default: the bundled one")
    parser.add_argument("--threads", type=int, default=2, help="of training; default: 2")
    parser.add_argument("--work", type=Path, default=Path("build/bench/data"), help="scratch folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
