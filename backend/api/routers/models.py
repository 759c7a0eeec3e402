"""The model catalogue in the format of OpenAI's models API."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from backend.api.deps import ServicesDep
from backend.api.paging import QueryCursors
from backend.api.schemas.common import Page
from backend.api.schemas.models import ModelFilters, ModelView
from backend.domain.ids import Hash32, VersionId

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(services: ServicesDep, filters: Annotated[ModelFilters, Query()]) -> Page[ModelView]:
    """List models: the newest version of each name, and the base model. Licences, cards and metrics of a new
    version appear within seconds of its registration.
    """
    engine, search = await services.generate.engine_state(), filters.search()
    cursors = QueryCursors(asdict(search))
    after = None if filters.after is None else cursors.read(filters.after, _version)
    limit = None if filters.limit is None else filters.limit + 1
    found = await run_in_threadpool(services.catalogue.find, search, engine.active_adapters, after, limit)
    base_name, page = services.catalogue.base_name, found[: filters.limit]
    has_more = len(found) > len(page)
    return Page(
        data=[ModelView.of(listed, base_name, engine) for listed in page],
        next_cursor=cursors.write(page[-1].model.id) if has_more else None,
    )


@router.get("/{model:path}")
async def get_model(model: str, services: ServicesDep) -> ModelView:
    """Retrieve a model by `owner/name`, `owner/name@version`, version id, adapter digest, or the base model's
    name. `card.text` has the whole card.
    """
    engine = await services.generate.engine_state()
    found = await services.generate.model(model)
    listed = await run_in_threadpool(services.catalogue.describe, found)
    return ModelView.of(listed, services.catalogue.base_name, engine)


def _version(text: str) -> VersionId:
    if not text:
        raise ValueError("no version")
    return VersionId(Hash32(text))
