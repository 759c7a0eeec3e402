"""The playground: adapters and their base answer side by side, each answer with its bill."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.routers.models import list_models
from backend.api.schemas.common import HashField
from backend.api.schemas.models import ModelFilters
from backend.api.services import Services
from backend.domain.catalogue import Sort
from backend.domain.ids import Hash32
from backend.services.market.catalogue import ModelNotFound
from backend.services.receipts.receipts import ReceiptView
from backend.web.rendering import render
from backend.web.route import PageRoute
from backend.web.visitor import Visitor, VisitorDep

router = APIRouter(prefix="/play", route_class=PageRoute)
OFFERED = 100
"""Most used adapters that the fields suggest."""
Name = Annotated[str, Query(max_length=200)]


@router.get("")
async def show_playground(
    request: Request, services: ServicesDep, visitor: VisitorDep, left: Name = "", right: Name = ""
) -> Response:
    wanted = ModelFilters.model_validate({"sort": Sort.USAGE, "limit": OFFERED})
    page = await list_models(services, wanted)
    bases = {one.id.partition("@")[0]: one.root for one in page.data if one.parent is not None}
    names = list(bases)
    others = [name for name in names if name != left]
    chosen = left or next(iter(names), ""), right or next(iter(others if left else names[1:]), "")
    return await run_in_threadpool(_playground, request, services, visitor, bases, *chosen)


def _playground(
    request: Request,
    services: Services,
    visitor: Visitor | None,
    bases: dict[str, str],
    left: str,
    right: str,
) -> Response:
    """`bases`: name of the base model of each suggested adapter."""
    return render(
        request,
        "play.html",
        bases=bases,
        left=left,
        right=right,
        base=bases.get(left) or _base_of(services, left),
        free=services.channels.list(visitor.account)[0].balance.available if visitor else 0,
    )


def _base_of(services: Services, model: str) -> str:
    """Name of the base model of an adapter that is not suggested; of the first one if it is unknown."""
    try:
        return services.catalogue.base_name(services.catalogue.record(model).base_model)
    except ModelNotFound:
        return services.catalogue.base_name(None)


@router.get("/bills/{number}")
def show_bill(number: HashField, request: Request, services: ServicesDep) -> Response:
    """What one answer cost and whom it pays, for scripts; `number`: of its receipt or its charge."""
    found = services.receipts.find(Hash32(number))
    if isinstance(found, ReceiptView):
        signed = found.stored.signed
        shown: dict[str, Any] = {"body": signed.receipt, "method": signed.method, "weights": found.weights()}
    else:
        shown = {"body": found.signed.charge, "method": None, "weights": None}
    return render(request, "bill.html", number=number, **shown)
