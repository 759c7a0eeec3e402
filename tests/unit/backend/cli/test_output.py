from __future__ import annotations

from typing import TYPE_CHECKING

from backend.cli.output import echo, echo_part, in_utc, note_if_empty

if TYPE_CHECKING:
    import pytest


def test_an_empty_list_is_noted_where_programs_do_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    note_if_empty(["a job"], "no jobs")
    note_if_empty([], "no jobs")
    assert capsys.readouterr() == ("", "no jobs\n")


def test_texts_of_a_market_neither_control_the_terminal_nor_begin_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    echo("\x1b[2Ja name\n1,000 dollars\x9b31m")
    echo_part("one\n\ttwo\x1b]0;title\x07 👩‍🔬\n")
    assert capsys.readouterr().out == "?[2Ja name?1,000 dollars?31m\none\n\ttwo?]0;title? 👩‍🔬\n"


def test_times_are_in_utc_or_after_the_year_9999() -> None:
    assert in_utc("253402300799") == "9999-12-31T23:59:59+00:00"
    for instant in (253_402_300_800, 10**17, (1 << 64) - 1):
        assert in_utc(str(instant)) == "after the year 9999"
