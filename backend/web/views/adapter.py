"""One adapter: its card, price, lineage, losses, versions and usage."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.routers.models import get_model
from backend.api.schemas.common import HashField
from backend.domain.errors import Forbidden
from backend.domain.ids import Hash32, VersionId
from backend.domain.registries import Contribution
from backend.services.market.lineage import Lineage, Source
from backend.web.forms import PageForm
from backend.web.proposal import Proposal, Way, propose
from backend.web.rendering import render
from backend.web.route import PageRoute
from backend.web.visitor import SignedInDep

router = APIRouter(route_class=PageRoute)
SHOWN = 20
"""Contributions of a snapshot that the page shows at first."""


class DeprecationForm(PageForm):
    version: HashField


@router.get("/m/{name:path}")
async def show_adapter(
    name: str,
    request: Request,
    services: ServicesDep,
    *,
    shows_all: Annotated[bool, Query(alias="all", description="Show all contributions")] = False,
) -> Response:
    """`name` as the API's models have it: `owner/name`, `owner/name@version`, a digest, or the base model."""
    model = await get_model(name, services)
    history = await run_in_threadpool(services.lineages.of, VersionId(Hash32(model.version_id)))
    return await run_in_threadpool(
        render,
        request,
        "adapter.html",
        "state",
        model=model,
        history=history,
        contributions=[_by_earnings(one, history, None if shows_all else SHOWN) for one in history.sources],
        market_url=request.app.state.market_url,
    )


def _by_earnings(source: Source, history: Lineage, most: int | None) -> list[Contribution]:
    """The contributions that earned most, the first one first."""
    earned = history.earned
    ordered = sorted(source.contributions, key=lambda one: -earned.get((one.datanet, one.index or 0), 0))
    return ordered[:most]


@router.post("/deprecation")
def propose_deprecation(
    form: Annotated[DeprecationForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    version = VersionId(Hash32(form.version))
    record = services.registry.version(version)
    if record.creator != visitor.account:
        raise Forbidden(f"Only {record.creator}, who registered this version, can deprecate it.")
    prepared = services.registry.prepare_deprecation(record)
    terms = [("Adapter", record.name), ("Version", version)]
    effect = "Who names the adapter without a version gets another one. It cannot be undone."
    return propose(request, Proposal("Deprecate a version", terms, effect, [Way.send(prepared)]))
