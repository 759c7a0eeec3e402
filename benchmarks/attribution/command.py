"""What the commands of this package have in common: options, threads, and how they end."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STUDIES = ("docstrings", "fortunes", "instructions")
SMALL_STUDIES = ("docstrings-8",)
"""For base models that take longer to train; reported apart."""


def make_parser(module: str, description: str, studies: Sequence[str] = STUDIES) -> argparse.ArgumentParser:
    """With the options of every command; `--study` takes some of `studies`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--study", nargs="+", choices=studies, default=STUDIES, help=f"default: {' '.join(STUDIES)}")
    add("--threads", type=int, default=2, help="threads of each process; default: 2")
    add("--work", type=Path, default=Path("build/bench/attribution"), help="folder for files between runs")
    return parser


def add_truth(parser: argparse.ArgumentParser) -> None:
    """The option of commands that compare methods with retrainings."""
    default = Path("docs/attribution")
    parser.add_argument("--truth", type=Path, default=default, help="folder for what retraining found")


def add_docs(parser: argparse.ArgumentParser) -> None:
    """The option of commands that add to a report."""
    parser.add_argument(
        "--docs", type=Path, default=Path("docs"), help="folder of the report and its page; default: docs"
    )


def run(measure: Callable[[], dict[str, Any]], num_threads: int, *, prints: bool = True) -> int:
    """Measure, print the result as JSON if `prints`, and return the exit code. Nothing may have loaded torch
    before, which reads the environment when it starts its pools of threads.
    """
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would slow other processes down
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from backend.domain.errors import DomainError

    try:
        with redirect_stdout(sys.stderr):  # prints of libraries
            found = measure()
    except (DomainError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if prints:
        print(json.dumps(found, sort_keys=True, indent=1))
    return 0


def show(kind: str, data: Mapping[str, Any]) -> None:
    """Print progress as a line of JSON."""
    print(json.dumps({"kind": kind, **data}), file=sys.stderr, flush=True)
