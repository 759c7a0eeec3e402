"""Adds the pages to the API's application."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from backend.web import assets
from backend.web.route import PageRoute, error_page, finish
from backend.web.session_gate import SessionGate
from backend.web.views import (
    account,
    adapter,
    catalogue,
    channel,
    datanets,
    earnings,
    governance,
    jobs,
    operators,
    play,
    receipt,
    sign_in,
    transactions,
    uploads,
)
from backend.web.visitor import Cookies

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.responses import Response

    from backend.settings import Settings

log = logging.getLogger(__name__)
VIEWS = (
    catalogue,
    adapter,
    receipt,
    datanets,
    uploads,
    jobs,
    play,
    operators,
    account,
    channel,
    earnings,
    governance,
    transactions,
    sign_in,
)
SCRIPT = f"{assets.BUILT}/page.js"


def add_pages(app: FastAPI, settings: Settings) -> None:
    app.state.assets = assets.read_assets()
    app.state.cookies = Cookies(is_secure=settings.origins[0].startswith("https:"))
    app.state.market_url = settings.origins[0]
    app.state.node_url = settings.rpc_url
    if SCRIPT not in app.state.assets:
        log.warning("the scripts of the pages are not built: run `make setup`; until then, pages only read")
    pages = APIRouter(route_class=PageRoute, include_in_schema=False)
    for view in VIEWS:
        pages.include_router(view.router)
    app.include_router(pages)
    app.include_router(assets.router)
    app.add_middleware(SessionGate)
    _show_unknown_paths(app)


def _show_unknown_paths(app: FastAPI) -> None:
    """Answer browsers with a page where the API answers that no endpoint has the path."""
    in_json = app.exception_handlers[HTTPException]

    async def handle(request: Request, error: Exception) -> Response:
        is_browser = "text/html" in request.headers.get("accept", "")
        is_unknown = "route" not in request.scope and not request.url.path.startswith("/v1/")
        if is_browser and is_unknown and isinstance(error, HTTPException):
            return finish(request, error_page(request, HTTPException(404, "No page has this address.")))
        return await in_json(request, error)  # type: ignore[no-any-return, misc]

    app.add_exception_handler(HTTPException, handle)
