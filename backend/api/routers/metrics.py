"""What Prometheus scrapes."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import HTTPAuthorizationCredentials
from starlette.responses import PlainTextResponse, Response

from backend.api.deps import ServicesDep, bearer
from backend.domain.errors import Unauthenticated

router = APIRouter(tags=["health"])

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def admit_scraper(
    services: ServicesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Revenue and exposure are nobody's business but the operator's, who holds the token."""
    shown = credentials.credentials.encode() if credentials else b""
    if not hmac.compare_digest(shown, services.metrics_token().encode()):
        raise Unauthenticated("Send 'Authorization: Bearer' with the operator's metrics token.")


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    dependencies=[Depends(admit_scraper)],
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
)
async def metrics(services: ServicesDep) -> Response:
    """What the processes of this installation count, for its operator's Prometheus."""
    return Response(await services.metrics(), media_type=MEDIA_TYPE)
