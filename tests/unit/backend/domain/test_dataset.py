from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.dataset import (
    MAX_LINE_BYTES,
    MAX_SOURCE_CHARACTERS,
    Defect,
    LineChecker,
    Row,
    RowFormat,
    canonical_row,
    split_lines,
)

TURN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def check(raw: bytes | None, line: int = 2) -> Row | list[Defect]:
    return LineChecker().check(line, raw)


def found(raw: bytes | None, line: int = 2) -> list[tuple[str, str | None]]:
    checked = check(raw, line)
    assert isinstance(checked, list)
    assert all(defect.line == line and defect.message for defect in checked)
    return [(defect.code, defect.field) for defect in checked]


def dumped(row: Any) -> bytes:
    return json.dumps(row).encode()


@pytest.mark.parametrize(
    ("row", "row_format", "num_characters", "answers"),
    [
        ({"messages": TURN}, RowFormat.CHAT, 7, ("hello",)),
        (
            {"messages": [{"role": "system", "content": "be nice"}, *TURN, *TURN]},
            RowFormat.CHAT,
            21,
            ("hello", "hello"),
        ),
        ({"prompt": "a", "completion": "bc"}, RowFormat.INSTRUCT, 3, ("bc",)),
        ({"text": "éé", "source": "json.dumps"}, RowFormat.TEXT, 2, ("éé",)),
    ],
)
def test_rows_of_the_three_formats_are_accepted(
    row: Any, row_format: RowFormat, num_characters: int, answers: tuple[str, ...]
) -> None:
    checked = check(dumped(row))
    assert isinstance(checked, Row)
    assert (checked.format, checked.num_characters) == (row_format, num_characters)
    assert checked.answers == answers
    assert json.loads(checked.canonical) == row


@pytest.mark.parametrize(
    ("raw", "defects"),
    [
        (None, [("line_too_long", None)]),
        (b"", [("empty_line", None)]),
        (b" \t", [("empty_line", None)]),
        (b'{"text": "\xff"}', [("broken_utf8", None)]),
        (b"{", [("malformed_json", None)]),
        (b'{"text": "a"} {}', [("malformed_json", None)]),
        (b"{'text': 'a'}", [("malformed_json", None)]),
        (b'{"text": ' + b"1" * 5000 + b"}", [("malformed_json", None)]),
        (b'{"text": "a", "text": "b"}', [("duplicate_key", "text")]),
        (b'{"a": {"b": 1, "b": 2}, "a": 3}', [("duplicate_key", "b"), ("duplicate_key", "a")]),
        (b'{"text": NaN}', [("not_finite", None)]),
        (b'{"text": [Infinity, 1e999]}', [("not_finite", None), ("not_finite", None)]),
        (b"[" * 100_000, [("too_deep", None)]),
        (b"[" * 9 + b"]" * 9, [("too_deep", None)]),
        (b'{"text": "' + b"[" * 9 + b'", "x": 1}', [("unknown_field", "x")]),
        (b'"' + b'\\"' * 500_000, [("malformed_json", None)]),
        (b"[" * 9 + b'"' + b'\\"' * 400_000 + b"\\", [("too_deep", None)]),
        (b'"text"', [("not_an_object", None)]),
        (b"null", [("not_an_object", None)]),
        (b"{}", [("unknown_format", None)]),
        (b'{"text": "a", "prompt": "b"}', [("unknown_format", None)]),
        (b'{"prompt": "b"}', [("missing_field", "completion")]),
        (b'{"prompt": 3, "completion": "  "}', [("wrong_type", "prompt"), ("empty", "completion")]),
        (b'{"text": null, "x\\u0000\\u00e9": 1}', [("unknown_field", "x\\x00\\xe9"), ("wrong_type", "text")]),
        (b'{"text": "\\ud800"}', [("broken_unicode", "text")]),
        (dumped({"text": "a", "source": 1}), [("wrong_type", "source")]),
        (dumped({"text": "a", "source": "x" * (MAX_SOURCE_CHARACTERS + 1)}), [("too_long", "source")]),
        (dumped({"messages": "hi"}), [("wrong_type", "messages")]),
        (dumped({"messages": []}), [("wrong_turns", "messages")]),
        (dumped({"messages": TURN[:1]}), [("wrong_turns", "messages")]),
        (dumped({"messages": TURN[::-1]}), [("wrong_turns", "messages")]),
        (dumped({"messages": [*TURN, {"role": "system", "content": "x"}]}), [("wrong_turns", "messages")]),
        (
            dumped({"messages": [1, {"role": "bot", "content": ""}, {"name": "x", "content": "y"}]}),
            [
                ("wrong_type", "messages[0]"),
                ("unknown_role", "messages[1].role"),
                ("empty", "messages[1].content"),
                ("unknown_field", "messages[2].name"),
                ("missing_field", "messages[2].role"),
            ],
        ),
    ],
)
def test_all_defects_of_a_line_are_found(raw: bytes | None, defects: list[tuple[str, str | None]]) -> None:
    assert found(raw) == defects


