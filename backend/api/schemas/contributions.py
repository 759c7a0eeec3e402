from __future__ import annotations

from datetime import datetime
from typing import Any

from backend.api.schemas.common import Schema, View


class DefectView(View):
    line: int
    code: str
    message: str
    field: str | None


class ProfileView(View):
    """Tokens and languages of a sample of the rows. `num_tokens` is extrapolated to all rows unless
    `is_exact`.
    """

    num_sampled: int
    is_exact: bool
    num_tokens: int | None
    languages: dict[str, int]
    lengths: dict[str, int]


class NearCopyView(View):
    line: int
    of_line: int
    of_account: str
    of_index: int | None
    similarity_ppm: int


class NearCopiesView(View):
    """Near-duplicate rows, within the upload and of rows in the datanet; `first`: up to 100 of each."""

    num_in_upload: int
    num_in_datanet: int
    first: list[NearCopyView]


class PersonalFindingView(View):
    """`masked`: the first match of this kind in the field, partly masked."""

    line: int
    field: str
    kind: str
    masked: str


class PersonalDataView(View):
    """Personal data found by patterns and checksums: the number of fields by kind, and the first 100 matches.
    Names and postal addresses are not detected.
    """

    counts: dict[str, int]
    first: list[PersonalFindingView]


class ReportView(View):
    """Result of the check. `defects`: the first 100; `/defects` returns all. `num_left_out`: lines with
    defects that a partly accepted contribution excludes. `are_terms_unknown`: no reachable operator has the
    datanet's terms, so the licence was not compared with them, and the contribution is not accepted
    automatically.
    """

    licence: str
    datanet_licence: str | None
    are_terms_unknown: bool
    format: str | None
    num_rows: int
    num_characters: int
    num_bytes: int
    content_hash: str | None
    cid: str | None
    num_defects: int
    defect_counts: dict[str, int]
    num_left_out: int
    defects: list[DefectView]
    profile: ProfileView | None
    personal_data: PersonalDataView | None
    near_copies: NearCopiesView | None


class UploadView(View):
    """`state`: checking, invalid, draft, submitted, recorded, accepted, rejected, withdrawing or withdrawn.
    `reason`: the curators' rejection code; `reason_name`: its name, if the code is a standard one.
    """

    id: str
    account: str
    datanet: int
    name: str
    state: str
    created_at: datetime
    report: ReportView
    transaction_id: int | None
    index: int | None
    reason: int | None
    reason_name: str | None
    error: dict[str, Any] | None


class SubmitRequest(Schema):
    """The contributor's signature of the most recent typed data."""

    signature: str
