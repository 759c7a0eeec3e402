"""Uploads of contributions in the format of OpenAI's files API."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import StreamingResponse

from backend.api.deps import CallerDep, ServicesDep, WalletDep, address_of
from backend.api.idempotency import IdempotentRoute, not_idempotent
from backend.api.schemas.common import CursorPage
from backend.api.schemas.files import FileDeleted, FileFields, FileView
from backend.api.services import Services
from backend.api.uploads import UploadSlots, open_upload_form
from backend.domain.contribution import WITHDRAWAL, Upload
from backend.domain.errors import NotFound
from backend.domain.ids import Account, DatanetId

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=IdempotentRoute)

FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "JSON lines or Parquet."},
                    **FileFields.model_json_schema()["properties"],
                },
                "required": ["file", "purpose", "datanet", "licence"],
            }
        }
    },
}


@router.post("", openapi_extra={"requestBody": FORM})
@not_idempotent
async def create_file(request: Request, services: ServicesDep, wallet: WalletDep) -> FileView:
    """Upload rows for a datanet and check them. `status` is `error` if they have defects, which the upload
    lists.
    """
    slots: UploadSlots = request.app.state.upload_slots
    with slots.take(wallet.account, address_of(request)) as thread:
        async with open_upload_form(request, services.transfers.space) as form:
            fields = _parse_fields(form.fields)
            found = await to_thread.run_sync(
                services.contributions.upload,
                wallet.account,
                DatanetId(fields.datanet),
                fields.name or form.filename,
                form.content,
                fields.licence,
                limiter=thread,
            )
    return FileView.of(found)


@router.get("")
def list_files(
    services: ServicesDep,
    caller: CallerDep,
    purpose: Annotated[str | None, Query()] = None,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
) -> CursorPage[FileView]:
    """List the caller's files, newest first, without withdrawn ones."""
    if purpose not in {None, "fine-tune"}:
        return CursorPage(data=[], has_more=False)
    found = services.contributions.find(
        account=caller.account, limit=limit + 1, after=after, without=WITHDRAWAL
    )
    return CursorPage[FileView].of([FileView.of(upload) for upload in found], limit)


@router.get("/{file_id}")
def get_file(file_id: str, services: ServicesDep, caller: CallerDep) -> FileView:
    """Retrieve a file."""
    return FileView.of(_own(services, file_id, caller.account))


@router.get("/{file_id}/content", response_class=StreamingResponse)
def get_file_content(file_id: str, services: ServicesDep, caller: CallerDep) -> StreamingResponse:
    """Download the canonical rows, as they are or will be published."""
    _own(services, file_id, caller.account)
    return StreamingResponse(services.contributions.content(file_id), media_type="application/x-ndjson")


@router.delete("/{file_id}")
def delete_file(file_id: str, services: ServicesDep, wallet: WalletDep) -> FileDeleted:
    """Withdraw the contribution, as `POST /v1/contributions/{upload_id}/withdraw` does."""
    _own(services, file_id, wallet.account)
    services.contributions.withdraw(file_id)
    return FileDeleted(id=file_id)


def _parse_fields(fields: dict[str, str]) -> FileFields:
    try:
        return FileFields.model_validate(fields)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error


def _own(services: Services, file_id: str, account: Account) -> Upload:
    found = services.contributions.status(file_id)
    if found.account != account or found.state in WITHDRAWAL:
        raise NotFound(f"No file {file_id}.", param="file_id")
    return found
