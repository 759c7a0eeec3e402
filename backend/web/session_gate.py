"""Lets the scripts of pages call the API as the signed-in wallet: `/session/v1/...` is `/v1/...`.

The API takes no cookie. This middleware reads the session from the cookie, requires the form's token of
requests that change something, and passes the request on with `Authorization`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders

from backend.api.deps import limit_by_address
from backend.api.errors import ErrorResponse, domain_error_response, internal_error_body
from backend.api.middleware import RequestId
from backend.domain.errors import DomainError, Forbidden, Unauthenticated
from backend.web.visitor import FORM_HEADER, SAFE_METHODS, check_form, find_visitor, write_cookies

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from backend.web.visitor import Visitor

log = logging.getLogger(__name__)
PREFIX = "/session"
_DROPPED = frozenset({b"authorization", b"cookie"})


class SessionGate:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/v1/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def send_for_pages(message: Message) -> None:
            if message["type"] == "http.response.start":
                _adapt_headers(request, MutableHeaders(scope=message))
            await send(message)

        try:
            visitor = await _admit(request)
        except DomainError as error:
            refusal = domain_error_response(error)
        except Exception:
            log.exception("unhandled error while a session is read")
            refusal = ErrorResponse(internal_error_body(), 500)
        else:
            await self._app(_api_request(scope, visitor), receive, send_for_pages)
            return
        await RequestId(refusal)(scope, receive, send_for_pages)


async def _admit(request: Request) -> Visitor:
    """Errors, counted by the caller's address: `Forbidden`, `Unauthenticated`. Others: `RateLimitExceeded`,
    those of the database.
    """
    try:
        return await _find_visitor(request)
    except (Forbidden, Unauthenticated):
        await limit_by_address(request)
        raise


async def _find_visitor(request: Request) -> Visitor:
    if request.method not in SAFE_METHODS:
        check_form(request, request.headers.get(FORM_HEADER, ""))
    visitor = await run_in_threadpool(find_visitor, request, request.app.state.services)
    if visitor is None:
        raise Unauthenticated("Your session has ended: reload the page and sign in again.")
    return visitor


def _api_request(scope: Scope, visitor: Visitor) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name not in _DROPPED]
    headers.append((b"authorization", f"Bearer {visitor.token}".encode()))
    path = {"path": scope["path"].removeprefix(PREFIX)}
    if "raw_path" in scope:
        path["raw_path"] = scope["raw_path"].removeprefix(PREFIX.encode())
    return {**scope, **path, "headers": headers}


def _adapt_headers(request: Request, headers: MutableHeaders) -> None:
    """Write a renewed session's cookies, have no cache keep the response, and keep locations in here."""
    cookies = Response()
    write_cookies(request, cookies)
    for value in cookies.headers.getlist("set-cookie"):
        headers.append("set-cookie", value)
    headers["cache-control"] = "private, no-store"
    if headers.get("location", "").startswith("/v1/"):
        headers["location"] = PREFIX + headers["location"]
