"""Pure functions of a market's URL and of its responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from backend.client.errors import Answer, ApiError, NotAMarket, ResponseLost, advice_if_lost
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from backend.domain.errors import Unavailable


def market_url(text: str) -> str:
    """The origin of a market's URL. Errors: `InvalidInput`."""
    try:
        parts = urlsplit(text)
        is_origin = (
            bool(parts.hostname) and parts.path in ("", "/") and not parts.query and not parts.username
        )
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):
        is_origin = False
    if not is_origin or parts.scheme not in ("http", "https"):
        raise InvalidInput(
            f"{text!r} is not the URL of a market: `https://host` or `http://host:port` is expected",
            param="market",
        )
    return f"{parts.scheme}://{parts.netloc}".lower()


def parse_json(response: httpx.Response) -> Any:
    """Errors: `NotAMarket`."""
    try:
        return response.json(object_hook=Answer)
    except (ValueError, RecursionError):
        raise _not_a_market(response) from None


def response_error(response: httpx.Response) -> ApiError | NotAMarket | Unavailable:
    """The error that a response without success stands for."""
    error = error_body(response)
    if error is not None:
        return api_error(response, error)
    if response.is_server_error:
        advice = advice_if_lost(response.request.method, response.url.path) or "try again"
        return ResponseLost(f"{_where(response)} answered {response.status_code}; {advice}")
    return _not_a_market(response)


def api_error(response: httpx.Response, error: dict[str, Any]) -> ApiError:
    text = f"{response.request.method} {response.url.path}: {error.get('message', '')}"
    stated = error.get("details")
    details = {"status": response.status_code, "code": error.get("code")}
    details |= stated if isinstance(stated, dict) else {}
    return ApiError(text, param=error.get("param"), details=details)


def _not_a_market(response: httpx.Response) -> NotAMarket:
    if response.is_redirect:
        return NotAMarket(
            f"{_where(response)} redirects to {response.headers.get('location', 'nowhere')}: name that "
            "URL with --market if it is the market"
        )
    kind = response.headers.get("content-type", "no content type").partition(";")[0]
    return NotAMarket(
        f"{_where(response)} is not a market: {response.request.method} {response.url.path} returned "
        f"{response.status_code} with {kind}"
    )


def _where(response: httpx.Response) -> str:
    return f"{response.url.scheme}://{response.url.netloc.decode()}"


def error_body(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body = response.json()["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
