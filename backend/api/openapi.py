"""Builds the OpenAPI document: FastAPI's, completed with errors, callers and idempotency keys."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from backend.api.deps import depends_on, get_admitted, get_wallet, require_metrics_token
from backend.api.idempotency import IdempotentRoute, accepts_key
from backend.api.schemas.answers import ErrorView
from backend.domain.idempotency import HEADER

DESCRIPTION = """Errors have OpenAI's format with a stable `code`. Every response has `x-request-id`.
Amounts of the payment token are objects, exact in micro-units and in dollars; integers of messages that are
signed or hashed are decimal strings, in the protocol's units. Lists are paginated by `next_cursor`."""
KEY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Requests with the same key run once within a day; repeats return the stored response.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorView"}}}
CALLERS = {
    "anyone": "none",
    "key": "API key or session",
    "session": "wallet session",
    "operator": "the operator's metrics token",
}


def build_document(app: FastAPI, routers: tuple[APIRouter, ...]) -> dict[str, Any]:
    """`routers`: all routers of `app`."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=DESCRIPTION,
        routes=app.routes,
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    error = ErrorView.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= error.pop("$defs") | {"ErrorView": error}
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                for method in route.methods or ():
                    _complete(document["paths"][route.path_format][method.lower()], route)
    return document


def caller_of(route: APIRoute) -> str:
    """Required authentication: a key of `CALLERS`."""
    if depends_on(route.dependant, require_metrics_token):
        return "operator"
    if depends_on(route.dependant, get_wallet):
        return "session"
    return "key" if depends_on(route.dependant, get_admitted) else "anyone"


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    operation["x-caller"] = caller_of(route)
    operation["responses"].pop("422", None)  # FastAPI's validation error, which is a 400 here
    operation["responses"] |= {
        "4XX": {"description": "Request error; nothing was charged or written.", "content": ERROR},
        "5XX": {"description": "A component of the installation is unavailable or failed.", "content": ERROR},
    }
    if isinstance(route, IdempotentRoute) and accepts_key(route):
        operation["parameters"] = [*operation.get("parameters", []), KEY_PARAMETER]
