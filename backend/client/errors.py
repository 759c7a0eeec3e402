"""Errors of a market's API."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict, InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


READING_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a value of another form raises."""

SHOWN_BY = {
    "/v1/adapters": "loraledger adapter status",
    "/v1/chat/completions": "loraledger receipts list",
    "/v1/completions": "loraledger receipts list",
    "/v1/deposits/relay": "loraledger balance",
    "/v1/fine_tuning/jobs": "loraledger train list",
    "/v1/keys": "loraledger keys list",
    "/v1/moves/relay": "loraledger balance",
    "/v1/responses": "loraledger receipts list",
    "/v1/webhook_endpoints": "loraledger webhook list",
}
"""What shows the effect of POST requests that have another one when a command repeats them."""

UNSIGNED = "nothing was signed"
"""What `reading_answer` says before a signature."""


class ApiError(Conflict):
    """The API returned an error; `details["status"]` is the HTTP status."""


def is_passing(error: ApiError) -> bool:
    """Whether an error says nothing about the outcome of what was asked for before."""
    is_busy = error.details["status"] in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
    return is_busy or error.details["code"] == "request_under_way"


class ResponseLost(Unavailable):
    """The market may have done what was asked for: the request was sent, and its response did not arrive."""


class NotAMarket(InvalidInput):
    """The server at the market's URL is not the API of a market."""


class Answer(dict[str, Any]):
    """An object of a market's JSON. Errors: `NotAMarket` for a member that it lacks."""

    def __missing__(self, name: str) -> Any:
        raise NotAMarket(f"an answer of the market has no {name!r}; is this the URL of a market?")


def advice_if_lost(method: str, path: str) -> str | None:
    """What to do if the response of a request is lost that has another effect when it is repeated."""
    shown_by = SHOWN_BY.get(path) if method == "POST" else None
    return shown_by and f"it may have been done: see `{shown_by}` before you repeat it"


@contextmanager
def reading_answer(so_far: str = "") -> Iterator[None]:
    """Turn what reading a malformed answer raises into `NotAMarket`, which says what was done `so_far`.
    Usable as a decorator.
    """
    try:
        yield
    except (*READING_ERRORS, InvalidInput) as error:
        is_clear = isinstance(error, NotAMarket)
        text = str(error) if is_clear else f"an answer of the market is malformed: {error!r}"
        raise NotAMarket("; ".join(filter(None, (text, so_far)))) from error


def sent_back(value: Any) -> Any:
    """A part of an answer that the market gets back. Errors: `ValueError` if it cannot be encoded."""
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return value
