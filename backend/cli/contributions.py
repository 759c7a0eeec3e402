"""API calls of a contributor, and the text form of an upload's report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.cli.transfers import PIECE_BYTES, transfer_with_progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from backend.cli.api_client import ApiClient

CHECK_SECONDS = 3600
"""Before the API answers, an upload of up to a gigabyte is compared with its whole datanet."""


def upload(
    client: ApiClient, params: Mapping[str, Any], rows: Iterable[bytes] | None = None
) -> dict[str, Any]:
    """Upload rows as a draft; returns the upload with its report. Nothing is recorded on the chain.

    `params`: datanet, name, licence, and the id of a transfer if there are no `rows`.
    """
    draft: dict[str, Any] = client.request(
        "POST", "/v1/contributions", params=params, content=rows, timeout=CHECK_SECONDS
    )
    return draft


def upload_file(client: ApiClient, params: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Upload a file as a draft. A large file is sent resumably, with a progress bar."""
    if path.stat().st_size <= PIECE_BYTES:
        return upload(client, params, [path.read_bytes()])
    return upload(client, {**params, "transfer": transfer_with_progress(client, path)})


def submit(client: ApiClient, upload_id: str) -> dict[str, Any]:
    """Sign a draft; the API publishes it and relays it to the chain."""
    path = f"/v1/contributions/{upload_id}"
    signature = client.wallet.sign_typed_data(client.post(f"{path}/typed-data"))
    submitted: dict[str, Any] = client.post(f"{path}/submit", {"signature": signature})
    return submitted


def withdraw(client: ApiClient, upload_id: str) -> dict[str, Any]:
    """Withdraw a contribution."""
    withdrawn: dict[str, Any] = client.post(f"/v1/contributions/{upload_id}/withdraw")
    return withdrawn


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Render a report as text, defects first, each with line, field, reason and code."""
    for defect in report["defects"]:
        field = f", {defect['field']}" if defect["field"] else ""
        yield f"line {defect['line']}{field}: {defect['message']} [{defect['code']}]"
    num_defects = sum(report["defect_counts"].values())
    if num_defects > len(report["defects"]):
        counts = ", ".join(f"{count:,} {code}" for code, count in report["defect_counts"].items())
        yield f"... and {num_defects - len(report['defects']):,} more; in all {counts}"
    rows = (
        f"{report['num_rows']:,} valid rows of {report['format']}" if report["num_rows"] else "no valid row"
    )
    yield f"{rows}, {num_defects:,} defects, licence {report['licence']}"
    if report["num_left_out"]:
        yield f"partly accepted: {report['num_left_out']:,} lines are left out of the contribution"
    if report["datanet_licence"]:
        yield f"the datanet accepts {report['datanet_licence']}"
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
