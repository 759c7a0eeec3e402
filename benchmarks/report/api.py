"""Renders the rates of receipts and events for `docs/benchmarks.md` from the JSON of `benchmarks.api`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.report.origin import commit_text, cpu_text
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Mapping

FIGURES = {"receipts_signed": "receipts signed", "events_indexed": "events of the chain indexed"}


def api_section(report: Mapping[str, Any] | None) -> str:
    """The section as Markdown; without a report it says that the figures are missing."""
    head = ["## Receipts and events per second", ""]
    return "\n".join(
        [*head, *(["Not yet measured on an idle machine.", ""] if report is None else _rates(report))]
    )


def _rates(report: Mapping[str, Any]) -> list[str]:
    machine, rows = report["machine"], {row["name"]: row for row in report["rows"]}
    text = (
        f"Measured by `python -m benchmarks.api --only receipts events --json` on {cpu_text(machine)} with "
        f"{machine['num_cores']} cores, {commit_text(report)}, {report['finished_at']}. One API process, or "
        "one indexer; median and range of the repeats. The clients share the machine, and so does PostgreSQL."
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
