"""Writes docs/benchmarks.md and its chart: `python -m benchmarks.report engine.json`.

The report is kept beside the page. One from a machine that was busy with other things is refused: another
folder, by `--out`, takes any.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report.page import CHART, PRICE_PER_HOUR, chart, page

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, KEPT = "benchmarks.md", "benchmarks.json"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    report: dict[str, Any] | None = None
    if options.file is not None:
        try:
            report = json.loads(options.file.read_text())
        except (OSError, ValueError) as error:
            return _refuse(f"{options.file} cannot be read as JSON: {error}")
    if report is not None and not report.get("is_quiet") and options.out.resolve() == DOCS:
        return _refuse(f"{options.file} comes from a busy machine; run again on an idle one, or give --out")
    write(options.out, report, options.price_per_hour)
    return 0


def write(folder: Path, report: dict[str, Any] | None, price_per_hour: float) -> None:
    """The page, and for a report its chart and its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(page(report, price_per_hour))
    if report is not None:
        (folder / CHART).parent.mkdir(exist_ok=True)
        (folder / CHART).write_text(chart(report))
        (folder / KEPT).write_text(json.dumps(report, indent=1) + "\n")


def _refuse(reason: str) -> int:
    sys.stderr.write(f"benchmarks.report: {reason}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "file",
        type=Path,
        nargs="?",
        help="JSON of `python -m benchmarks.engine`; none: a page without figures",
    )
    add("--out", type=Path, default=DOCS, help="folder to write to; default: docs")
    add(
        "--price-per-hour",
        type=float,
        default=PRICE_PER_HOUR,
        help=f"of the machine; default: {PRICE_PER_HOUR}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
