"""The ASGI application."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI

from backend.api import errors
from backend.api.deps import note_chain, refuse_nul
from backend.api.middleware import BodyLimit, Defects, RequestId, Watched
from backend.api.openapi import document
from backend.api.rate_limits import RateLimits
from backend.api.routers import (
    adapters,
    attribution,
    auth,
    channels,
    chat,
    contributions,
    earnings,
    files,
    fine_tuning,
    governance,
    health,
    ipfs,
    metrics,
    models,
    receipts,
    registry,
    transfers,
    usage,
)
from backend.api.uploads import UploadSlots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from backend.api.services import Services
    from backend.settings import Settings

RECURSION_LIMIT = 1000
MAX_BODY_BYTES = 4 << 20
"""Of everything but uploads: JSON is read whole, and before anybody is asked who they are."""
FORM_BYTES = 64 << 10
"""What a form may add to an upload."""
MAX_UPLOADS = 8
"""Taken at once."""
MAX_PIECES = 16
"""Of resumable transfers, taken at once."""
UPLOADS = {("POST", "/v1/contributions"), ("POST", "/v1/files")}
PIECE = ("PATCH", "/v1/transfers/")
ROUTERS = (
    *(auth, models, chat, channels, receipts, attribution, usage),
    *(registry, contributions, transfers, files, fine_tuning, adapters),
    *(earnings, governance, ipfs, health, metrics),
)


def create_app(services: Services, settings: Settings) -> FastAPI:
    # py_ecc, which eth-account brings along, raises the limit a hundredfold: nested JSON would then overflow
    # the C stack and end the process instead of being refused.
    sys.setrecursionlimit(RECURSION_LIMIT)
    app = FastAPI(
        title="loraledger",
        summary="Specialised models, paid per token, and the people whose data made them.",
        lifespan=_lifespan,
        dependencies=[Depends(refuse_nul), Depends(note_chain)],
        # Spans alone, and only where `telemetry.traces` was started; what is counted is in `backend.metrics`.
        telemetry={"metrics": False, "logs": False, "operation_spans": False, "auto_configure": False},
        docs_url=None,  # its page loads scripts from elsewhere; the document itself is at /openapi.json
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = services
    app.state.upload_slots = UploadSlots(MAX_UPLOADS)
    app.state.piece_slots = UploadSlots(MAX_PIECES)
    app.state.recordings = set()
    app.state.rate_limits = RateLimits(settings)
    errors.install(app)
    routers = tuple(module.router for module in ROUTERS)
    for router in routers:
        app.include_router(router)
    app.openapi = cache(partial(document, app, routers))  # type: ignore[method-assign]

    def limit_of(method: str, path: str) -> int:
        is_large = (method, path) in UPLOADS or (method, path[: len(PIECE[1])]) == PIECE
        return settings.max_upload_bytes + FORM_BYTES if is_large else MAX_BODY_BYTES

    app.add_middleware(BodyLimit, limit_of=limit_of)
    app.add_middleware(Defects)
    app.add_middleware(Watched)
    app.add_middleware(RequestId)  # outermost: refusals and defects carry it too
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    services: Services = app.state.services
    await services.generate.close()
    await asyncio.gather(*app.state.recordings, return_exceptions=True)
