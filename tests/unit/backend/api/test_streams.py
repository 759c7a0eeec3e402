from __future__ import annotations

import pytest

from backend.api.streams import OpenStreams, TooManyStreams


def test_an_address_has_few_streams_open() -> None:
    streams = OpenStreams(2)
    with streams.hold("a"):
        with streams.hold("a"):
            with pytest.raises(TooManyStreams, match="2 event streams"), streams.hold("a"):
                pass
            with streams.hold("b"):
                pass
        with streams.hold("a"):
            pass


def test_a_stream_that_fails_is_not_open() -> None:
    streams = OpenStreams(1)
    with pytest.raises(ValueError, match="the stream"), streams.hold("a"):
        raise ValueError("the stream")
    with streams.hold("a"):
        pass