def test_a_byte_order_mark_is_a_defect_and_the_line_is_still_checked() -> None:
    assert found(b'\xef\xbb\xbf{"prompt": "a"}', line=1) == [
        ("byte_order_mark", None),
        ("missing_field", "completion"),
    ]


def test_carriage_returns_are_reported_once_per_file() -> None:
    checker = LineChecker()
    first, second = (checker.check(line, b'{"text": "a"}\r') for line in (1, 2))
    assert isinstance(first, list)
    assert [(defect.line, defect.code) for defect in first] == [(1, "carriage_return")]
    assert isinstance(second, Row)


def test_all_rows_have_the_format_of_the_first() -> None:
    checker = LineChecker()
    assert isinstance(checker.check(1, b'{"text": 1}'), list)
    assert isinstance(checker.check(2, b'{"text": "a"}'), Row)
    [defect] = checker.check(3, b'{"prompt": "a", "completion": "b"}')  # type: ignore[misc]
    assert isinstance(defect, Defect)
    assert defect.code == "mixed_formats"


def test_the_canonical_form_does_not_depend_on_the_spelling() -> None:
    one = check(b'{"source":"s","text":"\\u00e9\\n"}')
    two = check('{ "text" : "é\\u000a", "source": "s" }'.encode())
    assert isinstance(one, Row)
    assert isinstance(two, Row)
    assert one.canonical == two.canonical == '{"source":"s","text":"é\\n"}'.encode()


def row_of(value: Any) -> Row:
    checked = check(dumped(value))
    assert isinstance(checked, Row)
    return checked


def chat(*contents: str) -> dict[str, Any]:
    roles = ["system"] * (len(contents) % 2) + ["user", "assistant"] * (len(contents) // 2)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]}


def test_rows_that_training_reads_alike_have_one_hash() -> None:
    asked = {"prompt": "é?", "completion": "b"}
    copies = [
        {**asked, "prompt": " é?\n"},
        {**asked, "completion": "b\u2003"},
        {**asked, "prompt": "e\u0301?"},
        {**asked, "source": "elsewhere"},
        chat("é?", " b"),
    ]
    assert {row_of(copy).hash for copy in copies} == {row_of(asked).hash}
    assert row_of({"text": "a "}).hash == row_of({"text": "a", "source": "s"}).hash


def test_rows_that_training_reads_differently_have_different_hashes() -> None:
    rows = [
        *[chat("a", "b"), chat("a", "B"), chat("a b", "b"), chat("ab", "b"), chat("b", "a")],
        *[chat("a", "a", "b"), chat("a", "b", "a", "b"), chat('a", "b', "b"), chat("a", 'b", "b')],
        *[{"text": "a"}, {"text": "ab"}, {"text": '["a", "b"]'}],
    ]
    assert len({row_of(row).hash for row in rows}) == len(rows)


@given(st.dictionaries(st.text(), st.text()))
def test_the_canonical_form_of_the_canonical_form_is_itself(row: dict[str, str]) -> None:
    try:
        canonical = canonical_row(row)
    except UnicodeEncodeError:
        return
    assert canonical_row(json.loads(canonical)) == canonical
    assert b"\n" not in canonical


@given(st.binary(max_size=200))
def test_any_bytes_are_a_row_or_have_defects(raw: bytes) -> None:
    checked = check(raw.replace(b"\n", b""))
    assert isinstance(checked, Row) or checked


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_lines_do_not_depend_on_the_chunks(content: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(content)]
    chunks = [content[start:end] for start, end in pairwise(places)]
    expected = content.split(b"\n")
    assert list(split_lines(chunks)) == (expected[:-1] if not expected[-1] else expected)


def test_a_long_line_is_skipped() -> None:
    chunks = [b"ok\n", b"x" * 40, b"x" * 40 + b"\nfine\n", b"y" * 51]
    assert list(split_lines(chunks, max_bytes=50)) == [b"ok", None, b"fine", None]
    assert list(split_lines([b"x" * 50 + b"\n"], max_bytes=50)) == [b"x" * 50]


def test_the_limit_of_a_line_holds_in_practice() -> None:
    assert list(split_lines([b"x"] * 3 + [b"y" * MAX_LINE_BYTES])) == [None]
