from __future__ import annotations

import importlib
import json
import pkgutil
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

import backend.domain
import backend.services
from backend.api.errors import (
    STATUS,
    ErrorResponse,
    describe_fault,
    domain_error_body,
    internal_error_body,
    status_of,
)
from backend.domain.errors import DomainError, InvalidInput, Overloaded, PaymentRequired, Unavailable
from backend.services.channels.ledger import InsufficientBalance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def descendants(kind: type[DomainError]) -> Iterator[type[DomainError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def test_every_domain_error_has_a_status() -> None:
    assert [*modules(backend.domain), *modules(backend.services)]
    homeless = {
        kind.__name__
        for kind in descendants(DomainError)
        if kind.__module__.startswith("backend.")
        and not kind.__module__.startswith("backend.cli.")  # printed, never answered by the API
        and not any(base in STATUS for base in kind.__mro__)
    }
    assert homeless == set()


def test_a_subclass_has_the_status_of_its_nearest_ancestor() -> None:
    assert status_of(InsufficientBalance("x")) == HTTPStatus.PAYMENT_REQUIRED
    assert status_of(PaymentRequired("x")) == HTTPStatus.PAYMENT_REQUIRED
    assert status_of(DomainError("x")) == HTTPStatus.INTERNAL_SERVER_ERROR


def test_bodies_have_openais_shape() -> None:
    body = domain_error_body(InvalidInput("no", "field", {"at": 1}))
    error = {"message": "no", "type": "invalid_request_error", "param": "field", "code": "invalid_input"}
    assert body == {"error": error | {"details": {"at": 1}}}
    assert domain_error_body(Unavailable("later"))["error"]["type"] == "server_error"
    assert "details" not in domain_error_body(Unavailable("later"))["error"]
    assert status_of(Overloaded("later")) == HTTPStatus.TOO_MANY_REQUESTS
    assert domain_error_body(Overloaded("later"))["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("fault", "code", "param"),
    [
        ({"type": "missing", "loc": ("body", "model"), "msg": ""}, "missing_parameter", "model"),
        ({"type": "missing", "loc": ("body",), "msg": ""}, "missing_parameter", None),
        ({"type": "extra_forbidden", "loc": ("body", "tools"), "msg": ""}, "unsupported_parameter", "tools"),
        ({"type": "extra_forbidden", "loc": ("body", "zzz"), "msg": ""}, "unknown_parameter", "zzz"),
        *(
            ({"type": "extra_forbidden", "loc": ("body", name), "msg": ""}, "unknown_parameter", name)
            for name in ("body", "header", "path", "query")
        ),
        ({"type": "int_parsing", "loc": ("query", "limit"), "msg": ""}, "invalid_parameter", "limit"),
        ({"type": "json_invalid", "loc": ("body", 17), "msg": "eof"}, "invalid_json", None),
        ({"type": "value_error", "loc": ("body",), "msg": "a and b differ"}, "invalid_request", None),
    ],
)
def test_faults_are_described_by_their_parameter(
    fault: dict[str, object], code: str, param: str | None
) -> None:
    _, found_code, found_param = describe_fault([fault])
    assert (found_code, found_param) == (code, param)


def test_a_defect_does_not_claim_that_nothing_was_charged() -> None:
    assert "eceipts show" in internal_error_body()["error"]["message"]


def test_half_a_character_in_a_message_leaves_escaped() -> None:
    body = ErrorResponse({"error": "no \ud800, no \u00e9"}).body
    assert json.loads(bytes(body)) == {"error": "no \ud800, no \u00e9"}
