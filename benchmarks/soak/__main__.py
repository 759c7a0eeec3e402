"""Soak test of the engine: `python -m benchmarks.soak`, or `make bench-soak`. 30 minutes by default.

1,000 adapters drawn by Zipf's law, bursts that overfill the queue, requests aborted at any point, and
adapters that must be refused, with budgets so small that kv_blocks and host memory are always short.

The test passes if every accepted request ended exactly once and as expected, blocks, slots and registry
stayed consistent, memory grew by at most 2 % and open files by at most 8. Growth compares the medians of
the last and the first third of the run, after an initial quarter in which caches fill; runs of less than
ten minutes do not check memory. Memory is anonymous memory: pages of mapped files are the kernel's to drop
and to read again. Otherwise the failures are printed and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from benchmarks.engine import machine
from benchmarks.engine.adapters import make_adapters
from benchmarks.model_options import add_model_options, model_of
from benchmarks.soak.hostile import make_hostile
from benchmarks.soak.run import Observations, Soak, growth
from benchmarks.soak.traffic import Traffic
from inference.config import MIB, EngineConfig
from inference.errors import InferenceError
from inference.lora.files import adapter_digest
from inference.protocol import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Sequence

WORK = Path("build/bench")
# Libraries cache code for every shape, and new shapes occur during the first thousands of requests.
MIN_MINUTES_FOR_MEMORY = 10


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        observations = _run(options, console)
    except (AssertionError, InferenceError, OSError) as error:
        console.print(f"benchmarks.soak: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    failures = observations.failures(checks_memory=options.minutes >= MIN_MINUTES_FOR_MEMORY)
    for failure in failures:
        console.print(f"benchmarks.soak: {failure}", style="red", markup=False, soft_wrap=True)
    report = _report(options, observations, failures)
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        print("\n".join(f"{name:24} {count}" for name, count in report["requests"].items()))
    return 1 if failures else 0


def _run(options: argparse.Namespace, console: Console) -> Observations:
    model = model_of(options)
    config = EngineConfig(
        model,
        num_threads=options.threads,
        max_waiting=96,
        max_context=256,
        kv_budget_bytes=int(options.kv_mib * MIB),
        adapter_budget_bytes=int(options.adapter_mib * MIB),
    )
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        made = progress.add_task("adapters", total=options.adapters)
        folders = make_adapters(
            WORK / "adapters", model, options.adapters, on_made=lambda: progress.advance(made)
        )
        adapters = [AdapterRef(adapter_digest(folder), str(folder.resolve())) for folder in folders]
        hostile = make_hostile(folders[0], WORK / "hostile")
        soak = progress.add_task("soak", total=60 * options.minutes)

        def on_sample(seconds: float, observations: Observations) -> None:
            answered = observations.ledger.counts["answered"]
            progress.update(soak, completed=seconds, description=f"soak: {answered} answered")

        return Soak(config, Traffic(adapters, hostile)).run(60 * options.minutes, on_sample)


def _report(options: argparse.Namespace, observations: Observations, failures: list[str]) -> dict[str, Any]:
    return {
        "held": not failures,
        "failures": failures,
        "minutes": options.minutes,
        "requests": dict(observations.ledger.counts),
        "num_steps": observations.num_steps,
        "num_integrity_checks": observations.num_integrity_checks,
        "num_preemptions": observations.num_preemptions,
        "max_waiting": observations.max_waiting,
        "num_adapters_seen": len(observations.digests_loaded),
        "memory_growth": growth(observations.anonymous_bytes),
        "checks_memory": options.minutes >= MIN_MINUTES_FOR_MEMORY,
        "anonymous_mib": [round(sample / MIB, 1) for sample in observations.anonymous_bytes],
        "machine": machine.describe(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object; progress goes to standard error")
    add("--minutes", type=float, default=30.0, help="minutes of traffic; default: 30")
    add("--adapters", type=int, default=1_000, help="number of adapters; default: 1000")
    add("--threads", type=int, default=2, help="default: 2")
    add("--kv-mib", type=float, default=64, help="budget of the KV cache; default: 64")
    add("--adapter-mib", type=float, default=256, help="host cache of adapters; default: 256")
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
