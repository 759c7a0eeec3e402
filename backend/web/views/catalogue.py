"""The catalogue: what this operator serves, with search, filters and order."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.routers.models import list_models
from backend.api.schemas.models import ModelFilters
from backend.web.forms import PageForm
from backend.web.rendering import render
from backend.web.route import PageRoute

router = APIRouter(route_class=PageRoute)
ROWS = 50


class CatalogueFilters(PageForm, ModelFilters):
    """The API's filters as a form sends them: fields that are left empty do not filter."""

    limit: int | None = Field(ROWS, ge=1, le=ROWS)


@router.get("/")
async def show_catalogue(
    request: Request, services: ServicesDep, filters: Annotated[CatalogueFilters, Query()]
) -> Response:
    page = await list_models(services, filters)
    asked = {name: text for name, text in request.query_params.items() if text and name != "after"}
    return await run_in_threadpool(
        render,
        request,
        "catalogue.html",
        "results",
        models=page.data,
        asked=asked,
        next_query=urlencode({**asked, "after": page.next_cursor}) if page.next_cursor else None,
        is_first=filters.after is None,
        bases=[base.name for base in services.catalogue.bases],
    )
