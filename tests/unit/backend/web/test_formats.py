from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.money import AMOUNT
from backend.domain.sign_in_message import checksummed
from backend.web.formats import address, body_of, percent, picture, price, title_of, usd, usd_short, when
from tests.support.market import some_account


def shown(html: str) -> str:
    return re.sub("<[^>]+>", "", html)


@pytest.mark.parametrize(
    ("amount", "exact", "short"),
    [
        (0, "$0.00", "$0.00"),
        (1, "$0.000000000001", "$0.000000000001"),
        (440_000_000, "$0.00044", "$0.00044"),
        (123_456_789, "$0.000123456789", "$0.0001234"),
        (5 * 10**12, "$5.00", "$5.00"),
        (1_234_567_899_999_999_999, "$1,234,567.899999999999", "$1,234,567.89"),
    ],
)
def test_amounts_have_enough_digits(amount: int, exact: str, short: str) -> None:
    assert (shown(usd(amount)), shown(usd_short(amount))) == (exact, short)


@given(st.integers(0, (1 << 128) - 1))
def test_every_amount_carries_its_exact_value_and_is_never_rounded_up(amount: int) -> None:
    html = usd_short(amount)
    assert f'value="{AMOUNT.decimal(amount)}"' in html
    assert f"{amount:,} micro-units" in html
    text = shown(html)[1:].replace(",", "")
    whole, _, fraction = text.partition(".")
    assert int(whole) * 10**12 + int(fraction.ljust(12, "0")) <= amount


def test_prices_are_dollars_per_million_tokens() -> None:
    assert shown(price(200_000)) == "$0.20"
    assert "200000 micro-units per token" in price(200_000)


@pytest.mark.parametrize(
    ("ppm", "text"),
    [(0, "0 %"), (1, "< 0.01 %"), (125_000, "12.5 %"), (333_333, "33.33 %"), (1_000_000, "100 %")],
)
def test_ratios_are_percentages(ppm: int, text: str) -> None:
    assert percent(ppm) == text


def test_an_account_has_its_checksum_and_a_picture_of_its_own() -> None:
    one, other = some_account("one"), some_account("other")
    assert checksummed(one) in address(one)
    assert picture(one) == picture(one.upper().replace("0X", "0x"))
    assert picture(one) != picture(other)
    assert "style" not in picture(one)


def test_times_are_in_utc() -> None:
    assert when(0) == '<time datetime="1970-01-01T00:00:00+00:00">1 Jan 1970, 00:00 UTC</time>'
    assert "31 Dec 9999" in when(253_402_300_799)


@pytest.mark.parametrize("instant", [253_402_300_800, 10**17, (1 << 64) - 1])
def test_a_time_that_no_calendar_has_is_shown_plainly(instant: int) -> None:
    assert when(instant) == "after the year 9999"


@pytest.mark.parametrize(
    ("text", "title", "body"),
    [
        ("\n# Lower the fee\n\nOthers do.", "Lower the fee", "\nOthers do."),
        ("# Lower the fee", "Lower the fee", "# Lower the fee"),
        ("Lower the fee\nOthers do.", "Lower the fee", "Lower the fee\nOthers do."),
        ("", "Without a title", ""),
    ],
)
def test_a_text_is_its_title_and_what_follows(text: str, title: str, body: str) -> None:
    assert (title_of(text), body_of(text)) == (title, body)
