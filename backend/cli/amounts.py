"""Amounts and prices on the command line: typed and shown in dollars, exact."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import typer

from backend.domain.errors import DomainError, InvalidInput
from backend.domain.money import (
    AMOUNT,
    PRICE,
    Notation,
    in_dollars,
    price_in_dollars,
    prices_in_dollars,
    whole_units,
)


def parse_dollars(text: str, name: str) -> int:
    """Micro-units of the dollars that the argument or option `name` has."""
    return _parse(AMOUNT, text, name)


def parse_units(text: str, name: str) -> int:
    """As `parse_dollars`, in token units."""
    try:
        return whole_units(parse_dollars(text, name))
    except InvalidInput as error:
        raise typer.BadParameter(error.message, param_hint=name) from None


def parse_price(text: str, name: str) -> int:
    """Token units per million tokens of a price in dollars per million tokens."""
    return _parse(PRICE, text, name)


def dollars(amount: Mapping[str, str]) -> str:
    """An amount in a response of the API, as text."""
    return in_dollars(AMOUNT.read(amount))


def price(found: Mapping[str, str]) -> str:
    """A price in a response of the API, as text."""
    return price_in_dollars(PRICE.read(found))


def prices(model: Mapping[str, Any]) -> str:
    """A model's prices in a response of the API, as text."""
    return prices_in_dollars(PRICE.read(model["prompt_price"]), PRICE.read(model["completion_price"]))


def detail_lines(error: DomainError) -> list[str]:
    """What an error's details have, a line each."""
    return [f"  {name}: {detail(value)}" for name, value in error.details.items()]


def detail(value: object) -> str:
    """A value of a response or of an error's details as text, with amounts and prices in dollars."""
    if isinstance(value, list):
        return ", ".join(map(detail, value))
    if not isinstance(value, Mapping):
        return str(value)
    with suppress(InvalidInput):  # a market may state an amount that is none
        if value.keys() == {AMOUNT.unit, AMOUNT.dollars}:
            return dollars(value)
        if value.keys() == {PRICE.unit, PRICE.dollars}:
            return price(value)
    return ", ".join(f"{name} {detail(part)}" for name, part in value.items())


def _parse(notation: Notation, text: str, name: str) -> int:
    try:
        return notation.parse(text)
    except InvalidInput as error:
        raise typer.BadParameter(error.message, param_hint=name) from None
