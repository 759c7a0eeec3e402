"""The catalogue in OpenAI's shape."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.deps import ServicesDep
from backend.api.schemas.common import Page
from backend.api.schemas.models import ModelView

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(services: ServicesDep) -> Page[ModelView]:
    catalogue = services.catalogue
    return Page(data=[ModelView.of(model, catalogue.base_name) for model in catalogue.models()])


@router.get("/{model:path}")
def get_model(model: str, services: ServicesDep) -> ModelView:
    return ModelView.of(services.catalogue.resolve(model), services.catalogue.base_name)
