"""What Prometheus scrapes."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.responses import PlainTextResponse, Response

from backend.api.deps import ServicesDep, admit_operator

router = APIRouter(tags=["health"])

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    dependencies=[Depends(admit_operator)],
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
)
async def metrics(services: ServicesDep) -> Response:
    """What the processes of this installation count, for its operator's Prometheus."""
    return Response(await services.metrics(), media_type=MEDIA_TYPE)
