"""Resumable transfers of large files: the tus protocol, behind the wallet that they belong to."""

from __future__ import annotations

import re
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response, status
from starlette.exceptions import HTTPException

from backend.api.deps import ServicesDep, WalletDep
from backend.api.schemas.common import INTEGERS_END, Page
from backend.api.schemas.transfers import TransferView
from backend.api.tus import PIECE_TYPE, SPEAKS_TUS, capabilities, checksum_of, metadata_of, standing
from backend.api.uploads import UploadSlots, body
from backend.domain.errors import InvalidInput

router = APIRouter(prefix="/v1/transfers", tags=["transfers"])

_SHA256 = re.compile(r"[0-9a-f]{64}")
Length = Annotated[int, Header(ge=0, lt=INTEGERS_END)]
PIECE = {"required": True, "content": {PIECE_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


@router.options("", status_code=status.HTTP_204_NO_CONTENT, response_class=Response)
def describe(services: ServicesDep) -> Response:
    """What is spoken here of the tus protocol."""
    return Response(status_code=204, headers=capabilities(services.transfers.max_bytes))


@router.post("", status_code=status.HTTP_201_CREATED, dependencies=SPEAKS_TUS)
def create_transfer(
    services: ServicesDep,
    wallet: WalletDep,
    response: Response,
    upload_length: Length,
    upload_metadata: Annotated[str, Header(description="`filename`, and `sha256` of the file in hex")] = "",
) -> TransferView:
    """Announce a file; its address is the answer's `Location`."""
    told = metadata_of(upload_metadata)
    sha256 = told.get("sha256")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise InvalidInput("sha256 is 64 hex digits in lower case.", "Upload-Metadata")
    name = told.get("filename", "")
    made = services.transfers.create(wallet.account, upload_length, name, sha256, upload_metadata)
    response.headers.update({"location": f"/v1/transfers/{made.id}", **standing(made)})
    return TransferView.model_validate(made)


@router.get("")
def list_transfers(services: ServicesDep, wallet: WalletDep) -> Page[TransferView]:
    """The wallet's own, the one that changed last first."""
    found = services.transfers.find(wallet.account)
    return Page(data=[TransferView.model_validate(one) for one in found])


@router.head("/{transfer}", dependencies=SPEAKS_TUS, response_class=Response)
def ask_transfer(transfer: str, services: ServicesDep, wallet: WalletDep) -> Response:
    """`Upload-Offset` says how much has come."""
    return Response(headers=standing(services.transfers.get(wallet.account, transfer)))


@router.patch(
    "/{transfer}",
    status_code=status.HTTP_204_NO_CONTENT,
    dependencies=SPEAKS_TUS,
    openapi_extra={"requestBody": PIECE},
)
async def send_piece(
    request: Request,
    transfer: str,
    services: ServicesDep,
    wallet: WalletDep,
    upload_offset: Length,
    upload_checksum: Annotated[str, Header(description="`sha256` or `sha1`, and the digest in Base64")] = "",
) -> Response:
    """The bytes from `Upload-Offset` on. Once answered they are on disk."""
    if request.headers.get("content-type") != PIECE_TYPE:
        raise HTTPException(415, f"A piece is of type {PIECE_TYPE}.")
    checksum = checksum_of(upload_checksum)
    slots: UploadSlots = request.app.state.piece_slots
    with slots.take() as thread:
        taken = await to_thread.run_sync(
            services.transfers.append,
            wallet.account,
            transfer,
            upload_offset,
            body(request),
            checksum,
            limiter=thread,
        )
    return Response(status_code=204, headers=standing(taken))


@router.delete("/{transfer}", status_code=status.HTTP_204_NO_CONTENT, dependencies=SPEAKS_TUS)
def delete_transfer(transfer: str, services: ServicesDep, wallet: WalletDep) -> Response:
    services.transfers.remove(wallet.account, transfer)
    return Response(status_code=204)
