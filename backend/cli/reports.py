"""Prints an upload's report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.cli.output import echo, print_json
from backend.domain.texts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def print_report(report: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        for line in report_lines(report):
            echo(line)


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Render a report as text, defects first, each with line, field, reason and code."""
    for defect in report["defects"]:
        field = f", {defect['field']}" if defect["field"] else ""
        yield f"line {defect['line']}{field}: {defect['message']} [{defect['code']}]"
    num_defects = sum(report["defect_counts"].values())
    if num_defects > len(report["defects"]):
        counts = ", ".join(f"{count:,} {code}" for code, count in report["defect_counts"].items())
        yield f"... and {num_defects - len(report['defects']):,} more; in all {counts}"
    if not report["num_rows"] and report["defect_counts"].keys() == {"malformed_json"}:
        yield "no line is JSON: a file is JSON Lines or Parquet, see docs/contributing-data.md"
    num_rows = report["num_rows"]
    rows = f"{counted(num_rows, 'valid row')} of {report['format']}" if num_rows else "no valid row"
    yield f"{rows}, {counted(num_defects, 'defect')}, licence {report['licence']}"
    if report["num_left_out"]:
        yield f"partly accepted: the contribution leaves out {counted(report['num_left_out'], 'line')}"
    if report["datanet_licence"]:
        yield f"the datanet accepts {report['datanet_licence']}"
    if report.get("are_terms_unknown"):
        yield "the licence was not compared with the datanet's terms, which are unknown: a curator decides"
    if report["profile"]:
        yield from _profile_lines(report["profile"])
    if report["personal_data"]:
        yield from _personal_lines(report["personal_data"])
    if report["near_copies"]:
        yield from _near_copy_lines(report["near_copies"])


def _profile_lines(profile: Mapping[str, Any]) -> Iterator[str]:
    if profile["num_tokens"] is not None:
        about = "" if profile["is_exact"] else "about "
        yield f"{about}{profile['num_tokens']:,} tokens of the base model"
    languages = ", ".join(f"{code} {count:,}" for code, count in profile["languages"].items())
    yield f"languages of {counted(profile['num_sampled'], 'row')}: {languages}"
    lengths = ", ".join(f"up to {most} {count:,}" for most, count in profile["lengths"].items())
    yield f"rows by characters: {lengths}"


def _personal_lines(personal: Mapping[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in personal["counts"].items()) or "none"
    yield f"personal data recognised by its format: {counts}; names and postal addresses are not detected"
    for found in personal["first"]:
        yield f"  line {found['line']}, {found['field']}: {found['kind']} {found['masked']}"


def _near_copy_lines(near: Mapping[str, Any]) -> Iterator[str]:
    counts = f"{near['num_in_upload']:,} in this upload, {near['num_in_datanet']:,} in the datanet"
    yield f"near-duplicate rows: {counts}"
    for copy in near["first"]:
        source = "" if copy["of_index"] is None else f" of contribution {copy['of_index']}"
        percent = copy["similarity_ppm"] / 10_000
        yield f"  line {copy['line']}: {percent:.0f} % line {copy['of_line']}{source} by {copy['of_account']}"
