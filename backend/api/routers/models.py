"""The model catalogue in the format of OpenAI's models API."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from backend.api.deps import ServicesDep
from backend.api.schemas.common import Page
from backend.api.schemas.models import ModelView

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(services: ServicesDep) -> Page[ModelView]:
    """List models: the base model, then the newest version of each name."""
    engine = await services.generate.engine_state()
    models = await run_in_threadpool(services.catalogue.models)
    provenance = await run_in_threadpool(services.provenance.of, models)
    base_name = services.catalogue.base_name
    return Page(data=[ModelView.of(model, provenance[model.id], base_name, engine) for model in models])


@router.get("/{model:path}")
async def get_model(model: str, services: ServicesDep) -> ModelView:
    """Retrieve a model by `owner/name`, `owner/name@version`, version id, adapter digest, or the base model's
    name.
    """
    engine = await services.generate.engine_state()
    found = await services.generate.model(model)
    provenance = await run_in_threadpool(services.provenance.of, [found])
    return ModelView.of(found, provenance[found.id], services.catalogue.base_name, engine)
