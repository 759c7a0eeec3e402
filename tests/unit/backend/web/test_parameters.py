from __future__ import annotations

import pytest

from backend.domain.chain import Reverted
from backend.domain.errors import InvalidInput
from backend.web.formats import title_of, usd_text, votes
from backend.web.parameters import PARAMETERS, duration
from backend.web.refusals import refusal_words


@pytest.mark.parametrize(
    ("name", "text", "value", "written"),
    [
        ("feePpm", "2.5", 25_000, "2.5 %"),
        ("feePpm", "0", 0, "0 %"),
        ("disputeWindow", "93600", 93_600, "1 d 2 h"),
    ],
)
def test_a_value_is_read_and_written_in_the_unit_of_people(
    name: str, text: str, value: int, written: str
) -> None:
    assert PARAMETERS[name].parse(text) == value
    assert PARAMETERS[name].write(value) == written


HUGE = ["1e99999", "1e999999", "1e999999999999999999"]  # as integers, they would exhaust time or memory


@pytest.mark.parametrize("text", ["", "x", "-1", "NaN", "Infinity", "0.00001", "1 000", *HUGE])
def test_what_is_no_exact_value_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match="Protocol fee, of each charge: write percent") as refused:
        PARAMETERS["feePpm"].parse(text)
    assert refused.value.param == "feePpm"


def test_durations_leave_out_what_is_zero() -> None:
    assert [duration(seconds) for seconds in (0, 59, 3600, 90_061)] == [
        "0 s",
        "59 s",
        "1 h",
        "1 d 1 h 1 min 1 s",
    ]


def test_refusals_say_what_to_do_and_the_contracts_words() -> None:
    args = {
        "parameter": "0x" + b"feePpm".hex().ljust(64, "0"),
        "value": "900000",
        "min": "0",
        "max": "200000",
    }
    beyond = Reverted("reverted: OutOfBounds", error="OutOfBounds", args_by_name=args)
    words = "90 % is outside of the bounds that the contract fixes, 0 % to 20 %."
    assert refusal_words(beyond) == f"Protocol fee, of each charge: {words} (reverted: OutOfBounds)"
    assert refusal_words(Reverted("reverted: StillThawing", error="StillThawing")).startswith(
        "The amount still thaws."
    )
    assert refusal_words(Reverted("reverted: Other", error="Other")) == "reverted: Other"


def test_the_title_of_a_proposal_is_its_first_line() -> None:
    assert title_of("\n\n## Lower the fee\n\nBecause.") == "Lower the fee"
    assert title_of(" \n#\n") == "Without a title"
    assert len(title_of("x" * 1000)) == 121


def test_small_amounts_and_votes_keep_their_digits() -> None:
    assert usd_text(440_000_000) == "$0.00044"
    assert "1,234.5 votes" in votes(1_234_500_000_000_000_000_000)
