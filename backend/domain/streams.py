"""What others send in pieces: a limit on its bytes, and its lines."""

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


class LineSplitter:
    """Splits the text of an event stream at line feeds alone. `str.splitlines`, and httpx's `iter_lines` with
    it, also split at characters that strings of JSON may contain, such as U+2028.
    """

    def __init__(self) -> None:
        self._pending: list[str] = []

    def push(self, piece: str) -> list[str]:
        """The lines that end in this piece, without line feeds and carriage returns at their ends."""
        *ended, rest = piece.split("\n")
        if ended:
            ended[0] = "".join(self._pending) + ended[0]
            self._pending.clear()
        self._pending.append(rest)
        return [line.removesuffix("\r") for line in ended]
