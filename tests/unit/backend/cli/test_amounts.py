from __future__ import annotations

import pytest
import typer

from backend.cli.amounts import detail, dollars, parse_dollars, parse_price, parse_units, price
from backend.domain.money import AMOUNT, PRICE


def test_dollars_are_read_exactly() -> None:
    """As a float, a tenth of a dollar is not a whole number of micro-units."""
    assert parse_dollars("0.1", "--cap") == 10**11
    assert parse_dollars("9007199254.740993000001", "--cap") == 9_007_199_254_740_993_000_001
    assert parse_units("0.1", "DOLLARS") == 10**5
    assert parse_price("0.2", "--prices") == 200_000


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_dollars, "1e3"), (parse_units, "0.0000001"), (parse_price, "x")]
)
def test_other_text_is_wrong_usage_of_the_named_option(parse: object, text: str) -> None:
    with pytest.raises(typer.BadParameter) as wrong:
        parse(text, "--cap")  # type: ignore[operator]
    assert wrong.value.param_hint == "--cap"


def test_amounts_of_the_api_are_shown_in_dollars() -> None:
    assert dollars(AMOUNT.render(440_000_000)) == "0.00044 dollars"
    assert price(PRICE.render(200_000)) == "0.2 dollars per million tokens"


def test_a_detail_of_an_error_is_text() -> None:
    missing = {"balance": AMOUNT.render(10**12), "authorisation": AMOUNT.render(10**11)}
    assert detail(missing) == "balance 1 dollar, authorisation 0.1 dollars"
    assert detail({"line": 3}) == "line 3"
    assert detail("0xab") == "0xab"
    assert detail({"micro_units": "x", "usd": "y"}) == "micro_units x, usd y"
