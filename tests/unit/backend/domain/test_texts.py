from __future__ import annotations

from backend.domain.texts import counted


def test_numbers_are_written_with_their_noun() -> None:
    assert [counted(each, "row") for each in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
