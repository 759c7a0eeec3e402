"""Measures the cost of receipts and attribution: `python -m benchmarks.ledger [--json]`, about ten minutes.

Tokens per second and time to first token through API and engine, with neither, with receipts only, and with
both.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engine import machine
from benchmarks.engine.figures import is_quiet
from benchmarks.engine.measure import spread
from benchmarks.ledger.measure import ALL, METHOD, NONE, NUM_CONTRIBUTORS, RECEIPTS, Size, measure
from benchmarks.model_options import add_model_options, model_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.ledger.load import Load


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    model = model_of(options)
    size = Size(options.clients, options.answers, options.tokens, options.repeats)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = report_of(measure(Path(folder), model, size, options.threads), size)
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        print("\n".join(f"{name:30} {value:8.4f}" for name, value in report["figures"].items()))
    return 0


def report_of(runs: Mapping[str, Sequence[Load]], size: Size) -> dict[str, Any]:
    """The report as JSON. Ratios compare runs of the same repeat, which were close in time."""
    rows = [_row(name, loads) for name, loads in runs.items()]
    speeds = {name: [load.tokens_per_second for load in loads] for name, loads in runs.items()}
    firsts = {name: [load.ttft_ms(50) for load in loads] for name, loads in runs.items()}
    pairs = {"receipts": (RECEIPTS, NONE), "attribution": (ALL, RECEIPTS), "ledger": (ALL, NONE)}
    ranges = {}
    for figure, (one, other) in pairs.items():
        ratios = [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
        delays = [a - b for a, b in zip(firsts[one], firsts[other], strict=True)]
        ranges[f"{figure}_tokens_s_ratio"] = spread(ratios)
        ranges[f"{figure}_ttft_added_ms"] = spread(delays)
    return {
        "figures": {name: value["median"] for name, value in ranges.items()},
        "ranges": ranges,
        "rows": rows,
        "is_quiet": is_quiet(rows),
        "size": asdict(size),
        "method": METHOD,
        "num_contributors": NUM_CONTRIBUTORS,
        "machine": machine.describe(),
        "commit": machine.commit(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _row(name: str, loads: Sequence[Load]) -> dict[str, Any]:
    return {
        "name": name,
        "tokens_per_second": spread([load.tokens_per_second for load in loads]),
        "ttft_p50_ms": spread([load.ttft_ms(50) for load in loads]),
        "ttft_p99_ms": spread([load.ttft_ms(99) for load in loads]),
        "other_cpu": spread([load.other_cpu for load in loads]),
    }


def _parser() -> argparse.ArgumentParser:
    size = Size()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    add = parser.add_argument
    add("--json", action="store_true")
    add("--repeats", type=int, default=size.repeats)
    add("--clients", type=int, default=size.num_clients)
    add("--answers", type=int, default=size.num_answers, help="answers per run")
    add("--tokens", type=int, default=size.num_tokens, help="tokens per answer")
    add("--threads", type=int, default=2, help="threads of the engine")
    add_model_options(parser)
    add("--folder", type=Path, help="scratch folder, on the disk to measure; default: the system's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
