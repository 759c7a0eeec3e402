"""The model catalogue in the format of OpenAI's models API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from backend.api.deps import PUBLIC, ServicesDep
from backend.api.paging import QueryCursors
from backend.api.schemas.common import Page
from backend.api.schemas.models import ModelFilters, ModelView
from backend.api.services import Services
from backend.domain.ids import Hash32, VersionId
from backend.ports.engine import EngineState, active_adapters
from backend.services.market.catalogue import ListedModel

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=PUBLIC)


@router.get("")
async def list_models(services: ServicesDep, filters: Annotated[ModelFilters, Query()]) -> Page[ModelView]:
    """List models: the newest version of each name, and the base models. Licences, cards and metrics of a new
    version appear within seconds of its registration.
    """
    engines, search = await services.generate.engine_states(), filters.search()
    cursors = QueryCursors(asdict(search))
    after = None if filters.after is None else cursors.read(filters.after, _version)
    limit = None if filters.limit is None else filters.limit + 1
    found = await run_in_threadpool(services.catalogue.find, search, active_adapters(engines), after, limit)
    page = found[: filters.limit]
    has_more = len(found) > len(page)
    return Page(
        data=[_view(services, listed, engines) for listed in page],
        next_cursor=cursors.write(page[-1].model.id) if has_more else None,
    )


@router.get("/{model:path}")
async def get_model(model: str, services: ServicesDep) -> ModelView:
    """Retrieve a model by `owner/name`, `owner/name@version`, version id, adapter digest, or a base model's
    name. `card.text` has the whole card.
    """
    engines = await services.generate.engine_states()
    found = await services.generate.model(model)
    listed = await run_in_threadpool(services.catalogue.describe, found)
    return _view(services, listed, engines)


def _view(services: Services, listed: ListedModel, engines: Mapping[Hash32, EngineState]) -> ModelView:
    base = listed.model.record.base_model
    return ModelView.of(listed, services.catalogue.base_name(base), engines[base])


def _version(text: str) -> VersionId:
    if not text:
        raise ValueError("no version")
    return VersionId(Hash32(text))
