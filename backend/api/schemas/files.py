from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backend.api.schemas.common import INTEGERS_END, Schema, View
from backend.domain.contribution import Upload, UploadState

STATUS = {UploadState.CHECKING: "uploaded", UploadState.INVALID: "error"}
"""OpenAI's status for these states; all others are `processed`."""


class FileFields(Schema):
    """Form fields other than `file`. A file is a contribution, so datanet and licence are required."""

    purpose: Literal["fine-tune"]
    datanet: Annotated[int, Field(ge=1, lt=INTEGERS_END)]
    licence: str
    name: str | None = None


class FileView(View):
    """An upload in OpenAI's format. `bytes`: size of its canonical rows. `state`: the upload's state. Sign
    and submit it by its `id` under `/v1/contributions`.
    """

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["fine-tune"] = "fine-tune"
    status: str
    status_details: str | None
    datanet: int
    licence: str
    state: str

    @classmethod
    def of(cls, upload: Upload) -> FileView:
        first = next(iter(upload.report.defects), None)
        return cls(
            id=upload.id,
            bytes=upload.report.num_bytes,
            created_at=int(upload.created_at.timestamp()),
            filename=upload.name,
            status=STATUS.get(upload.state, "processed"),
            status_details=None if first is None else f"line {first.line}: {first.message}",
            datanet=upload.datanet,
            licence=upload.report.licence,
            state=upload.state,
        )


class FileDeleted(View):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
