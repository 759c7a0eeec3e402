"""Benchmarks upload validation and training: `python -m benchmarks.training [--json]`.

- `validate_mb_s`: parsing and validation of a JSONL file, in megabytes per second of wall time, one process.
- `near_duplicates_mb_s`: the complete check of an upload against a datanet of the same size, database
included.
- `validate_peak_mb`: peak memory of that process.
- `capture_overhead`: processor time of the gradient index, in `--arithmetic`, relative to training.
- `distil_overhead`: the same of distillation: two answers a row are generated and their gradients taken.
- `train_vs_plain_trainer`: trained tokens per second, without padding, relative to the Trainer of
transformers with its defaults on the same rows (`benchmarks.training.trainer`); omitted if our eval loss is
worse.

`foreign_share` is the CPU share of other processes. `by_processor` has the same rates by processor time,
`training` and `capture` the figures of every run. `hours_per_million_tokens` has the processor hours that
training, index and distillation take for a million charged tokens, the unit of the price of training.
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

from backend.processes.parent import die_with_parent
from benchmarks.engine import machine
from benchmarks.training.data import MEGABYTE, Sizes, ValidationResult, measure
from benchmarks.training.trainer import Comparison, Plan, measure_training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.training.capture import Overhead

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # As in the process that trains: threads that spin would count as processor time, and slow others down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sizes = Sizes(int(options.megabytes * MEGABYTE), int(options.near_megabytes * MEGABYTE))
    models = options.work / "models"
    sizes_of_training = options.rows, options.repeats, options.threads, options.epochs
    plan = Plan(*sizes_of_training, models, options.base_model, options.arithmetic)
    before = machine.Usage.now(os.getpid())
    validation = _in_child(measure, sizes, options.work)
    overhead, comparison = _in_child(measure_training, plan, options.work) if options.rows else (None, None)
    foreign_share = machine.Usage.now(os.getpid()).other_share_since(before)
    report = _report(validation, overhead, comparison, foreign_share)
    if options.json:
        print(json.dumps(report))
        return 0
    for name, value in report["figures"].items():
        print(f"{name:22} {value:10.2f}")
    print(f"{'foreign_share':22} {foreign_share:10.2f}")
    return 0


def _in_child(function: Callable[..., T], *arguments: object) -> T:
    """Call the function in a new process, because the peak memory of a process never decreases."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=die_with_parent) as pool:
        return pool.submit(function, *arguments).result()


def _report(
    validation: ValidationResult,
    overhead: Overhead | None,
    comparison: Comparison | None,
    foreign_share: float,
) -> dict[str, Any]:
    rates = {"validate_mb_s": validation.structure, "near_duplicates_mb_s": validation.near}
    figures = {name: round(rate.by_clock, 2) for name, rate in rates.items()}
    figures["validate_peak_mb"] = round(validation.peak_megabytes, 1)
    by_processor = {name: round(rate.by_processor, 2) for name, rate in rates.items()}
    hours: dict[str, float] = {}
    if overhead is not None:
        figures["capture_overhead"] = round(overhead.of_capture, 3)
        figures["distil_overhead"] = round(overhead.of_distillation, 3)
        hours = {name: round(each, 3) for name, each in overhead.hours_per_million_tokens().items()}
    if comparison is not None and comparison.is_no_worse:
        figures["train_vs_plain_trainer"] = round(comparison.by_clock, 2)
        by_processor["train_vs_plain_trainer"] = round(comparison.by_processor, 2)
    return {
        "figures": figures,
        "by_processor": by_processor,
        "training": None if comparison is None else asdict(comparison),
        "capture": None if overhead is None else asdict(overhead),
        "hours_per_million_tokens": hours,
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
    parser.add_argument(
        "--megabytes", type=float, default=1000, help="size of the validated file; default: 1000"
    )
    parser.add_argument(
        "--near-megabytes", type=float, default=32, help="size of the upload for near duplicates; default: 32"
    )
    parser.add_argument("--rows", type=int, default=96, help="rows to train on, 0: no training; default: 96")
    parser.add_argument("--base-model", default="", help="base model to train; default: the bundled one")
    parser.add_argument("--threads", type=int, default=2, help="threads of training; default: 2")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of training; default: 1")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each training; default: 3")
    parser.add_argument(
        "--arithmetic",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of the attribution index, as LORALEDGER_INDEX_ARITHMETIC; default: bfloat16",
    )
    parser.add_argument("--work", type=Path, default=Path("build/bench/data"), help="scratch folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
