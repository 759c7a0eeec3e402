"""Formats every error as OpenAI's API does, with one table of HTTP statuses."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from backend.api.rate_limits import RateLimitExceeded
from backend.api.schemas.common import CONTRADICTION, NOT_EMPTY, UNSUPPORTED_VALUE
from backend.api.tus import TUS_VERSION, UnknownTusVersion
from backend.domain.chain import ChainReplaced, Reverted
from backend.domain.content import ContentCorrupt
from backend.domain.denials import ContentWithheld, ModelWithheld
from backend.domain.errors import (
    Conflict,
    DiskFull,
    DomainError,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    PaymentRequired,
    Unauthenticated,
    Unavailable,
)
from backend.domain.idempotency import IdempotencyKeyReused
from backend.metrics import ERRORS
from backend.services.contribute.canonical_rows import UploadTooLarge
from backend.services.contribute.transfers import ChecksumMismatch, TransferBusy
from backend.services.transactions.relays import RelayBudgetSpent
from backend.services.webhooks.endpoints import EndpointUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI, Request

log = logging.getLogger(__name__)

CHECKSUM_MISMATCH = 460
"""Status code defined by the tus protocol."""

STATUS: Mapping[type[DomainError], int] = {
    InvalidInput: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    PaymentRequired: HTTPStatus.PAYMENT_REQUIRED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Reverted: HTTPStatus.UNPROCESSABLE_ENTITY,
    ContentCorrupt: HTTPStatus.BAD_GATEWAY,
    ContentWithheld: HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
    ModelWithheld: HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
    ChainReplaced: HTTPStatus.SERVICE_UNAVAILABLE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    RateLimitExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    RelayBudgetSpent: HTTPStatus.TOO_MANY_REQUESTS,
    UploadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    DiskFull: HTTPStatus.INSUFFICIENT_STORAGE,
    ChecksumMismatch: CHECKSUM_MISMATCH,
    TransferBusy: HTTPStatus.LOCKED,
    UnknownTusVersion: HTTPStatus.PRECONDITION_FAILED,
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    EndpointUnreachable: HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""HTTP status by error class. The first class of an error's MRO that is listed decides; if none is, 500."""

TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "payment_required",
    403: "permission_error",
    429: "rate_limit_error",
    451: "permission_error",
}
CODES: Mapping[int, str] = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_stalled",
    413: "body_too_large",
    415: "unsupported_media_type",
}
"""Codes of the framework's errors. Defined here because Python's status phrases change between versions."""

OWN_CODES: Mapping[str, tuple[int, str]] = {
    "bad_request": (400, "The request is not valid HTTP."),
    "body_stalled": (
        408,
        "The client stopped sending before the end of the body, or sends less than 4 KiB a second.",
    ),
    "body_too_large": (413, "The body exceeds the endpoint's size limit."),
    "http_error": (400, "Other HTTP errors; see the status."),
    "internal_error": (500, "An internal error; the server log has it under the response's `x-request-id`."),
    "invalid_json": (400, "The body is not JSON."),
    "invalid_parameter": (400, "A field has the wrong type, is out of range, or contradicts another."),
    "invalid_request": (400, "The fields contradict each other."),
    "invalid_text": (400, "The text has an unpaired surrogate, which is not valid Unicode."),
    "method_not_allowed": (405, "The path does not support this method."),
    "missing_parameter": (400, "A required field is missing."),
    "not_found": (404, "No resource has this path or id."),
    "unknown_parameter": (400, "The endpoint has no such field."),
    "unsupported_media_type": (415, "The endpoint does not accept the body's content type."),
    "unsupported_parameter": (
        400,
        "A parameter of OpenAI's API that is not supported. Unsupported parameters are never ignored.",
    ),
}
"""Status and meaning of the codes that are not of a domain error."""

HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"www-authenticate": "Bearer"},
    412: {"tus-version": TUS_VERSION},
    423: {"retry-after": "1"},
    429: {"retry-after": "1"},
    503: {"retry-after": "1"},
}

# Parameters of OpenAI's API that are rejected as unsupported; all others are rejected as unknown.
UNSUPPORTED = frozenset(
    {
        *("audio", "best_of", "echo", "function_call", "functions", "modalities"),
        *("moderation", "parallel_tool_calls", "prediction", "prompt_cache_key"),
        *("prompt_cache_retention", "reasoning_effort", "safety_identifier"),
        *("context_management", "image", "max_tool_calls", "prompt_cache_options"),
        *("store", "suffix", "tool_choice", "tools", "verbosity", "web_search_options"),
    }
)


