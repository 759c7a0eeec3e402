"""Limits what an untrusted source sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def at_most(num_bytes: int, chunks: Iterable[bytes], error: Exception) -> Iterator[bytes]:
    """The chunks. Errors: `error` if they have more than `num_bytes`, before the chunk that exceeds them."""
    for chunk in chunks:
        num_bytes -= len(chunk)
        if num_bytes < 0:
            raise error
        yield chunk
