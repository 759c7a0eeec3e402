from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import InvalidInput
from backend.domain.money import (
    AMOUNT,
    MAX_AMOUNT,
    PPM,
    PRICE,
    UNIT,
    Notation,
    in_dollars,
    most_covered,
    mul_ppm_to_units_up,
    price_in_dollars,
    whole_units,
)

DOLLAR = 10**12
LARGEST = "340282366920938463463374607.431768211455"


@given(stake=st.integers(0, 10**24), ppm=st.integers(1, PPM))
def test_a_stake_covers_this_amount_and_no_more(stake: int, ppm: int) -> None:
    most = most_covered(stake, ppm)
    assert UNIT * mul_ppm_to_units_up(most, ppm) <= stake
    assert UNIT * mul_ppm_to_units_up(most + 1, ppm) > stake


def test_the_stake_covers_no_more_than_the_contracts_can_hold() -> None:
    assert most_covered(0, 0) == most_covered(1 << 127, 1) == MAX_AMOUNT


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 dollars"),
        (10**12, "1 dollar"),
        (10**15, "1,000 dollars"),
        (25 * 10**10, "0.25 dollars"),
        (1, "0.000000000001 dollars"),
        ((1 << 128) - 1, "340,282,366,920,938,463,463,374,607.431768211455 dollars"),
    ],
)
def test_an_amount_is_written_to_the_last_micro_unit(amount: int, text: str) -> None:
    assert in_dollars(amount) == text


def test_a_price_is_written_in_dollars_per_million_tokens() -> None:
    assert price_in_dollars(200_000) == "0.2 dollars per million tokens"
    assert PRICE.render(1) == {"micro_units_per_token": "1", "usd_per_million_tokens": "0.000001"}


def test_an_amount_is_rendered_in_both_units() -> None:
    assert AMOUNT.render(440_000_000) == {"micro_units": "440000000", "usd": "0.00044"}


@pytest.mark.parametrize("notation", [AMOUNT, PRICE])
@given(data=st.data())
def test_what_is_rendered_is_read_again(notation: Notation, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, notation.end - 1))
    rendered = notation.render(number)
    with localcontext(prec=60):
        assert Decimal(rendered[notation.dollars]).scaleb(notation.decimals) == number
    assert notation.parse(rendered) == number
    for key, text in rendered.items():
        assert notation.parse({key: text}) == number
    assert notation.parse(rendered[notation.dollars]) == number


@pytest.mark.parametrize(
    ("value", "micro_units"),
    [
        ("5", 5 * DOLLAR),
        ("5.00", 5 * DOLLAR),
        ("005.0", 5 * DOLLAR),
        ("0.000000000001", 1),
        (LARGEST, (1 << 128) - 1),
        ({"micro_units": "440000000"}, 440_000_000),
        ({"usd": "0.00044"}, 440_000_000),
        ({"usd": "0.000440", "micro_units": "440000000"}, 440_000_000),
    ],
)
def test_an_amount_is_read_from_dollars_or_from_either_key(value: Any, micro_units: int) -> None:
    assert AMOUNT.parse(value) == micro_units


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (5, "JSON numbers are not exact"),
        (0.1, "JSON numbers are not exact"),
        (True, "JSON numbers are not exact"),
        (None, "is a string of dollars"),
        (["5"], "is a string of dollars"),
        ("", "digits with at most one decimal point"),
        (" 5", "digits with at most one decimal point"),
        ("5\n", "digits with at most one decimal point"),
        ("+5", "without sign"),
        ("1e3", "without sign, exponent"),
        ("1E-3", "without sign, exponent"),
        ("NaN", "is not an amount"),
        ("Infinity", "is not an amount"),
        ("0x5", "is not an amount"),
        ("1,000", "separators"),
        ("1_000", "separators"),
        (".5", "digits with at most one decimal point"),
        ("5.", "digits with at most one decimal point"),
        ("1.2.3", "digits with at most one decimal point"),
        ("\u0665", "digits with at most one decimal point"),
        ("-5", "not negative"),
        ("-0.1", "not negative"),
        ("0.1234567890123", "at most 12 decimals"),
        ("340282366920938463463374607.431768211456", f"at most {LARGEST} dollars"),
        ("9" * 5000, f"at most {LARGEST} dollars"),
        ({}, "the keys are missing"),
        ({"usd": "5", "units": "5"}, "'units'"),
        ({"usd": 5}, "JSON numbers are not exact"),
        ({"usd": None, "micro_units": "5"}, "is a string of dollars"),
        ({"usd": "-5"}, "not negative"),
        ({"micro_units": 5}, "micro_units is a string of digits"),
        ({"micro_units": "5.0"}, "micro_units is a string of digits"),
        ({"micro_units": str(1 << 128)}, f"at most {LARGEST} dollars"),
        ({"micro_units": "9" * 5000}, "micro_units is a string of digits"),
        ({"micro_units": "5", "usd": "5"}, "do not agree"),
    ],
)
def test_anything_else_is_refused_with_an_example(value: Any, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        AMOUNT.parse(value)
    assert why in refused.value.message
    assert (
        "5.00" in refused.value.message
        or "0.000000000001" in refused.value.message
        or "5000000000000" in (refused.value.message)
    )
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("value", ["5", 5, None, {}, {"usd": "5"}, {"usd": "5", "micro_units": "5"}])
def test_a_response_has_both_keys(value: Any) -> None:
    assert AMOUNT.read(AMOUNT.render(5)) == 5
    with pytest.raises(InvalidInput):
        AMOUNT.read(value)


def test_a_price_has_six_decimals() -> None:
    with pytest.raises(InvalidInput, match="at most 6 decimals"):
        PRICE.parse("0.0000001")
    with pytest.raises(InvalidInput, match=r"at most 18446744073709\.551615 dollars"):
        PRICE.parse({"micro_units_per_token": str(1 << 64)})


def test_tokens_move_in_whole_units() -> None:
    assert whole_units(5 * UNIT) == 5
    with pytest.raises(InvalidInput, match=r"leave a remainder of 0\.000000000001 dollars") as refused:
        whole_units(5 * UNIT + 1, "amount")
    assert refused.value.param == "amount"
    assert "Use 0.000005 dollars or 0.000006 dollars." in refused.value.message
