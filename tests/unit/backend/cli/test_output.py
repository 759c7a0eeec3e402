from __future__ import annotations

from typing import TYPE_CHECKING

from backend.cli.output import counted, note_if_empty

if TYPE_CHECKING:
    import pytest


def test_an_empty_list_is_noted_where_programs_do_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    note_if_empty(["a job"], "no jobs")
    note_if_empty([], "no jobs")
    assert capsys.readouterr() == ("", "no jobs\n")


def test_numbers_are_written_with_their_noun() -> None:
    assert [counted(each, "row") for each in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
