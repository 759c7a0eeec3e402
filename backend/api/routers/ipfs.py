"""IPFS trustless gateway for this installation's blocks: clients verify what they receive.

Source: https://specs.ipfs.tech/http-gateways/trustless-gateway/
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse

from backend.api.deps import ServicesDep, limit_peer
from backend.domain.content import ContentMissing, decode_cid
from backend.domain.errors import InvalidInput
from backend.domain.ids import Cid

router = APIRouter(tags=["ipfs"], dependencies=[Depends(limit_peer)])

RAW, CAR = "application/vnd.ipld.raw", "application/vnd.ipld.car"


@router.get("/ipfs/{cid}", response_class=Response)
def get_block(
    cid: str,
    services: ServicesDep,
    format: Annotated[Literal["raw", "car"] | None, Query()] = None,  # noqa: A002 - the gateway's own name
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Download a block (`format=raw`), or the DAG below it (`format=car`, CARv1, depth first)."""
    root = Cid(str(decode_cid(cid)))
    services.denials.check_block(root)
    if not services.is_local(root):
        raise ContentMissing(f"{root} is not stored here.", "cid", {"cid": root})
    headers = {"cache-control": "public, max-age=29030400, immutable", "x-content-type-options": "nosniff"}
    if format == "car" or (format is None and CAR in accept):
        services.blobs.block(root)  # missing content is a 404 before the stream starts
        headers |= {"etag": f'"{root}.car"', "content-disposition": f'attachment; filename="{root}.car"'}
        media_type = f"{CAR}; version=1; order=dfs; dups=n"
        return StreamingResponse(services.blobs.car(root), media_type=media_type, headers=headers)
    if format == "raw" or RAW in accept:
        headers |= {"etag": f'"{root}.raw"', "content-disposition": f'attachment; filename="{root}.bin"'}
        return Response(services.blobs.block(root), media_type=RAW, headers=headers)
    raise InvalidInput("Set format=raw or format=car: only verifiable formats are served.", "format")
