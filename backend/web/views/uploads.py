"""An upload of the signed-in contributor: its report, its state, its signature."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.routers.contributions import get_contribution
from backend.api.routers.registry import get_datanet
from backend.web.formats import count, short_hash
from backend.web.proposal import Proposal, Way, propose
from backend.web.rendering import render
from backend.web.route import PageRoute
from backend.web.visitor import SignedInDep

router = APIRouter(prefix="/u", route_class=PageRoute)


@router.get("/{upload_id}")
def show_upload(
    upload_id: str,
    request: Request,
    services: ServicesDep,
    visitor: SignedInDep,
    transfer: Annotated[str, Query(max_length=64, description="Transfer that still has the file")] = "",
) -> Response:
    """The page; for scripts its report alone."""
    upload = get_contribution(upload_id, services, visitor.caller)
    return render(
        request,
        "upload.html",
        "report",
        upload=upload,
        datanet=get_datanet(upload.datanet, services),
        transfer=transfer,
    )


@router.post("/{upload_id}/sign")
def propose_signature(
    upload_id: str, request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    upload = get_contribution(upload_id, services, visitor.caller)
    report = upload.report
    terms = [
        ("Rows", count(report.num_rows)),
        ("Licence", report.licence),
        ("Datanet", get_datanet(upload.datanet, services).name),
        ("Content", short_hash(report.content_hash or "")),
    ]
    effect = (
        "The rows become public under this licence, and are recorded in your name for ever. You can withdraw "
        "them later from new snapshots, not from what was trained before."
    )
    typed_data = services.contributions.typed_data(upload_id, visitor.account)
    way = Way.sign(typed_data, f"/contributions/{upload_id}/submit", {})
    return propose(request, Proposal(f"Contribute {upload.name}", terms, effect, [way]))
