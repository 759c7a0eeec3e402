"""Measures attribution methods against retraining: `python -m benchmarks.attribution [--json]`.

Adapters are trained on random halves of the contributors, each stored in a file below `--work`: a killed run
resumes, and concurrent processes share the work. `--no-training` reports on the existing files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NUM_SUBSETS = 20
NUM_REPEATS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Read when torch starts its thread pools. Spinning threads would slow other processes down.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from benchmarks.attribution.page import write
    from benchmarks.attribution.study import Plan, report, train

    plan = Plan(options.work, options.subsets, options.repeats, options.threads)
    with redirect_stdout(sys.stderr):  # prints of libraries
        if not options.no_training:
            train(plan, _show)
        found = report(plan)
    if options.docs is not None:
        write(options.docs, found)
    if options.json:
        print(json.dumps(found, sort_keys=True, indent=1))
        return 0
    print(f"{found['num_subsets']} retrainings, {found['num_answers']} answers, ceiling {found['ceiling']}")
    for name, figures in found["methods"].items():
        low, high = figures["interval"]
        print(f"{name:16} LDS {figures['lds']:6.3f} ({low:.3f} to {high:.3f}), cost {figures['cost']:.2f}")
    return 0


def _show(kind: str, data: Mapping[str, Any]) -> None:
    print(json.dumps({"kind": kind, **data}), file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attribution",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-training", action="store_true", help="report on the existing retrainings")
    parser.add_argument(
        "--subsets",
        type=int,
        default=NUM_SUBSETS,
        help=f"number of retrainings on halves; default: {NUM_SUBSETS}",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=NUM_REPEATS,
        help=f"halves to train again with another seed; default: {NUM_REPEATS}",
    )
    parser.add_argument("--docs", type=Path, help="folder for the page, its chart and its JSON")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process; default: 2")
    parser.add_argument(
        "--work", type=Path, default=Path("build/bench/attribution"), help="folder for files between runs"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
