"""Field types and base classes of all schemas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from typing_extensions import TypeAliasType

from backend.domain.caip import ACCOUNT, account_of
from backend.domain.content import cid_of
from backend.domain.errors import InvalidInput
from backend.domain.money import AMOUNT, PRICE, Notation

T = TypeVar("T")
V = TypeVar("V")
Items = Annotated[list[T], Field(fail_fast=True)]
"""A list of a request body. Validation ends at the first wrong item: one error is shown, and a body of a few
megabytes could have hundreds of thousands.
"""
Entries = Annotated[dict[T, V], Field(fail_fast=True)]
"""A dictionary of a request body, likewise."""
chain_id: ContextVar[int] = ContextVar("chain_id")
"""Chain id of the installation. Accounts in CAIP-10 form must be on this chain."""
CONTRADICTION = "contradiction"
"""Type of a validation error between fields of a schema; its context names the field at fault."""
UNSUPPORTED_VALUE = "unsupported_value"
"""Type of the validation error of a value that only OpenAI's API has; its context names the field."""
NOT_EMPTY = "not_empty"
"""Type of the validation error of a field of OpenAI's API that is accepted only without a value."""
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_DECIMAL = re.compile(r"[0-9]{1,39}")


def _string_schema(pattern: re.Pattern[str]) -> WithJsonSchema:
    """Describe a field as a string with this pattern in the OpenAPI document."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern.pattern}$"})


def _account(value: str) -> str:
    try:
        return account_of(value, chain_id.get())
    except InvalidInput as error:
        raise ValueError(error.message) from None


def _hash(value: str) -> str:
    if not _HASH.fullmatch(value):
        raise ValueError("not a hash (0x and 64 hex digits)")
    return value.lower()


def _printable(value: str) -> str:
    if not all(c.isprintable() or c in "\n\t" for c in value):
        raise ValueError("it has control characters")
    return value


def _uint(value: object) -> object:
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            raise ValueError("not a decimal integer")
        return int(value)
    return value


def _written(notation: Notation) -> PlainSerializer:
    return PlainSerializer(notation.render, return_type=dict[str, str], when_used="json")


def _read(notation: Notation) -> PlainValidator:
    def parse(value: object) -> int:
        try:
            return notation.parse(value)
        except InvalidInput as error:
            raise ValueError(error.message) from None

    return PlainValidator(parse)


def _object_schema(notation: Notation, **more: Any) -> dict[str, Any]:
    patterns = {notation.unit: notation.unit_pattern, notation.dollars: notation.dollars_pattern}
    properties = {key: {"type": "string", "pattern": f"^{pattern}$"} for key, pattern in patterns.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _written_schema(notation: Notation, text: str) -> WithJsonSchema:
    required = [notation.unit, notation.dollars]
    return WithJsonSchema(_object_schema(notation, required=required, description=text))


def _read_schema(notation: Notation, text: str) -> WithJsonSchema:
    dollars = {"type": "string", "pattern": f"^{notation.dollars_pattern}$"}
    options = [dollars, _object_schema(notation, minProperties=1)]
    return WithJsonSchema({"anyOf": options, "description": text, "examples": [notation.example]})


def _unix_seconds(value: datetime | int) -> int:
    return int(value.timestamp()) if isinstance(value, datetime) else value


def _hex(value: bytes | str) -> str:
    return value if isinstance(value, str) else f"0x{value.hex()}"


MAX_ITEMS = 100
"""Most items of a page."""
INTEGERS_END = 1 << 63
"""Upper bound of 64-bit database integers; larger ids and cursors are rejected without a query."""
AccountField = Annotated[str, AfterValidator(_account), _string_schema(ACCOUNT)]
HashField = Annotated[str, AfterValidator(_hash), _string_schema(_HASH)]
PrintableText = Annotated[str, AfterValidator(_printable)]
"""Text without control characters, but for line feeds and tabs."""
Uint128 = Annotated[
    int,
    BeforeValidator(_uint),
    Field(ge=0, lt=1 << 128, strict=True),
    PlainSerializer(str, return_type=str, when_used="json"),
    _string_schema(_DECIMAL),
]
"""An integer of a message that is signed or hashed: a decimal string in JSON, since JavaScript numbers are
exact up to 2^53 only. Requests may send integers too. Amounts among them are in micro-units.
"""
Amount = TypeAliasType(
    "Amount",
    Annotated[
        int,
        _written(AMOUNT),
        _written_schema(
            AMOUNT,
            "An amount of the payment token. Both strings are exact: a micro-unit is 10^-12 dollars, and "
            "`usd` has no trailing zeros.",
        ),
    ],
)
"""Micro-units in a response."""
AmountInput = TypeAliasType(
    "AmountInput",
    Annotated[
        int,
        _read(AMOUNT),
        _read_schema(
            AMOUNT,
            "A string of dollars, or an `Amount` with one or both of its keys. JSON numbers are refused: "
            "they are not exact.",
        ),
    ],
)
"""Micro-units in a request."""
Price = TypeAliasType(
    "Price",
    Annotated[
        int,
        _written(PRICE),
        _written_schema(
            PRICE,
            "A price of tokens. Both strings are exact: a dollar per million tokens is 1,000,000 micro-units "
            "per token.",
        ),
    ],
)
"""Token units per million tokens, which are micro-units per token, in a response."""
PriceInput = TypeAliasType(
    "PriceInput",
    Annotated[
        int,
        _read(PRICE),
        _read_schema(
            PRICE,
            "A string of dollars per million tokens, or a `Price` with one or both of its keys. JSON numbers "
            "are refused: they are not exact.",
        ),
    ],
)
"""A `Price` in a request."""
PriceText = Annotated[
    int, _read(PRICE), WithJsonSchema({"type": "string", "pattern": f"^{PRICE.dollars_pattern}$"})
]
"""Dollars per million tokens in a query string."""
IntString = Annotated[str, BeforeValidator(str)]
"""An integer as a decimal string."""
UnixTime = Annotated[int, BeforeValidator(_unix_seconds)]
"""Unix seconds of a `datetime`."""
HexBytes = Annotated[str, BeforeValidator(_hex)]
"""Bytes as 0x-prefixed hex."""
CidOfDigest = Annotated[str, BeforeValidator(cid_of)]
"""CID of a SHA-256 digest."""


class Schema(BaseModel):
    """A request body. Unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_further_unknown_fields(cls, body: Any) -> Any:
        """Of many unknown fields keep the first, whose error is shown, because each would be an error. An
        object without more keys than there are fields has few.
        """
        fields = cls.__pydantic_fields__  # the property `model_fields` is slow, and bodies have many objects
        if not isinstance(body, dict) or len(body) <= len(fields):
            return body
        names = {field.alias or name for name, field in fields.items()}
        unknown = next(name for name in body if name not in names)
        return {name: body[name] for name in (*names, unknown) if name in body}


