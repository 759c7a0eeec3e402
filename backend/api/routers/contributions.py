"""Contributions: upload, report, signature, submission."""

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

from backend.api.deps import Caller, CallerDep, ServicesDep, WalletDep, address_of
from backend.api.idempotency import IdempotentRoute, not_idempotent
from backend.api.paging import PagingDep
from backend.api.schemas.common import INTEGERS_END, Page
from backend.api.schemas.contributions import SubmitRequest, UploadView
from backend.api.services import Services
from backend.api.uploads import UploadSlots, open_upload
from backend.domain.contribution import Upload, UploadState
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Account, DatanetId

router = APIRouter(prefix="/v1/contributions", tags=["contributions"], route_class=IdempotentRoute)


ROWS = {
    "description": "JSON lines or Parquet; empty if the rows come from a transfer.",
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
@not_idempotent
async def create_contribution(
    request: Request,
    services: ServicesDep,
    wallet: WalletDep,
    datanet: Annotated[int, Query(ge=1, lt=INTEGERS_END)],
    name: Annotated[str, Query()],
    licence: Annotated[str, Query(description="SPDX expression")],
    transfer: Annotated[str, Query(description="Id of a completed transfer that has the rows")] = "",
    *,
    accept_partial: Annotated[bool, Query(description="Exclude lines that have a defect")] = False,
) -> UploadView:
    """Upload rows as the body, as the file `file` of a form, or from a completed transfer, which is deleted
    once the upload is a draft. The report has the defects.
    """
    slots: UploadSlots = request.app.state.upload_slots
    with slots.take(wallet.account, address_of(request)) as thread:
        async with _rows(request, services, wallet, transfer) as stream:
            check = partial(services.contributions.upload, accepts_partial=accept_partial)
            found = await to_thread.run_sync(
                check, wallet.account, DatanetId(datanet), name, stream, licence, limiter=thread
            )
    if transfer and found.state is UploadState.DRAFT:
        await to_thread.run_sync(services.transfers.remove, wallet.account, transfer)
    return UploadView.model_validate(found)


@router.get("")
def list_contributions(services: ServicesDep, caller: CallerDep, paging: PagingDep) -> Page[UploadView]:
    """List the caller's uploads, newest first."""
    found = services.contributions.find(account=caller.account, limit=paging.limit + 1, after=paging.after)
    return paging.page(found, lambda upload: upload.id, UploadView.model_validate)


@router.get("/{upload_id}")
def get_contribution(upload_id: str, services: ServicesDep, caller: CallerDep) -> UploadView:
    """Retrieve an upload."""
    return UploadView.model_validate(_own(services, upload_id, caller.account))


@router.get("/{upload_id}/defects", response_class=StreamingResponse)
def list_defects(upload_id: str, services: ServicesDep, caller: CallerDep) -> StreamingResponse:
    """List all defects of an upload that is invalid or partly accepted, one JSON object per line."""
    _own(services, upload_id, caller.account)
    return StreamingResponse(_lines(services, upload_id), media_type="application/x-ndjson")


@router.post("/{upload_id}/typed-data")
def get_typed_data(upload_id: str, services: ServicesDep, wallet: WalletDep) -> dict[str, Any]:
    """Create the typed data that the contributor's wallet signs (`eth_signTypedData_v4`)."""
    return services.contributions.typed_data(upload_id, wallet.account)


@router.post("/{upload_id}/submit", status_code=status.HTTP_202_ACCEPTED)
def submit_contribution(
    upload_id: str, body: SubmitRequest, services: ServicesDep, wallet: WalletDep
) -> UploadView:
    """Publish the rows and relay the signed contribution. Poll `transaction_id` or the upload's `state` until
    it is recorded.
    """
    _own(services, upload_id, wallet.account)
    return UploadView.model_validate(services.contributions.submit(upload_id, body.signature))


@router.post("/{upload_id}/withdraw", status_code=status.HTTP_202_ACCEPTED)
def withdraw_contribution(upload_id: str, services: ServicesDep, wallet: WalletDep) -> UploadView:
    """Withdraw a contribution. Its rows are deleted here at once, and later snapshots exclude it once the
    curators' decision is on the chain. Earlier snapshots and earnings are unaffected.
    """
    _own(services, upload_id, wallet.account)
    return UploadView.model_validate(services.contributions.withdraw(upload_id))


@asynccontextmanager
async def _rows(
    request: Request, services: Services, wallet: Caller, transfer: str
) -> AsyncIterator[Iterator[bytes]]:
    if not transfer:
        async with open_upload(request, services.transfers.space) as stream:
            yield stream
        return
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise InvalidInput("Send the rows as the body or as a transfer, not both.", "transfer")
    yield await to_thread.run_sync(services.transfers.content, wallet.account, transfer)


def _own(services: Services, upload_id: str, account: Account) -> Upload:
    found = services.contributions.status(upload_id)
    if found.account != account:
        raise NotFound(f"No upload {upload_id}.", param="upload_id")
    return found


def _lines(services: Services, upload_id: str) -> Iterator[str]:
    for defect in services.contributions.defects(upload_id):
        yield json.dumps(asdict(defect), ensure_ascii=False) + "\n"
