"""Prometheus metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.responses import PlainTextResponse, Response

from backend.api.deps import ServicesDep, require_metrics_token

router = APIRouter(tags=["health"])

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    dependencies=[Depends(require_metrics_token)],
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
)
async def metrics(services: ServicesDep) -> Response:
    """Metrics of all processes of this installation, in Prometheus' text format."""
    return Response(await services.metrics(), media_type=MEDIA_TYPE)
