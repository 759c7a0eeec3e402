"""Splits a stream of bytes into lines of JSON."""

from __future__ import annotations

import json
from typing import Any

READ_BYTES = 1 << 16


class LineBuffer:
    """Collects chunks of a stream and returns its complete lines."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._num_searched = 0

    @property
    def num_pending(self) -> int:
        """Bytes that were added and not returned yet."""
        return len(self._bytes)

    def add(self, chunk: bytes) -> None:
        self._bytes += chunk

    def pop(self) -> bytes | None:
        """The next line without its end; None until one is complete."""
        end = self._bytes.find(b"\n", self._num_searched)
        if end < 0:
            self._num_searched = len(self._bytes)
            return None
        line = bytes(self._bytes[:end])
        del self._bytes[: end + 1]
        self._num_searched = 0
        return line


def encode(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"