class View(BaseModel):
    """A response, read from the attributes of a domain object."""

    model_config = ConfigDict(
        from_attributes=True, validate_by_name=True, json_schema_serialization_defaults_required=True
    )


class Page(View, Generic[T]):
    """One page of a list. Pass `next_cursor` as `after` to get the next page; null on the last page."""

    object: str = "list"
    data: list[T]
    next_cursor: str | None = None


class CursorPage(Page[T], Generic[T]):
    """A page as OpenAI's client reads it: `after` of the next request is the id of the last item."""

    has_more: bool

    @classmethod
    def of(cls, found: Sequence[T], limit: int) -> Self:
        """The first `limit` of up to `limit + 1` items, each with an `id`."""
        shown: list[Any] = list(found[:limit])
        has_more = len(found) > limit
        return cls(data=shown, next_cursor=shown[-1].id if has_more else None, has_more=has_more)


class TransactionQueued(View):
    """A transaction that the operator sends. `GET /v1/transactions/{id}` returns its state."""

    transaction_id: int


class PreparedTransactionView(View):
    """An unsigned transaction for the caller's wallet. `value` is in wei; `gas` is null where it cannot be
    simulated yet.
    """

    chain_id: int
    chain: str = Field(description="The chain's CAIP-2 id: `eip155:<chain id>`.")
    to: str
    data: str
    value: IntString
    decoded: dict[str, Any]
    gas: int | None
