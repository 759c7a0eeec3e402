"""Plain ASGI middleware, so that streams pass through unbuffered."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from backend.api.errors import error_body, internal_error_body
from backend.metrics import REQUESTS, RESPONSE_START
from telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

POLLED = frozenset({"/health", "/ready", "/metrics"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """`x-request-id`: the client's if it is a sane one, else ours; on every response, beside the headers that
    whoever handled the request has put into `request.state.headers`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = Headers(scope=scope).get("x-request-id", "")
        request_id = wanted if _REQUEST_ID.fullmatch(wanted) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        marked = logs.request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {"x-request-id": request_id, **scope["state"].get("headers", {})}
                MutableHeaders(scope=message).update(own)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            logs.request_id.reset(marked)


class Watched:
    """Counts and times every request, by its route: paths hold names, of which there can be any number."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_and_count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                route, method = route_of(scope), _method(scope)
                REQUESTS.labels(method, route, message["status"]).inc()
                RESPONSE_START.labels(method, route).observe(time.perf_counter() - started)
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        finally:
            self._log(scope, status, time.perf_counter() - started)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        """By its route: paths and queries may hold what is its owner's alone. 0: no answer was begun."""
        route, method = route_of(scope), _method(scope)
        level = logging.DEBUG if route in POLLED else logging.INFO
        fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        log.log(level, "%s %s: %d in %.3f s", method, route, status, seconds, extra=fields)


def route_of(scope: Scope) -> str:
    """As the API's document names it; one name for all that leads nowhere."""
    return str(getattr(scope.get("route"), "path", "none"))


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "other"


class Defects:
    """Answers what nobody handled in the shape of all errors; the inside goes to the log only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = has_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if scope["type"] != "http" or has_started:
                raise
            log.exception("defect in request %s", scope["state"]["request_id"])
            await JSONResponse(internal_error_body(), status_code=500)(scope, receive, send)


class BodyLimit:
    """Refuses bodies above `limit_of(method, path)` bytes, by their announced length or as they arrive."""

    def __init__(self, app: ASGIApp, limit_of: Callable[[str, str], int]) -> None:
        self._app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope["method"], scope["path"])
        text = f"The body is larger than {limit} bytes."
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > limit:
            body = error_body(413, text, "body_too_large")
            await JSONResponse(body, status_code=413)(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, text)  # the one kind that body parsers hand on untouched
            return message

        await self._app(scope, receive_within_limit, send)
