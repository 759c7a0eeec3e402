"""Liveness and readiness."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from backend.api.deps import ServicesDep

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/ready", response_model=None, responses={503: {"description": "Parts that do not answer."}})
def ready(services: ServicesDep) -> Response:
    """All parts answer; else 503 that names those which do not, and says what to do about each."""
    faults = services.readiness()
    body = {"status": "unavailable" if faults else "ok", "faults": faults}
    return JSONResponse(body, status_code=503 if faults else 200)
