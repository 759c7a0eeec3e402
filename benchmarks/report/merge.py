"""Merges reports of `python -m benchmarks.engine`, each of other groups of scenarios, into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COMMON = ("machine", "commit", "num_threads", "num_repeats", "settings")


class ReportError(Exception):
    """A report cannot be used; the message says why."""


def merge(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report with the rows and ratios of all; every ratio compares runs of one report.

    Raises `ReportError` for reports of different machines, commits, settings or versions, and for a row that
    two of them have.
    """
    first = reports[0]
    merged = {**first, "rows": [], "ratios": {}, "ranges": {}, "versions": {}}
    for report in reports:
        for name in _COMMON:
            _check_equal(name, first.get(name), report.get(name))
        for name, version in report["versions"].items():
            _check_equal(f"the version of {name}", merged["versions"].setdefault(name, version), version)
        for name in ("ratios", "ranges"):
            merged[name] |= {key: value for key, value in report[name].items() if value is not None}
        merged["rows"] += report["rows"]
    for name in ("ratios", "ranges"):
        merged[name] = {key: merged[name].get(key) for key in first[name]}
    entries = [(row["contestant"], row["scenario"]) for row in merged["rows"]]
    repeated = next((entry for entry in entries if entries.count(entry) > 1), None)
    if repeated is not None:
        raise ReportError(f"two reports have the row {' / '.join(repeated)}; give one of them")
    merged["is_quiet"] = all(report["is_quiet"] for report in reports)
    merged["finished_at"] = max(report["finished_at"] for report in reports)
    return merged


def _check_equal(name: str, one: object, other: object) -> None:
    if one != other:
        raise ReportError(f"the reports differ in {name}: {one} and {other}; measure their groups again")
