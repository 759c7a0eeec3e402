"""Resumable uploads of large files by the tus protocol. A transfer belongs to the wallet that created it."""

from __future__ import annotations

import re
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response, status
from starlette.exceptions import HTTPException

from backend.api.deps import PUBLIC, ServicesDep, WalletDep, address_of
from backend.api.schemas.common import INTEGERS_END, Page
from backend.api.schemas.transfers import TransferView
from backend.api.tus import (
    CHUNK_TYPE,
    TUS_DEPENDENCIES,
    capabilities,
    parse_checksum,
    parse_metadata,
    progress_headers,
)
from backend.api.uploads import UploadSlots, body
from backend.domain.errors import InvalidInput

router = APIRouter(prefix="/v1/transfers", tags=["transfers"])

_SHA256 = re.compile(r"[0-9a-f]{64}")
Length = Annotated[int, Header(ge=0, lt=INTEGERS_END)]
CHUNK_BODY = {"required": True, "content": {CHUNK_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


@router.options("", status_code=status.HTTP_204_NO_CONTENT, response_class=Response, dependencies=PUBLIC)
def get_transfer_capabilities(services: ServicesDep) -> Response:
    """Supported version and extensions of the tus protocol."""
    return Response(status_code=204, headers=capabilities(services.transfers.max_bytes))


@router.post("", status_code=status.HTTP_201_CREATED, dependencies=TUS_DEPENDENCIES)
def create_transfer(
    services: ServicesDep,
    wallet: WalletDep,
    response: Response,
    upload_length: Length,
    upload_metadata: Annotated[str, Header(description="`filename`, and `sha256` of the file in hex")] = "",
) -> TransferView:
    """Create a transfer. The response's `Location` is its URL."""
    metadata = parse_metadata(upload_metadata)
    sha256 = metadata.get("sha256")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise InvalidInput("sha256 must be 64 lower-case hex digits.", "Upload-Metadata")
    name = metadata.get("filename", "")
    made = services.transfers.create(wallet.account, upload_length, name, sha256, upload_metadata)
    response.headers.update({"location": f"/v1/transfers/{made.id}", **progress_headers(made)})
    return TransferView.model_validate(made)


@router.get("")
def list_transfers(services: ServicesDep, wallet: WalletDep) -> Page[TransferView]:
    """List the wallet's transfers, most recently changed first."""
    found = services.transfers.find(wallet.account)
    return Page(data=[TransferView.model_validate(one) for one in found])


@router.head("/{transfer}", dependencies=TUS_DEPENDENCIES, response_class=Response)
def get_transfer_offset(transfer: str, services: ServicesDep, wallet: WalletDep) -> Response:
    """Retrieve the number of bytes received, as `Upload-Offset`."""
    return Response(headers=progress_headers(services.transfers.get(wallet.account, transfer)))


@router.patch(
    "/{transfer}",
    status_code=status.HTTP_204_NO_CONTENT,
    dependencies=TUS_DEPENDENCIES,
    openapi_extra={"requestBody": CHUNK_BODY},
)
async def append_to_transfer(
    request: Request,
    transfer: str,
    services: ServicesDep,
    wallet: WalletDep,
    upload_offset: Length,
    upload_checksum: Annotated[str, Header(description="`sha256` or `sha1`, and the digest in Base64")] = "",
) -> Response:
    """Append bytes from `Upload-Offset` on. They are durable once the response is sent."""
    if request.headers.get("content-type") != CHUNK_TYPE:
        raise HTTPException(415, f"The content type must be {CHUNK_TYPE}.")
    checksum = parse_checksum(upload_checksum)
    slots: UploadSlots = request.app.state.transfer_slots
    with slots.take(wallet.account, address_of(request)) as thread:
        transfer_state = await to_thread.run_sync(
            services.transfers.append,
            wallet.account,
            transfer,
            upload_offset,
            body(request),
            checksum,
            limiter=thread,
        )
    return Response(status_code=204, headers=progress_headers(transfer_state))


@router.delete("/{transfer}", status_code=status.HTTP_204_NO_CONTENT, dependencies=TUS_DEPENDENCIES)
def delete_transfer(transfer: str, services: ServicesDep, wallet: WalletDep) -> Response:
    """Delete a transfer."""
    services.transfers.remove(wallet.account, transfer)
    return Response(status_code=204)
