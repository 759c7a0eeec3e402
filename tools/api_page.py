"""Generates the reference part of docs/api.md from the OpenAPI document and the error classes."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import TYPE_CHECKING, Any, cast

import backend.api
import backend.domain
import backend.ports
import backend.services
from backend.api.app import create_app
from backend.api.errors import OWN_CODES, status_of_kind
from backend.api.openapi import CALLERS
from backend.domain.errors import DomainError
from backend.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BEGIN = "<!-- Written by `make docs` from here to the end. -->"
PACKAGES = (backend.api, backend.domain, backend.ports, backend.services)
MONEY = {"Amount", "Price"}
Json = dict[str, Any]


def api_document() -> Json:
    """The OpenAPI document of the current code."""
    return create_app(cast("Any", None), Settings()).openapi()


def snapshot(document: Json) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def with_reference(page: str, document: Json) -> str:
    """The page with a regenerated reference. Errors: ValueError if the page lacks the BEGIN marker."""
    before, _ = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n" + "\n".join([*_errors(), *_reference(document)]).rstrip() + "\n"


def error_codes() -> dict[str, tuple[int, str]]:
    """HTTP status and meaning of every error code that the API returns."""
    found: dict[str, tuple[int, str]] = {}
    for kind in _error_classes():
        text = " ".join((kind.__doc__ or "").split())
        # Parents come before their children, of which some have their code.
        found.setdefault(kind.__new__(kind).code, (int(status_of_kind(kind)), text))
    return {**OWN_CODES, **found}


def _error_classes() -> Iterable[type[DomainError]]:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    names = tuple(f"{package.__name__}." for package in PACKAGES)
    return [kind for kind in _descendants(DomainError) if kind.__module__.startswith(names)]


def _descendants(kind: type[DomainError]) -> Iterator[type[DomainError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def _errors() -> Iterator[str]:
    yield "## Errors"
    yield ""
    yield "Error codes (`code`) are stable; messages are not. Other errors of an"
    yield "[engine](engine.md#error-codes-of-adapters) have its code in `details.code`, of"
    yield "`engine_unavailable` where a retry can help, else of `invalid_input`."
    yield ""
    yield "| code | status | meaning |"
    yield "| --- | --- | --- |"
    for code, (status, text) in sorted(error_codes().items()):
        yield f"| `{code}` | {status} | {text.replace('|', chr(92) + '|')} |"
    yield ""


def _reference(document: Json) -> Iterator[str]:
    by_tag: dict[str, list[tuple[str, str, Json]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    yield "## Endpoints"
    for tag, operations in by_tag.items():
        yield ""
        yield f"### {tag.capitalize()}"
        for method, path, operation in operations:
            yield from _operation(method, path, operation, document)
    yield ""
    yield "## Objects"
    schemas: Json = document["components"]["schemas"]
    for name, schema in sorted(schemas.items()):
        if "View" in name or name.removesuffix("Input") in MONEY:
            yield from _object(name, schema)


def _operation(method: str, path: str, operation: Json, document: Json) -> Iterator[str]:
    yield ""
    yield f"#### `{method} {path}`"
    yield ""
    text = " ".join(operation.get("description", operation["summary"].capitalize() + ".").split())
    yield f"{text} Authentication: {CALLERS[operation['x-caller']]}. {_returns(operation)}"
    rows = [_parameter(parameter) for parameter in operation.get("parameters", ())]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        schema = document["components"]["schemas"][_name(body)]
        rows += _fields(schema, "body")
        if description := schema.get("description"):
            yield ""
            yield " ".join(description.split())
    if rows:
        yield ""
        yield "| name | in | type | |"
        yield "| --- | --- | --- | --- |"
        yield from rows


def _object(name: str, schema: Json) -> Iterator[str]:
    yield ""
    yield f"#### {name}"
    yield ""
    if description := schema.get("description"):
        yield " ".join(description.split())
        yield ""
    if "properties" not in schema:
        yield f"Type: {_type(schema)}."
        return
    yield "| name | type | |"
    yield "| --- | --- | --- |"
    yield from _fields(schema)


def _returns(operation: Json) -> str:
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            schema = response.get("content", {}).get("application/json", {}).get("schema")
            return f"{status}: {_type(schema)}." if schema else f"{status}."
    raise ValueError(operation["operationId"])


def _parameter(parameter: Json) -> str:
    what = parameter.get("description", "required" if parameter["required"] else "")
    return f"| `{parameter['name']}` | {parameter['in']} | {_type(parameter['schema'])} | {what} |"


def _fields(schema: Json, where: str | None = None) -> list[str]:
    required = schema.get("required", ())
    place = f" {where} |" if where else ""
    return [
        f"| `{name}` |{place} {_type(field)} | "
        f"{field.get('description') or ('required' if where and name in required else '')} |"
        for name, field in schema.get("properties", {}).items()
    ]


def _type(schema: Json) -> str:
    """In words, bounds included."""
    if "$ref" in schema:
        return _name(schema)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(option) for option in schema[key])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "pattern" in schema:
        return f"string, `{schema['pattern'].replace('|', chr(92) + '|')}`"
    kind = str(schema.get("type", "any JSON"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}{_bounds(schema, 'Items')}"
    return kind + _bounds(schema, "Length")


def _bounds(schema: Json, counted: str) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum", schema.get(f"min{counted}")))
    high = schema.get("maximum", schema.get("exclusiveMaximum", schema.get(f"max{counted}")))
    if low is None and high is None:
        return ""
    unit = {"Items": " items", "Length": " characters"}[counted] if f"max{counted}" in schema else ""
    return f" ({'' if low is None else low}..{'' if high is None else high}{unit})"


def _name(schema: Json) -> str:
    return str(schema["$ref"].rpartition("/")[2])
