"""Datanets: what they collect, their contributions with states and reasons, and curators' reviews."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.paging import PagingDep
from backend.api.routers.registry import Number, get_datanet, list_datanets, list_recorded_contributions
from backend.api.schemas.common import HashField
from backend.api.services import Services
from backend.domain.content import ContentMissing, cid_of
from backend.domain.contribution import ReviewReason
from backend.domain.errors import Forbidden
from backend.domain.hashing import licence_text
from backend.domain.ids import Cid, DatanetId, Hash32
from backend.domain.registries import Contribution
from backend.services.contribute.published import Terms, read_rows, read_terms
from backend.web.formats import short_hash
from backend.web.forms import PageForm
from backend.web.proposal import Proposal, Way, propose
from backend.web.rendering import render
from backend.web.route import PageRoute
from backend.web.visitor import SignedInDep, VisitorDep

router = APIRouter(route_class=PageRoute)
MAX_SNAPSHOTS = 50
"""Newest snapshots on the page of their datanet."""
ROWS = 20
"""Rows of a contribution on one page of its review."""
MAX_ROW = 100_000
"""Rows beyond are not shown: each page reads all rows before it."""
FirstRow = Annotated[int, Query(ge=0, le=MAX_ROW)]


class DatanetForm(PageForm):
    """`description`: Markdown. `licence`: SPDX expression; default: any."""

    name: str
    description: str = ""
    licence: str = ""


class ReviewForm(PageForm):
    """`reason`: 0 accepts."""

    reason: ReviewReason


@router.get("/datanets")
def show_datanets(request: Request, services: ServicesDep, paging: PagingDep) -> Response:
    page = list_datanets(services, paging)
    return render(request, "datanets.html", "listed", datanets=page.data, next_cursor=page.next_cursor)


@router.post("/datanets")
def propose_datanet(
    form: Annotated[DatanetForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    prepared = services.registry.prepare_datanet(visitor.account, form.name, form.description, form.licence)
    terms = [("Name", form.name), ("Licences", form.licence or "any")]
    effect = (
        "Anyone can contribute to it. Description and licences cannot be changed; you freeze its snapshots."
    )
    return propose(request, Proposal(f"Create {form.name}", terms, effect, [Way.send(prepared)]))


@router.get("/d/{datanet}")
def show_datanet(
    datanet: Number, request: Request, services: ServicesDep, paging: PagingDep, visitor: VisitorDep
) -> Response:
    identity, known = DatanetId(datanet), get_datanet(datanet, services)
    withheld = services.denials.why_withheld(Cid(known.cid), identity)
    page = list_recorded_contributions(datanet, services, paging)
    return render(
        request,
        "datanet.html",
        "recorded",
        datanet=known,
        withheld=withheld,
        terms=None if withheld else _terms(services, identity),
        contributions=page.data,
        next_cursor=page.next_cursor,
        snapshots=services.snapshots.newest(identity, MAX_SNAPSHOTS),
        uploads=services.contributions.find(visitor.account, identity) if visitor else [],
        max_bytes=services.transfers.max_bytes,
    )


@router.post("/d/{datanet}/snapshots")
def propose_snapshot(
    datanet: Number, request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    known = services.registry.own_datanet(visitor.account, DatanetId(datanet))
    terms = [
        ("Datanet", known.name),
        ("Contributions", f"the accepted ones of the first {known.num_contributions}"),
    ]
    effect = (
        "Anyone can train on the snapshot from then on. It cannot be changed; you can freeze others later."
    )
    way = Way.ask_operator(f"/datanets/{known.id}/snapshots", {"count": known.num_contributions})
    return propose(request, Proposal("Freeze a snapshot", terms, effect, [way]))


@router.get("/d/{datanet}/c/{content_hash}")
def show_contribution(
    datanet: Number, content_hash: HashField, request: Request, services: ServicesDep, row: FirstRow = 0
) -> Response:
    """One recorded contribution with its rows."""
    return _contribution_page(request, services, datanet, content_hash, row)


@router.get("/d/{datanet}/c/{content_hash}/review")
def show_review(
    datanet: Number,
    content_hash: HashField,
    request: Request,
    services: ServicesDep,
    visitor: SignedInDep,
    row: FirstRow = 0,
) -> Response:
    """The same for curators, with the upload's report and their decision."""
    if not services.registry.is_curator(visitor.account):
        raise Forbidden("Only curators decide about contributions; this wallet is none of them.")
    return _contribution_page(request, services, datanet, content_hash, row, is_review=True)


@router.post("/d/{datanet}/c/{content_hash}/review")
def propose_review(
    datanet: Number,
    content_hash: HashField,
    form: Annotated[ReviewForm, Form()],
    request: Request,
    services: ServicesDep,
    visitor: SignedInDep,
) -> Response:
    asked = visitor.account, DatanetId(datanet), Hash32(content_hash), form.reason
    prepared = services.registry.prepare_review(*asked)
    accepts = form.reason is ReviewReason.NONE
    terms = [
        ("Decision", "accept" if accepts else f"reject: {form.reason.name.lower().replace('_', ' ')}"),
        ("Contribution", short_hash(content_hash)),
    ]
    effect = "Snapshots from now on include it." if accepts else "Snapshots from now on leave it out."
    action = f"{'Accept' if accepts else 'Reject'} a contribution"
    return propose(request, Proposal(action, terms, effect, [Way.send(prepared)]))


def _contribution_page(
    request: Request,
    services: Services,
    datanet: int,
    content_hash: str,
    row: int,
    *,
    is_review: bool = False,
) -> Response:
    found = services.registry.contribution(DatanetId(datanet), Hash32(content_hash))
    return render(
        request,
        "contribution.html",
        datanet=get_datanet(datanet, services),
        contribution=found,
        licence=licence_text(found.licence),
        cid=cid_of(found.cid_digest),
        rows=_rows(services, found, row),
        first_row=row,
        next_row=row + ROWS if row + ROWS < min(found.num_rows, MAX_ROW) else None,
        is_review=is_review,
        report=services.contributions.report_of(found) if is_review else None,
        reasons=[one for one in ReviewReason if one not in {ReviewReason.NONE, ReviewReason.WITHDRAWN}],
    )


def _terms(services: Services, datanet: DatanetId) -> Terms | None:
    """None if they are not stored here."""
    known = services.registry.datanet(datanet)
    return read_terms(services.blobs, known) if services.is_local(cid_of(known.cid_digest)) else None


def _rows(services: Services, contribution: Contribution, start: int) -> list[str] | None:
    """None if the contribution is not stored here. Errors: `ContentWithheld`."""
    cid = cid_of(contribution.cid_digest)
    services.denials.check_content(cid, contribution.datanet)
    if not services.is_local(cid):
        return None
    try:
        return read_rows(services.blobs, contribution, start, ROWS)
    except ContentMissing:
        return None
