"""Contributions: upload, report, sign, submit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, status
from starlette.responses import StreamingResponse

from backend.api.deps import Caller, CallerDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute, keeps_no_answer
from backend.api.paging import PagingDep
from backend.api.schemas.common import INTEGERS_END, Page
from backend.api.schemas.contributions import SubmitRequest, UploadView
from backend.api.services import Services
from backend.api.uploads import UploadSlots, uploaded
from backend.domain.contribution import Upload, UploadState
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Account, DatanetId

router = APIRouter(prefix="/v1/contributions", tags=["contributions"], route_class=IdempotentRoute)


ROWS = {
    "description": "JSON lines or Parquet; none if a transfer brought them.",
    "required": False,
    "content": {
        "application/x-ndjson": {"schema": {"type": "string"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
                "required": ["file"],
            }
        },
    },
}


@router.post("", status_code=status.HTTP_201_CREATED, openapi_extra={"requestBody": ROWS})
@keeps_no_answer
async def upload(
    request: Request,
    services: ServicesDep,
    wallet: WalletDep,
    datanet: Annotated[int, Query(ge=1, lt=INTEGERS_END)],
    name: Annotated[str, Query()],
    licence: Annotated[str, Query(description="SPDX expression")],
    transfer: Annotated[str, Query(description="The rows are what this transfer brought")] = "",
    *,
    accept_partial: Annotated[bool, Query(description="Go without the lines that have a defect")] = False,
) -> UploadView:
    """Rows as the body, as the file `file` of a form, or brought before by a transfer, which goes once they
    are a draft. The report says whether they are sound.
    """
    slots: UploadSlots = request.app.state.upload_slots
    with slots.take() as thread:
        async with _rows(request, services, wallet, transfer) as stream:
            check = partial(services.contributions.upload, accepts_partial=accept_partial)
            found = await to_thread.run_sync(
                check, wallet.account, DatanetId(datanet), name, stream, licence, limiter=thread
            )
    if transfer and found.state is UploadState.DRAFT:
        await to_thread.run_sync(services.transfers.remove, wallet.account, transfer)
    return UploadView.model_validate(found)


@router.get("")
def list_uploads(services: ServicesDep, caller: CallerDep, paging: PagingDep) -> Page[UploadView]:
    """The caller's own, newest first."""
    found = services.contributions.find(account=caller.account, limit=paging.limit + 1, after=paging.after)
    return paging.page(found, lambda upload: upload.id, UploadView.model_validate)


@router.get("/{upload_id}")
def get_upload(upload_id: str, services: ServicesDep, caller: CallerDep) -> UploadView:
    return UploadView.model_validate(_own(services, upload_id, caller.account))


@router.get("/{upload_id}/defects", response_class=StreamingResponse)
def list_defects(upload_id: str, services: ServicesDep, caller: CallerDep) -> StreamingResponse:
    """Everything that is wrong with an upload that is refused or goes without some lines, one JSON object a
    line.
    """
    _own(services, upload_id, caller.account)
    return StreamingResponse(_lines(services, upload_id), media_type="application/x-ndjson")


@router.post("/{upload_id}/typed-data")
def typed_data(upload_id: str, services: ServicesDep, wallet: WalletDep) -> dict[str, Any]:
    """What the contributor's wallet signs (`eth_signTypedData_v4`)."""
    return services.contributions.typed_data(upload_id, wallet.account)


@router.post("/{upload_id}/submit", status_code=status.HTTP_202_ACCEPTED)
def submit(upload_id: str, body: SubmitRequest, services: ServicesDep, wallet: WalletDep) -> UploadView:
    """Publish and relay; following `transaction_id` or this upload's state tells when it is recorded."""
    _own(services, upload_id, wallet.account)
    return UploadView.model_validate(services.contributions.submit(upload_id, body.signature))


@router.post("/{upload_id}/withdraw", status_code=status.HTTP_202_ACCEPTED)
def withdraw(upload_id: str, services: ServicesDep, wallet: WalletDep) -> UploadView:
    """Take it back: what is kept of it here goes at once, and no later snapshot has it once the curators'
    decision is on the chain. Earlier snapshots and what was earned stay.
    """
    _own(services, upload_id, wallet.account)
    return UploadView.model_validate(services.contributions.withdraw(upload_id))


@asynccontextmanager
async def _rows(
    request: Request, services: Services, wallet: Caller, transfer: str
) -> AsyncIterator[Iterator[bytes]]:
    if not transfer:
        async with uploaded(request) as stream:
            yield stream
        return
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise InvalidInput("The rows are either the body or a transfer's.", "transfer")
    yield await to_thread.run_sync(services.transfers.content, wallet.account, transfer)


def _own(services: Services, upload_id: str, account: Account) -> Upload:
    found = services.contributions.status(upload_id)
    if found.account != account:
        raise NotFound(f"No upload {upload_id}.", param="upload_id")
    return found


def _lines(services: Services, upload_id: str) -> Iterator[str]:
    for defect in services.contributions.defects(upload_id):
        yield json.dumps(asdict(defect), ensure_ascii=False) + "\n"
