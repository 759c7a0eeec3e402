from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.dataset import MAX_SOURCE_CHARACTERS, LineChecker, Row
from backend.services.contribute import read_rows
from backend.services.contribute.read_rows import RowReader

FIRST = {
    "chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "instruct": {"prompt": "a", "completion": "b"},
    "text": {"text": "a"},
}


def both(first: dict[str, Any], raw: bytes | None) -> tuple[Any, Any]:
    """Results of the reader and of its definition for the second line."""
    reader, checker = RowReader(), LineChecker()
    opening = json.dumps(first).encode()
    reader.read(1, opening)
    checker.check(1, opening)
    return reader.read(2, raw), checker.check(2, raw)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """Sound ones for the most part."""
    text = st.text(max_size=12) | st.sampled_from(['say "hi"', "\\", '\\"', " ", "\u2028", "\x7f", "é😀"])
    value = text | st.none() | st.integers() | st.lists(text, max_size=1)
    message = st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "bot"]), "content": text}
    )
    fields = {"messages": st.lists(message, max_size=4), "prompt": text, "completion": text, "text": text}
    names = draw(st.sampled_from([["messages"], ["prompt", "completion"], ["text"], ["text", "prompt"], []]))
    row = {name: draw(fields[name]) for name in names}
    if draw(st.booleans()):
        row[draw(st.sampled_from(["source", "source", "x", *names]))] = draw(value)
    return row


@given(st.sampled_from(sorted(FIRST)), rows(), st.booleans(), st.sampled_from(["", " ", "\r", "}", "\x00"]))
def test_the_reader_says_what_the_checker_says(
    kind: str, row: dict[str, Any], is_ascii: bool, tail: str
) -> None:
    raw = (json.dumps(row, ensure_ascii=is_ascii) + tail).encode(errors="surrogatepass")
    read, checked = both(FIRST[kind], raw)
    assert read == checked


@given(st.sampled_from(sorted(FIRST)), st.binary(max_size=40), st.integers(0, 30), st.integers(0, 8))
def test_the_reader_says_what_the_checker_says_of_damaged_lines(
    kind: str, noise: bytes, start: int, length: int
) -> None:
    sound = json.dumps(FIRST[kind]).encode()
    read, checked = both(FIRST[kind], sound[:start] + noise.replace(b"\n", b"") + sound[start + length :])
    assert read == checked


@pytest.mark.parametrize(
    "raw",
    [
        b'{"text": "a", "text": "b"}',
        b'{"text": "\\u0022", "text": "\\""}',
        b'{"text": "\\u0022\\u0022\\u0022\\u0022", "text": "b"}',
        b'{"text": "b", "text": "\\u0022\\u0022\\u0022\\u0022"}',
        b'{"\\u0074ext": "a", "text": "b"}',
        b'{"text": "a", "source": "s", "source": "t"}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"text": "a"}' + b"[" * 10_000,
        b'{"text": ' + b"[" * 10_000,
        json.dumps({"text": "a", "source": "s" * (MAX_SOURCE_CHARACTERS + 1)}).encode(),
        b"",
        None,
    ],
)
def test_what_a_quick_parser_would_take_or_choke_on_goes_to_the_checker(raw: bytes | None) -> None:
    read, checked = both(FIRST["text"], raw)
    assert read == checked
    assert not isinstance(read, Row)


def test_keys_and_quotes_spelt_by_their_numbers_are_no_defect() -> None:
    read, checked = both(FIRST["text"], b'{"\\u0074ext": "say \\u0022hi\\""}')
    assert read == checked
    assert isinstance(read, Row)
    assert read.texts == ('say "hi"',)


@pytest.mark.parametrize("kind", sorted(FIRST))
def test_sound_lines_never_reach_the_checker(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RowReader()
    first = reader.read(1, json.dumps(FIRST[kind]).encode())
    assert isinstance(first, Row)
    monkeypatch.delattr(read_rows.LineChecker, "check")
    second = reader.read(2, json.dumps(FIRST[kind] | {"source": 'x"y'}, indent=1).encode())
    assert isinstance(second, Row)
    assert second.format is reader.format is first.format
