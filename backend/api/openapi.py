"""The OpenAPI document: what FastAPI derives from the routers, and what it cannot know of them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from backend.api.deps import admit_operator, asks_for, get_caller, get_wallet
from backend.api.idempotency import IdempotentRoute, takes_key
from backend.api.schemas.answers import ErrorView
from backend.services.accounts.idempotency import HEADER

DESCRIPTION = """Errors have OpenAI's shape with a stable `code`. Every answer has `x-request-id`.
Amounts are in micro-units of the payment token, as decimal strings; lists go on with `next_cursor`."""
KEY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "The request has its effect once, however often it is sent under this key within a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorView"}}}
CALLERS = {
    "anyone": "anybody",
    "key": "an API key or a session",
    "session": "a signed-in wallet's session",
    "operator": "whoever has the operator's metrics token",
}


def document(app: FastAPI, routers: tuple[APIRouter, ...]) -> dict[str, Any]:
    """`routers`: all of `app`'s."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=DESCRIPTION,
        routes=app.routes,
    )
    schemas = made["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    shown = ErrorView.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= shown.pop("$defs") | {"ErrorView": shown}
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                for method in route.methods or ():
                    _complete(made["paths"][route.path_format][method.lower()], route)
    return made


def caller_of(route: APIRoute) -> str:
    """Who may call it: a name of `CALLERS`."""
    if asks_for(route.dependant, admit_operator):
        return "operator"
    if asks_for(route.dependant, get_wallet):
        return "session"
    return "key" if asks_for(route.dependant, get_caller) else "anyone"


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    operation["x-caller"] = caller_of(route)
    operation["responses"].pop("422", None)  # FastAPI's own refusal, which is a 400 here
    operation["responses"] |= {
        "4XX": {"description": "Refused; nothing was charged or written.", "content": ERROR},
        "5XX": {"description": "A part of the installation is away, or at fault.", "content": ERROR},
    }
    if isinstance(route, IdempotentRoute) and takes_key(route):
        operation["parameters"] = [*operation.get("parameters", []), KEY_PARAMETER]
