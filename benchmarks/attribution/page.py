"""Writes `docs/attribution.md` and its charts from the report of `python -m benchmarks.attribution`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.attribution import accuracy_tables, security_tables
from benchmarks.attribution.accuracy_tables import CHART, ranked
from benchmarks.attribution.chart import Interval, interval_chart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Report = Mapping[str, Any]

HERE = Path(__file__).parent
PAGE, KEPT = "attribution.md", "attribution.json"
MISSING = "Not measured yet; run `make {}`."


def write(folder: Path, report: Report | None) -> None:
    """Write the page to `folder`, and with a report also its charts and JSON. The page follows from the
    stored JSON, whose order of keys can differ from that of `report`.
    """
    (folder / CHART).parent.mkdir(parents=True, exist_ok=True)
    if report is not None:
        (folder / KEPT).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        report = read(folder) or {}
        for study in (*report.get("studies", []), *report.get("small_studies", [])):
            (folder / CHART.format(study["name"])).write_text(chart(study), encoding="utf-8")
    (folder / PAGE).write_text(page(report), encoding="utf-8")


def read(folder: Path) -> dict[str, Any] | None:
    """The report that `write` stored; None without one."""
    path = folder / KEPT
    found: dict[str, Any] | None = json.loads(path.read_bytes()) if path.exists() else None
    return found


def add(folder: Path, key: str, study: str, part: Report) -> dict[str, Any]:
    """Add `part` to what the report in `folder` has of a study under `key`, and return all of it. The report
    is read again, since other processes may have added to it.
    """
    report = read(folder) or {}
    studies = report.get(key, {})
    found = {**studies.get(study, {}), **part}
    write(folder, {**report, key: {**studies, study: found}})
    return found


def page(report: Report | None) -> str:
    """The page as Markdown; it says which figures are missing."""
    text = (HERE / "page.md").read_text(encoding="utf-8")
    for name, (key, target, write_part) in _WRITERS.items():
        is_measured = report is not None and report.get(key)
        part = write_part(report) if report is not None and is_measured else f"{MISSING.format(target)}\n"
        text = text.replace(f"<!-- {name} -->\n", part)
    return text


def chart(study: Report) -> str:
    """LDS of all methods on generated answers, and the ceiling, as SVG."""
    rows = [
        Interval(name, each["by_kind"]["generated"]["lds"], *each["by_kind"]["generated"]["interval"])
        for name, each in ranked(study)
    ]
    title = f"{study['name']}: LDS on generated answers (95 % interval)"
    return interval_chart(title, rows, study["ceiling"].get("generated"))


_WRITERS: Mapping[str, tuple[str, str, Callable[[Report], str]]] = {
    "figures": ("studies", "bench-attribution", accuracy_tables.figures),
    "targets": ("studies", "bench-attribution", accuracy_tables.targets),
    "control": ("studies", "bench-attribution", accuracy_tables.control),
    "differences": ("studies", "bench-attribution", accuracy_tables.differences),
    "small": ("small_studies", "bench-attribution-gemma", accuracy_tables.small),
    "in-sample": ("studies", "bench-attribution", accuracy_tables.in_sample),
    "packages": ("packages", "bench-attribution-packages", accuracy_tables.packages),
    "gaming": ("gaming", "bench-attribution", security_tables.gaming),
    "games": ("games", "bench-attribution-games", security_tables.games),
    "uploads": ("uploads", "bench-attribution-games", security_tables.uploads),
    "rounding": ("rounding", "bench-attribution-rounding", security_tables.rounding),
}
"""By the mark in the template: (key of the report, target of make that measures it, writer)."""
