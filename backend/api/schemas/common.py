"""Types that all schemas share."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from backend.domain.caip import ACCOUNT, account_of
from backend.domain.errors import InvalidInput
from backend.domain.transactions import PreparedTransaction

T = TypeVar("T")
chain_id: ContextVar[int] = ContextVar("chain_id")
"""Of the chain that the request is for: accounts may be named with their chain, which must be this one."""
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_DECIMAL = re.compile(r"[0-9]{1,39}")


def _spelled(pattern: re.Pattern[str]) -> WithJsonSchema:
    """For the OpenAPI document."""
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


def _amount(value: object) -> object:
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            raise ValueError("not a decimal integer")
        return int(value)
    return value


INTEGERS_END = 1 << 63
"""What databases count with; ids and cursors beyond are refused, not looked up."""
AccountField = Annotated[str, AfterValidator(_account), _spelled(ACCOUNT)]
HashField = Annotated[str, AfterValidator(_hash), _spelled(_HASH)]
Micro = Annotated[
    int,
    BeforeValidator(_amount),
    Field(ge=0, lt=1 << 128, strict=True),
    PlainSerializer(str, return_type=str, when_used="json"),
    _spelled(_DECIMAL),
]
"""Micro-units: a decimal string in JSON (numbers of JavaScript end at 2^53); integers are read too."""


class Schema(BaseModel):
    """A request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class View(BaseModel):
    """A response, read from a domain object."""

    model_config = ConfigDict(from_attributes=True)


class Page(View, Generic[T]):
    """`after` of the next request is `next_cursor`, whatever it says; None: this was the last page."""

    object: str = "list"
    data: list[T]
    next_cursor: str | None = None


class CursorPage(Page[T], Generic[T]):
    """As OpenAI's client walks it: `after` of the next request is the id of the last item."""

    has_more: bool


class TransactionQueued(View):
    """A transaction of ours: `GET /v1/transactions/{id}` tells its state."""

    transaction_id: int


class PreparedTransactionView(View):
    """An unsigned transaction for the caller's wallet; `gas` is absent where it cannot be simulated yet."""

    chain_id: int
    chain: str = Field(description="The same by CAIP-2: `eip155:<chain id>`.")
    to: str
    data: str
    value: Annotated[int, PlainSerializer(str, return_type=str, when_used="json")]
    decoded: dict[str, Any]
    gas: int | None

    @classmethod
    def of(cls, prepared: PreparedTransaction) -> PreparedTransactionView:
        return cls.model_validate(prepared)
