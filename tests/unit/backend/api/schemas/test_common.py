from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from backend.api.app import ROUTERS
from backend.api.errors import describe_fault
from backend.api.schemas.channels import DepositRequest
from backend.api.schemas.chat import ChatCompletionRequest
from backend.api.schemas.common import Amount, AmountInput, Price, PriceInput, Schema, View
from backend.api.schemas.fine_tuning import RegistrationRequest
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 100
Json = dict[str, Any]


class Asked(Schema):
    amount: AmountInput
    limit: AmountInput | None = None
    price: PriceInput = 0


class Shown(View):
    amount: Amount
    limit: Amount | None
    price: Price


def test_a_request_gives_integers() -> None:
    asked = Asked.model_validate({"amount": "0.1", "limit": {"micro_units": "7"}, "price": "0.2"})
    assert (asked.amount, asked.limit, asked.price) == (10**11, 7, 200_000)
    assert Asked.model_validate({"amount": "0"}).limit is None


@pytest.mark.parametrize("amount", [5, 0.1, "1e3", "-1", None, {"micro_units": "1", "usd": "1"}])
def test_a_refusal_names_the_parameter_and_shows_an_example(amount: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        Asked.model_validate({"amount": amount})
    faults = [fault | {"loc": ("body", *fault["loc"])} for fault in refused.value.errors()]
    message, code, param = describe_fault(faults, {"amount": amount})
    assert (code, param) == ("invalid_parameter", "amount")
    assert message.startswith("The parameter 'amount' is invalid: ")
    assert "5.00" in message
    assert "Value error" not in message


def test_a_response_has_objects() -> None:
    shown = Shown(amount=440_000_000, limit=None, price=200_000)
    assert shown.model_dump(mode="json") == {
        "amount": {"micro_units": "440000000", "usd": "0.00044"},
        "limit": None,
        "price": {"micro_units_per_token": "200000", "usd_per_million_tokens": "0.2"},
    }


def test_both_directions_have_their_own_schema() -> None:
    asked = Asked.model_json_schema()["$defs"]["AmountInput"]
    shown = Shown.model_json_schema(mode="serialization")["$defs"]["Amount"]
    assert [option["type"] for option in asked["anyOf"]] == ["string", "object"]
    assert asked["anyOf"][1]["properties"] == shown["properties"]
    assert shown["required"] == ["micro_units", "usd"]


def test_prices_of_a_request_become_those_of_the_listing() -> None:
    listing = {
        "name": "docs",
        "prompt_price": "0.2",
        "completion_price": {"micro_units_per_token": "400000"},
        "operator_ppm": 0,
        "creator_ppm": 0,
    }
    asked = RegistrationRequest.model_validate(listing).listing()
    assert (asked.prompt_price, asked.completion_price) == (200_000, 400_000)
    with pytest.raises(ValidationError, match=r"such as \"0\.20\""):
        RegistrationRequest.model_validate(listing | {"prompt_price": 200_000})


def test_a_deposit_is_of_whole_units() -> None:
    assert DepositRequest.model_validate({"amount": "5.00"}).units == 5_000_000
    with pytest.raises(InvalidInput) as refused:
        DepositRequest.model_validate({"amount": "0.0000005"}).units  # noqa: B018 - reading it raises
    assert refused.value.param == "amount"


def bodies() -> Iterator[type[BaseModel]]:
    """The schemas of all request bodies."""
    for module in ROUTERS:
        for route in module.router.routes:
            if (field := getattr(route, "body_field", None)) is not None:
                yield field.field_info.annotation


def hostile(schema: Json, defs: Json) -> Any:
    """A value that is wrong in as many places as possible: lists and objects of many wrong items."""
    if "const" in schema or schema.get("type") == "null":
        return schema.get("const")
    if "$ref" in schema:
        return hostile(defs[schema["$ref"].removeprefix("#/$defs/")], defs)
    for options in (schema[kind] for kind in ("anyOf", "oneOf") if kind in schema):
        return max((hostile(option, defs) for option in options), key=num_lists)
    if schema.get("type") == "array":
        return [hostile(schema["items"], defs)] * min(MANY, schema.get("maxItems", MANY))
    if "properties" in schema:
        return {name: hostile(field, defs) for name, field in schema["properties"].items()}
    return {str(number): {"wrong": 0} for number in range(MANY)}


def num_lists(value: Any) -> int:
    if isinstance(value, list):
        return 1 + sum(map(num_lists, value[:1]))
    return sum(map(num_lists, value.values())) if isinstance(value, dict) else 0


def with_unknown_keys(value: Any) -> Any:
    if isinstance(value, dict):
        unknown = dict.fromkeys((f"unknown {number}" for number in range(MANY)), 0)
        return {key: with_unknown_keys(item) for key, item in value.items()} | unknown
    return [with_unknown_keys(value[0])] * len(value) if value and isinstance(value, list) else value


@pytest.mark.parametrize("body", list(bodies()), ids=lambda body: body.__name__)
def test_a_body_that_is_wrong_in_many_places_has_few_errors(body: type[BaseModel]) -> None:
    schema = TypeAdapter(body).json_schema()
    value = hostile(schema, schema.get("$defs", {}))
    for sent in (value, with_unknown_keys(value), with_unknown_keys({})):
        with pytest.raises(ValidationError) as refused:
            body.model_validate(sent)
        assert refused.value.error_count() < MANY


def test_of_many_unknown_fields_the_first_is_named() -> None:
    part = {"type": "text", "text": "a"} | dict.fromkeys(("y", "x", *map(str, range(MANY))), 0)
    body = {"model": "m", "messages": [{"role": "user", "content": [part, {}]}, {}]}
    with pytest.raises(ValidationError) as refused:
        ChatCompletionRequest.model_validate(body)
    faults = [fault | {"loc": ("body", *fault["loc"])} for fault in refused.value.errors()]
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    assert describe_fault(unknown, body) == (
        "The parameter 'messages.0.content.0.y' is unknown.",
        "unknown_parameter",
        "messages.0.content.0.y",
    )
