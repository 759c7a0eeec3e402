"""The ASGI application."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

from backend.api import errors
from backend.api.deps import PUBLIC, reject_nul, set_chain_id
from backend.api.middleware import BodyLimit, RequestId, RequestMetrics, UnhandledErrors
from backend.api.openapi import build_document
from backend.api.routers import (
    adapters,
    attribution,
    auth,
    channels,
    chat,
    contributions,
    earning_entries,
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
    responses,
    transfers,
    usage,
    webhooks,
)
from backend.api.streams import OpenStreams
from backend.api.uploads import UploadSlots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from backend.api.services import Services
    from backend.settings import Settings

MAX_BODY_BYTES = 4 << 20
"""Limit of every body except uploads. JSON is read into memory whole, before authentication."""
FORM_BYTES = 64 << 10
"""Allowance for the form fields of an upload."""
EXPOSED_HEADERS = (
    *("Link", "Location", "Retry-After", "X-Request-ID", "X-Unverifiable-Operators"),
    *("Tus-Resumable", "Upload-Expires", "Upload-Length", "Upload-Offset"),
)
"""Headers of responses that pages of other origins may read."""
PREFLIGHT_SECONDS = 600
MAX_UPLOADS = 8
"""Concurrent uploads."""
MAX_TRANSFER_CHUNKS = 16
"""Concurrent chunks of resumable transfers."""
MAX_STREAMS = 32
"""Event streams that one network address may have open."""
UPLOADS = {("POST", "/v1/contributions"), ("POST", "/v1/files")}
TRANSFER_CHUNK = ("PATCH", "/v1/transfers/")
ROUTERS = (
    *(auth, models, chat, responses, channels, receipts, attribution, usage),
    *(registry, contributions, transfers, files, fine_tuning, adapters),
    *(earnings, earning_entries, webhooks, governance, ipfs, health, metrics),
)


def create_app(services: Services, settings: Settings) -> FastAPI:
    app = FastAPI(
        title="loraledger",
        summary="LoRA adapters paid per token, with revenue shared among the contributors of their data.",
        lifespan=_lifespan,
        dependencies=[Depends(reject_nul), Depends(set_chain_id)],
        # Spans only, and only if `telemetry.traces` was started; metrics are in `backend.metrics`.
        telemetry={"metrics": False, "logs": False, "operation_spans": False, "auto_configure": False},
        openapi_url=None,  # its route has no rate limit, and its pages load third-party scripts
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = services
    app.state.upload_slots = UploadSlots(MAX_UPLOADS)
    app.state.transfer_slots = UploadSlots(MAX_TRANSFER_CHUNKS)
    app.state.event_streams = OpenStreams(MAX_STREAMS)
    app.state.recordings = set()
    errors.install(app)
    routers = tuple(module.router for module in ROUTERS)
    for router in routers:
        app.include_router(router)
    app.openapi = cache(partial(build_document, app, routers))  # type: ignore[method-assign]
    app.add_api_route("/openapi.json", _get_document, include_in_schema=False, dependencies=PUBLIC)

    def limit_of(method: str, path: str) -> int:
        is_large = (method, path) in UPLOADS or (method, path[: len(TRANSFER_CHUNK[1])]) == TRANSFER_CHUNK
        return settings.max_upload_bytes + FORM_BYTES if is_large else MAX_BODY_BYTES

    app.add_middleware(BodyLimit, limit_of=limit_of)
    app.add_middleware(UnhandledErrors)
    app.add_middleware(RequestMetrics)
    app.add_middleware(RequestId)  # outermost of ours: error responses carry it too
    if settings.browser_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.browser_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )
    return app


def _get_document(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    started: Services = app.state.services
    async with started.live_agreements.running():
        yield
        services: Services = app.state.services
        await services.generate.close()
        await services.rate_limits.close()
        await asyncio.gather(*app.state.recordings, return_exceptions=True)
