"""What contributors and creators wait for: `python -m benchmarks.training [--json]`.

`validate_mb_s`: structure of a JSONL file, megabytes a second by the clock, one process.
`near_duplicates_mb_s`: the whole check of an upload against a datanet of that size, database included.
`validate_peak_mb`: the most memory of that process. `capture_overhead`: what the index of gradients adds to a
training, by the processor's time.
`train_vs_plain_trainer`: tokens trained a second, without padding, to those of the Trainer of transformers
with its defaults, on the same rows (`benchmarks.training.trainer`); left out where our eval loss is worse.
How busy the machine was with other things stands beside; `by_processor` has the same paces by the time that
the process was given, `training` and `capture` every run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.engine import machine
from benchmarks.training.data import MEGABYTE, Measured, Sizes, measure
from benchmarks.training.trainer import Outcome, Race, measure_training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.training.capture import Overhead

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    sizes = Sizes(int(options.megabytes * MEGABYTE), int(options.near_megabytes * MEGABYTE))
    models = options.work / "models"
    laps = Race(options.rows, options.repeats, options.threads, options.epochs, models, options.base_model)
    before = machine.Usage.now(os.getpid())
    measured = _apart(measure, sizes, options.work)
    overhead, outcome = _apart(measure_training, laps, options.work) if options.rows else (None, None)
    foreign = machine.Usage.now(os.getpid()).other_share_since(before)
    report = _report(measured, overhead, outcome, foreign)
    if options.json:
        print(json.dumps(report))
        return 0
    for name, value in report["figures"].items():
        print(f"{name:22} {value:10.2f}")
    print(f"{'foreign_share':22} {foreign:10.2f}")
    return 0


def _apart(function: Callable[..., T], *arguments: object) -> T:
    """In a process of its own: the most memory that a process ever had does not come down again."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _report(
    measured: Measured, overhead: Overhead | None, outcome: Outcome | None, foreign_share: float
) -> dict[str, Any]:
    paces = {"validate_mb_s": measured.structure, "near_duplicates_mb_s": measured.near}
    figures = {name: round(pace.by_clock, 2) for name, pace in paces.items()}
    figures["validate_peak_mb"] = round(measured.peak_megabytes, 1)
    by_processor = {name: round(pace.by_processor, 2) for name, pace in paces.items()}
    if overhead is not None:
        figures["capture_overhead"] = round(overhead.ratio, 3)
    if outcome is not None and outcome.is_no_worse:
        figures["train_vs_plain_trainer"] = round(outcome.by_clock, 2)
        by_processor["train_vs_plain_trainer"] = round(outcome.by_processor, 2)
    return {
        "figures": figures,
        "by_processor": by_processor,
        "training": None if outcome is None else asdict(outcome),
        "capture": None if overhead is None else asdict(overhead),
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
    parser.add_argument("--epochs", type=int, default=1, help="default: 1")
    parser.add_argument("--repeats", type=int, default=3, help="of ours and the Trainer's; default: 3")
    parser.add_argument("--work", type=Path, default=Path("build/bench/data"), help="scratch folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
