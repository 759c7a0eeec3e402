"""Benchmarks the engine against its peers: `python -m benchmarks.engine --json > engine.json`.

SmolLM2-135M in bf16, 32 prompts of 32 tokens, 64 new tokens, adapters of rank 8 on all linear layers. All
contestants run the same workload on the same cores, warmed up, one after the other. Run it on an idle
machine: each row reports the CPU share of other processes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks import peers
from benchmarks.engine import machine
from benchmarks.engine.adapters import make_adapters
from benchmarks.engine.contestant import ContestantError
from benchmarks.engine.figures import QUIET, is_quiet, ratios, row
from benchmarks.engine.launcher import SETTINGS, Launcher
from benchmarks.engine.scenarios import GROUPS, Results, Suite, num_adapters, num_runs
from benchmarks.engine.shapes import make_shape
from benchmarks.engine.workload import NUM_PROMPTS
from benchmarks.model_options import add_model_options, model_of
from inference.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

WORK = Path("build/bench")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    groups = [group for group in GROUPS if not options.only or group in options.only]
    console = Console(stderr=True)
    try:
        report = run(options, groups, console)
    except (ContestantError, peers.PeerError, InferenceError, OSError) as error:
        console.print(f"benchmarks.engine: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    if not report["is_quiet"]:
        limit = f"{QUIET:.0%}"
        console.print(
            f"The machine was busy: other processes used more than {limit} of its CPU.", style="yellow"
        )
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _print(report)
    return 0


def run(options: argparse.Namespace, groups: Sequence[str], console: Console) -> dict[str, Any]:
    """Raises `ContestantError`, `PeerError`, `InferenceError`."""
    has_peers = not options.without_peers
    if has_peers and "batch" in groups:
        peers.check()
    model = model_of(options)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console) as progress,
        Launcher(model, options.threads, WORK / "logs") as launcher,
    ):
        count = num_adapters(groups, options.repeats)
        made = progress.add_task("adapters", total=count)
        folders = make_adapters(WORK / "adapters", model, count, on_made=lambda: progress.advance(made))
        runs = progress.add_task("runs", total=num_runs(groups, options.repeats, has_peers=has_peers))

        def on_run(name: str) -> None:
            progress.update(runs, advance=1, description=name)

        adapters = [str(folder.resolve()) for folder in folders]
        shape = partial(make_shape, WORK, tokenizer=model)

        def ranked(rank: int) -> list[str]:
            made = make_adapters(WORK / "adapters", model, NUM_PROMPTS, rank)
            return [str(folder.resolve()) for folder in made]

        suite = Suite(launcher, model, adapters, options.repeats, has_peers, Results(), on_run, shape, ranked)
        return _report(suite.run(groups), options)


def _report(results: Results, options: argparse.Namespace) -> dict[str, Any]:
    rows = [row(entry, runs) for entry, runs in results.runs.items()]
    found = ratios(results)
    return {
        "ratios": {name: None if ratio is None else ratio.value for name, ratio in found.items()},
        "ranges": {name: None if ratio is None else asdict(ratio) for name, ratio in found.items()},
        "rows": rows,
        "is_quiet": is_quiet(rows),
        "machine": machine.describe(),
        "commit": machine.commit(),
        "num_threads": options.threads,
        "num_repeats": options.repeats,
        "versions": results.versions,
        "settings": SETTINGS,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _print(report: dict[str, Any]) -> None:
    for one in report["rows"]:
        speed, first = one["tokens_per_second"]["median"], one["ttft_ms"]["p50"]["median"]
        print(
            f"{one['contestant']:20} {one['scenario']:16} {speed:8.0f} tok/s {first:8.1f} ms to first token"
        )
    for name, value in report["ratios"].items():
        print(f"{name:28} {'not run' if value is None else f'{value:.3f}'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object; progress goes to standard error")
    add("--repeats", type=_positive, default=5, help="measured runs per row; default: 5")
    add("--only", action="append", choices=GROUPS, help="run only this group; may be repeated")
    add("--without-peers", action="store_true", help="run our engine only; ratios to peers are null")
    add("--threads", type=_positive, default=2, help="threads of each contestant; default: 2")
    add_model_options(parser)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
