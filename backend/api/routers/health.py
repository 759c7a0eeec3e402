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
async def ready(services: ServicesDep) -> Response:
    """Readiness check. Returns 503 if components are unavailable, with the fault of each and what to do. With
    status `degraded` (200) the faults concern some requests only, such as those for one of several base
    models.
    """
    faults = await services.readiness()
    is_unavailable = not all(fault.is_partial for fault in faults.values())
    status = "unavailable" if is_unavailable else "degraded" if faults else "ok"
    body = {"status": status, "faults": {name: fault.text for name, fault in faults.items()}}
    return JSONResponse(body, status_code=503 if is_unavailable else 200)
