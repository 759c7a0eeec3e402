"""Liveness and readiness."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from backend.api.deps import ServicesDep

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Liveness check: the process is running."""
    return {"status": "ok"}


@router.get(
    "/ready", response_model=None, responses={503: {"description": "Components that are unavailable."}}
)
def ready(services: ServicesDep) -> Response:
    """Readiness check. Returns 503 if components are unavailable, with the fault of each and what to do."""
    faults = services.readiness()
    body = {"status": "unavailable" if faults else "ok", "faults": faults}
    return JSONResponse(body, status_code=503 if faults else 200)
