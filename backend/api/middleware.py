"""Pure ASGI middleware: streams pass through unbuffered."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

import anyio
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
STALL_SECONDS = 60
MIN_BYTES_PER_SECOND = 4 << 10
"""On average, after the first `STALL_SECONDS`: a body holds memory, and an upload one of few slots."""
STALLED = (
    f"The body took {STALL_SECONDS} seconds without data, or more than a second for {MIN_BYTES_PER_SECOND} "
    "bytes; send it again."
)
CUT_OFF = "The connection ended before the body did."
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Adds `x-request-id` to every response: the client's if it is well-formed, else a generated one. Also
    adds the headers that the endpoint has set in `request.state.headers`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get("x-request-id", "")
        request_id = client_id if _REQUEST_ID.fullmatch(client_id) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        token = logs.request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {"x-request-id": request_id, **scope["state"].get("headers", {})}
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            logs.request_id.reset(token)


class RequestMetrics:
    """Counts, times and logs requests by route. Paths have ids, so their number is not bounded."""

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
        """Log the route only: paths and queries may have private data. Status 0: no response was started."""
        route, method = route_of(scope), _method(scope)
        level = logging.DEBUG if route in POLLED else logging.INFO
        fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        log.log(level, "%s %s: %d in %.3f s", method, route, status, seconds, extra=fields)


def route_of(scope: Scope) -> str:
    """The route's path template, as in the OpenAPI document; `none` if no route matches."""
    return str(getattr(scope.get("route"), "path", "none"))


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "other"


class UnhandledErrors:
    """Responds to unhandled exceptions with a 500 in the common error format; details go to the log only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_and_record(message: Message) -> None:
            nonlocal has_started
            has_started = has_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except Exception:
            if scope["type"] != "http" or has_started:
                raise
            log.exception("unhandled error in request %s", scope["state"]["request_id"])
            await JSONResponse(internal_error_body(), status_code=500)(scope, receive, send)


class BodyLimit:
    """Rejects bodies above `limit_of(method, path)` bytes, by their `content-length` or as they arrive, and
    those that arrive too slowly or end early once they are read. What has arrived is in
    `request.state.body_bytes`.
    """

    def __init__(self, app: ASGIApp, limit_of: Callable[[str, str], int]) -> None:
        self._app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope["method"], scope["path"])
        text = f"The body is larger than {limit} bytes."
        headers = Headers(scope=scope)
        content_length = headers.get("content-length", "0")
        if not content_length.isdecimal() or int(content_length) > limit:
            body = error_body(413, text, "body_too_large")
            await JSONResponse(body, status_code=413)(scope, receive, send)
            return
        has_body = content_length != "0" or "transfer-encoding" in headers
        began, received, is_complete = 0.0, 0, False

        async def receive_within_limits() -> Message:
            nonlocal began, received, is_complete
            began = began or time.monotonic()
            try:
                with anyio.fail_after(None if is_complete else _seconds_left(began, received)):
                    message = await receive()
            except TimeoutError as error:
                # Body parsers propagate only this type unchanged.
                raise HTTPException(408, STALLED, {"connection": "close"}) from error
            if message["type"] == "http.disconnect" and has_body and not is_complete:
                raise HTTPException(400, CUT_OFF)
            received += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            scope.setdefault("state", {})["body_bytes"] = received
            if received > limit:
                raise HTTPException(413, text)
            return message

        await self._app(scope, receive_within_limits, send)


def _seconds_left(began: float, received: int) -> float:
    """Until a body that is read since `began` has stalled."""
    left = began + STALL_SECONDS + received / MIN_BYTES_PER_SECOND - time.monotonic()
    return min(max(left, 0.0), STALL_SECONDS)
