"""Writes docs/benchmarks.md and its chart: `python -m benchmarks.report engine.json`.

Several reports of the engine, each of other groups (`--only`), are merged if they are of one machine. The
reports are stored next to the page; a report that is not given is read from there. A report from a busy
machine is refused, unless `--out` names another folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report.merge import ReportError, merge
from benchmarks.report.page import CHART, PRICE_PER_HOUR, chart, page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, KEPT = "benchmarks.md", "benchmarks.json"
OTHERS = {"ledger": "benchmarks_ledger.json", "api": "benchmarks_api.json"}
"""Reports of other benchmarks than the engine's, and where they are stored."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    must_be_quiet = options.out.resolve() == DOCS
    try:
        engines = _read(options.files, options.out / KEPT, must_be_quiet=must_be_quiet)
        engine = merge(engines) if engines else None
        others: dict[str, dict[str, Any]] = {}
        for name, kept in OTHERS.items():
            given = [file] if (file := getattr(options, name)) else []
            for found in _read(given, options.out / kept, must_be_quiet=must_be_quiet):
                others[name] = found
        write(options.out, engine, options.price_per_hour, others)
    except ReportError as error:
        sys.stderr.write(f"benchmarks.report: {error}\n")
        return 1
    return 0


def _read(given: Sequence[Path], kept: Path, *, must_be_quiet: bool) -> list[dict[str, Any]]:
    """The reports in `given`, else the one in `kept` if it exists. Raises `ReportError`."""
    reports = []
    for file in given or [kept] * kept.exists():
        try:
            report = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ReportError(f"{file} cannot be read as JSON: {error}") from error
        if must_be_quiet and not report.get("is_quiet"):
            raise ReportError(f"{file} comes from a busy machine; run again on an idle one, or give --out")
        reports.append(report)
    return reports


def write(
    folder: Path, report: dict[str, Any] | None, price_per_hour: float, others: Mapping[str, dict[str, Any]]
) -> None:
    """Write the page to `folder`, and for each report that is given its JSON and chart. Raises `ReportError`,
    and writes nothing, if a report lacks figures of the page.
    """
    text = page(report, price_per_hour, **others)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(text)
    kept = {OTHERS[name]: found for name, found in others.items()}
    if report is not None:
        kept[KEPT] = report
    for name, found in kept.items():
        (folder / name).write_text(json.dumps(found, indent=1) + "\n")
    if report is not None:
        (folder / CHART).parent.mkdir(exist_ok=True)
        (folder / CHART).write_text(chart(report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "files",
        type=Path,
        nargs="*",
        metavar="file",
        help="JSON of `python -m benchmarks.engine`; default: the stored one, else no figures",
    )
    for name in OTHERS:
        add(f"--{name}", type=Path, help=f"JSON of `python -m benchmarks.{name}`; default: likewise")
    add("--out", type=Path, default=DOCS, help="folder to write to; default: docs")
    add(
        "--price-per-hour",
        type=float,
        default=PRICE_PER_HOUR,
        help=f"price of the machine; default: {PRICE_PER_HOUR}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
