from __future__ import annotations

from datetime import datetime
from typing import Any

from backend.api.schemas.common import Schema, View
from backend.domain.contribution import Upload


class DefectView(View):
    line: int
    code: str
    message: str
    field: str | None


class ProfileView(View):
    """Tokens and languages of a sample of the rows, tokens projected onto all unless the sample is all."""

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
    """Rows that are nearly others, of the upload itself and of the datanet; the first hundred of each."""

    num_in_upload: int
    num_in_datanet: int
    first: list[NearCopyView]


class PersonalFindingView(View):
    """`masked`: the first of its kind in the field, so far as it is shown."""

    line: int
    field: str
    kind: str
    masked: str


class PersonalDataView(View):
    """What patterns and checksums find: fields of rows that have it by kind, and the first hundred. Names and
    postal addresses are not looked for.
    """

    counts: dict[str, int]
    first: list[PersonalFindingView]


class ReportView(View):
    """What the check found. `defects`: the first hundred; all of them under `/defects`. `num_left_out`: lines
    with defects that a partly accepted contribution goes without.
    """

    licence: str
    datanet_licence: str | None
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
    `reason`: the curators' code for why it is rejected, and its name if it is one of ours.
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

    @classmethod
    def of(cls, upload: Upload) -> UploadView:
        return cls.model_validate(upload)


class SubmitRequest(Schema):
    """The contributor's signature of the typed data handed out last."""

    signature: str
