"""Routes of pages: admission; errors as pages, by the API's error table; headers, cookies and compression."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from backend.api.errors import (
    CODES,
    HEADERS,
    ErrorResponse,
    describe_fault,
    domain_error_body,
    error_body,
    internal_error_body,
    status_of,
)
from backend.domain.chain import Reverted
from backend.domain.errors import DomainError
from backend.web.headers import compress, set_headers
from backend.web.refusals import refusal_words
from backend.web.rendering import render
from backend.web.visitor import admit, get_visitor, write_cookies

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request

log = logging.getLogger(__name__)


class PageRoute(APIRoute):
    """Route class of the pages' routers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def respond(request: Request) -> Response:
            try:
                await admit(request)
                response = await handle(request)
            except (DomainError, RequestValidationError, HTTPException) as error:
                response = error_page(request, error)
            except Exception:
                log.exception("unhandled error in a page")
                response = render_error(request, 500, internal_error_body())
            return finish(request, response)

        return respond


def finish(request: Request, response: Response) -> Response:
    """Add what all responses of the pages have."""
    write_cookies(request, response)
    if get_visitor(request) is not None:  # else the browser's disk would keep it after the wallet signs out
        response.headers["cache-control"] = "private, no-store"
    set_headers(response, getattr(request.state, "connects_to", ()))
    if hasattr(response, "body"):
        compress(request, response)
    return response


def error_page(request: Request, error: DomainError | RequestValidationError | HTTPException) -> Response:
    """The error with the status and message that the API gives it; what a contract refuses, in words too."""
    if isinstance(error, Reverted):
        body = domain_error_body(error)
        body["error"]["message"] = refusal_words(error)
        return render_error(request, status_of(error), body)
    if isinstance(error, DomainError):
        return render_error(request, status_of(error), domain_error_body(error))
    if isinstance(error, RequestValidationError):
        message, code, param = describe_fault(error.errors(), error.body)
        return render_error(request, 400, error_body(400, message, code, param))
    code = CODES.get(error.status_code, "http_error")
    response = render_error(
        request, error.status_code, error_body(error.status_code, str(error.detail), code)
    )
    response.headers.update(error.headers or {})
    return response


def render_error(request: Request, status: int, body: dict[str, Any]) -> Response:
    """As a page; as JSON for scripts that ask for it; as a fragment for htmx."""
    if "application/json" in request.headers.get("accept", ""):
        response: Response = ErrorResponse(body, status)
    else:
        request_id = getattr(request.state, "request_id", "")
        context = {"error": body["error"], "request_id": request_id}
        response = render(request, "error.html", "error", status=status, **context)
    response.headers.update(HEADERS.get(status, {}))
    return response
