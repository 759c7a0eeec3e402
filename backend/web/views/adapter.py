"""One adapter: its card, price, lineage, losses, versions and usage."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.routers.models import get_model
from backend.domain.ids import Hash32, VersionId
from backend.web.rendering import render
from backend.web.route import PageRoute

router = APIRouter(route_class=PageRoute)


@router.get("/m/{name:path}")
async def show_adapter(name: str, request: Request, services: ServicesDep) -> Response:
    """`name` as the API's models have it: `owner/name`, `owner/name@version`, a digest, or the base model."""
    model = await get_model(name, services)
    history = await run_in_threadpool(services.lineages.of, VersionId(Hash32(model.version_id)))
    return await run_in_threadpool(
        render,
        request,
        "adapter.html",
        model=model,
        history=history,
        market_url=request.app.state.market_url,
    )
