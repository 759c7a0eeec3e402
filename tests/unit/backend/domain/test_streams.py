from __future__ import annotations

import pytest

from backend.domain.streams import LineSplitter, at_most


def test_a_stream_ends_in_the_error_only_above_the_limit() -> None:
    assert list(at_most(3, [b"ab", b"", b"c"], ValueError("more"))) == [b"ab", b"", b"c"]
    chunks = at_most(3, iter([b"ab", b"cd"]), ValueError("more"))
    assert next(chunks) == b"ab"
    with pytest.raises(ValueError, match="more"):
        next(chunks)


def test_lines_end_at_line_feeds_alone_wherever_their_pieces_end() -> None:
    text = "data: a\u2028\u2029\u0085\x0b\rb\r\n\nlast\n"
    whole, single = LineSplitter(), LineSplitter()
    lines = ["data: a\u2028\u2029\u0085\x0b\rb", "", "last"]
    assert whole.push(text) == lines
    assert [line for character in text for line in single.push(character)] == lines
    assert whole.push("rest") == []
