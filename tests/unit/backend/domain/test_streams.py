from __future__ import annotations

import pytest

from backend.domain.streams import at_most


def test_a_stream_ends_in_the_error_only_above_the_limit() -> None:
    assert list(at_most(3, [b"ab", b"", b"c"], ValueError("more"))) == [b"ab", b"", b"c"]
    chunks = at_most(3, iter([b"ab", b"cd"]), ValueError("more"))
    assert next(chunks) == b"ab"
    with pytest.raises(ValueError, match="more"):
        next(chunks)
