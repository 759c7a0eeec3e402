"""Values of bulk statements."""

from __future__ import annotations

from backend.db.bulk import MAX_KEYS, in_chunks


def test_a_statement_names_a_limited_number_of_values() -> None:
    values = range(2 * MAX_KEYS + 1)
    chunks = list(in_chunks(values))
    assert [len(chunk) for chunk in chunks] == [MAX_KEYS, MAX_KEYS, 1]
    assert [one for chunk in chunks for one in chunk] == list(values)
    assert list(in_chunks([])) == []