FAULTS_BY_NAME = {CONTRADICTION: "invalid_parameter", UNSUPPORTED_VALUE: "unsupported_parameter"}
"""Codes of validation errors that name their parameter themselves."""
ABSENT_OR_UNKNOWN = {"missing": "missing", "extra_forbidden": "unknown"}
"""What the validation errors of a parameter's name say of it."""


def status_of(error: DomainError) -> int:
    return status_of_kind(type(error))


def status_of_kind(kind: type[DomainError]) -> int:
    statuses = (STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS)
    return next(statuses, HTTPStatus.INTERNAL_SERVER_ERROR)


def error_body(
    status: int,
    message: str,
    code: str,
    param: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    ERRORS.labels(code).inc()
    body: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    if details:
        body["details"] = dict(details)
    return {"error": body}


def domain_error_body(error: DomainError) -> dict[str, Any]:
    return error_body(status_of(error), error.message, error.code, error.param, error.details)


def internal_error_body() -> dict[str, Any]:
    text = "Internal server error. Receipts show what was charged: without a receipt, nothing was."
    return error_body(500, text, "internal_error")


class ErrorResponse(JSONResponse):
    """Escapes unpaired surrogates, which a message may quote from the request."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")


def install(app: FastAPI) -> None:
    app.add_exception_handler(DomainError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(UnicodeEncodeError, _on_lone_surrogate)


def domain_error_response(error: DomainError) -> JSONResponse:
    status = status_of(error)
    response = _response(status, domain_error_body(error))
    if (seconds := error.details.get("retry_after_seconds")) is not None:
        response.headers["retry-after"] = str(seconds)
    return response


def _response(status: int, body: dict[str, Any]) -> JSONResponse:
    return ErrorResponse(body, status_code=status, headers=dict(HEADERS.get(status, {})))


async def _on_domain_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DomainError)  # noqa: S101 - registered for this class only
    if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("domain error without an HTTP status", exc_info=error)
    return domain_error_response(error)


async def _on_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    message, code, param = describe_fault(error.errors(), error.body)
    return _response(400, error_body(400, message, code, param))


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    code, text = CODES.get(error.status_code, "http_error"), str(error.detail)
    if text == "Not Found" and "route" not in request.scope:
        text = "No endpoint has this path; those of OpenAI's API begin with /v1."
    response = _response(error.status_code, error_body(error.status_code, text, code))
    response.headers.update(error.headers or {})
    return response


async def _on_lone_surrogate(_request: Request, _error: Exception) -> JSONResponse:
    """JSON can encode an unpaired surrogate, which cannot be stored or hashed. Only requests contain one."""
    text = "The request has an unpaired surrogate, which is not valid Unicode."
    return _response(400, error_body(400, text, "invalid_text"))


def describe_fault(faults: Sequence[Mapping[str, Any]], body: object = None) -> tuple[str, str, str | None]:
    """Message, code and parameter of the first validation error of a request, whose JSON is `body`."""
    fault = faults[0]
    where = _path(fault["loc"], body)
    param = ".".join(where) or None
    kind, text = str(fault["type"]), str(fault["msg"]).removeprefix("Value error, ")
    if kind == "json_invalid":
        return f"The body is not valid JSON: {text}.", "invalid_json", None
    if kind == NOT_EMPTY or (kind == "extra_forbidden" and param in UNSUPPORTED):
        remedy = f": {text}" if kind == NOT_EMPTY else ""
        return f"The parameter '{param}' is not supported{remedy}.", "unsupported_parameter", param
    if kind in FAULTS_BY_NAME:
        return f"{text}.", FAULTS_BY_NAME[kind], str(fault["ctx"]["param"])
    if param is None and kind == "value_error":
        return f"{text.capitalize()}.", "invalid_request", None
    if kind in ABSENT_OR_UNKNOWN:
        word = ABSENT_OR_UNKNOWN[kind]
        return f"The parameter '{param}' is {word}.", f"{word}_parameter", param
    return f"The parameter '{param}' is invalid: {text}.", "invalid_parameter", param


def _path(loc: Sequence[int | str], body: object) -> list[str]:
    """Path of the fault in the request, without its source and the names of union members."""
    source, *parts = loc
    if source != "body" or not isinstance(body, dict | list):
        return [str(part) for part in parts]
    found: list[str] = []
    at: Any = body
    for number, part in enumerate(parts):
        is_here = part in at if isinstance(at, dict) else isinstance(at, list) and isinstance(part, int)
        if is_here or (isinstance(at, dict) and number == len(parts) - 1 and part != "[key]"):
            found.append(str(part))
        if is_here:
            at = at[part]
    return found
