"""What a contributor does at an installation's API, and how its report reads on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.cli.transfers import PIECE_BYTES, transfer_shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from backend.cli.client import Market

CHECK_SECONDS = 3600
"""An upload of a gigabyte is compared with its whole datanet before the answer comes."""


def upload(market: Market, where: Mapping[str, Any], rows: Iterable[bytes] | None = None) -> dict[str, Any]:
    """The upload with its report; nothing is recorded. `where`: datanet, name, licence; a transfer's id
    if there are no `rows`.
    """
    found: dict[str, Any] = market.request(
        "POST", "/v1/contributions", params=where, content=rows, timeout=CHECK_SECONDS
    )
    return found


def upload_file(market: Market, where: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """As `upload`. A large file goes in pieces, with its progress shown, and onward from where an earlier
    attempt stopped.
    """
    if path.stat().st_size <= PIECE_BYTES:
        return upload(market, where, [path.read_bytes()])
    return upload(market, {**where, "transfer": transfer_shown(market, path)})


def submit(market: Market, upload_id: str) -> dict[str, Any]:
    """Sign a draft, and have it published and relayed to the chain."""
    path = f"/v1/contributions/{upload_id}"
    signature = market.wallet.sign_typed_data(market.post(f"{path}/typed-data"))
    submitted: dict[str, Any] = market.post(f"{path}/submit", {"signature": signature})
    return submitted


def withdraw(market: Market, upload_id: str) -> dict[str, Any]:
    """Take a contribution back."""
    found: dict[str, Any] = market.post(f"/v1/contributions/{upload_id}/withdraw")
    return found


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """For people: what is wrong first, each with its line, field, reason and code."""
    for defect in report["defects"]:
        field = f", {defect['field']}" if defect["field"] else ""
        yield f"line {defect['line']}{field}: {defect['message']} [{defect['code']}]"
    num_defects = sum(report["defect_counts"].values())
    if num_defects > len(report["defects"]):
        counts = ", ".join(f"{count:,} {code}" for code, count in report["defect_counts"].items())
        yield f"... and {num_defects - len(report['defects']):,} more; in all {counts}"
    what = (
        f"{report['num_rows']:,} sound rows of {report['format']}" if report["num_rows"] else "no sound row"
    )
    yield f"{what}, {num_defects:,} defects, licence {report['licence']}"
    if report["num_left_out"]:
        yield f"partly accepted: the contribution goes without {report['num_left_out']:,} lines"
    if report["datanet_licence"]:
        yield f"the datanet takes {report['datanet_licence']}"
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
    yield f"languages of {profile['num_sampled']:,} rows: {languages}"
    lengths = ", ".join(f"up to {most} {count:,}" for most, count in profile["lengths"].items())
    yield f"rows by characters: {lengths}"


def _personal_lines(personal: Mapping[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in personal["counts"].items()) or "none"
    yield f"personal data found by its form: {counts}; names and postal addresses are not looked for"
    for found in personal["first"]:
        yield f"  line {found['line']}, {found['field']}: {found['kind']} {found['masked']}"


def _near_copy_lines(near: Mapping[str, Any]) -> Iterator[str]:
    counts = f"{near['num_in_upload']:,} of this upload, {near['num_in_datanet']:,} of the datanet"
    yield f"rows that are nearly others: {counts}"
    for copy in near["first"]:
        where = "" if copy["of_index"] is None else f" of contribution {copy['of_index']}"
        alike = copy["similarity_ppm"] / 10_000
        yield f"  line {copy['line']}: {alike:.0f} % line {copy['of_line']}{where} by {copy['of_account']}"
