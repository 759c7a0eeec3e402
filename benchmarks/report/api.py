"""Renders the rates of receipts and events for `docs/benchmarks.md` from the JSON of `benchmarks.api`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.report.merge import ReportError
from benchmarks.report.origin import commit_text, cpu_text
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Mapping

PARTS = "--only receipts events"
FIGURES = {"receipts_signed": "receipts signed", "events_indexed": "events of the chain indexed"}


def api_section(report: Mapping[str, Any] | None) -> str:
    """The section as Markdown; without a report it says that the figures are missing. Raises `ReportError` if
    the report lacks some of them.
    """
    head = ["## Receipts and events per second", ""]
    return "\n".join(
        [*head, *(["Not yet measured on an idle machine.", ""] if report is None else _rates(report))]
    )


def _rates(report: Mapping[str, Any]) -> list[str]:
    machine, rows = report["machine"], {row["name"]: row for row in report["rows"]}
    needed = [f"{name}{suffix}_s" for name in FIGURES for suffix in ("", "_postgresql")]
    if missing := [name for name in needed if name not in rows]:
        raise ReportError(f"the report of benchmarks.api lacks {', '.join(missing)}; run it with {PARTS}")
    text = (
        f"Measured by `python -m benchmarks.api {PARTS} --json` on {cpu_text(machine)} with "
        f"{machine['num_cores']} cores, {commit_text(report)}, {report['finished_at']}. Receipts: the "
        "clients call the service that answers in its process, without HTTP, authentication and rate limits. "
        "Events: one indexer. Median and range of the repeats; PostgreSQL and the node share the machine."
    )
    pairs = [(label, rows[f"{name}_s"], rows[f"{name}_postgresql_s"]) for name, label in FIGURES.items()]
    cells = [
        [label, _spread(sqlite), _spread(postgres), f"{postgres['median'] / sqlite['median']:.2f}"]
        for label, sqlite, postgres in pairs
    ]
    head = ["per second", "SQLite", "PostgreSQL", "ratio"]
    methods = [f"- {label}: {row['method']}." for label, *of_both in pairs for row in of_both]
    return [text, "", *table(head, cells), "", *methods, ""]


def _spread(row: Mapping[str, float]) -> str:
    return f"{row['median']:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})"
