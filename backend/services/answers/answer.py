"""An answer under way: one task produces it, one reader takes it, and either may leave first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from backend.domain.serving import NewReceipt
    from inference.protocol import Chunk, FinishReason


@dataclass(frozen=True, slots=True)
class Final:
    """How an answer ended, by choice. When a reader sees it, its receipt is durable. Of the prompt's tokens,
    which all are charged, `cached_prompt_tokens` were found in the engine's prefix cache.
    """

    finish_reasons: tuple[FinishReason, ...]
    receipt: NewReceipt
    cached_prompt_tokens: int = 0


class Answer:
    """Chunks as they arrive, then `final`. The producer never waits for the reader."""

    def __init__(self, answer_id: str) -> None:
        self.id = answer_id
        self.is_abandoned = False
        self._started = asyncio.Event()
        self._ended = asyncio.Event()
        self._chunks: asyncio.Queue[tuple[int, Chunk] | None] = asyncio.Queue()
        self._final: Final | None = None
        self._error: BaseException | None = None
        self._on_hang_up: list[Callable[[], None]] = []

    @property
    def final(self) -> Final:
        if self._final is None:
            raise RuntimeError("the answer has not ended")
        return self._final

    async def started(self) -> None:
        """Returns with the first chunk; raises what went wrong before it."""
        await self._started.wait()
        if self._error is not None:
            raise self._error

    async def chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        """Each chunk with the index of its choice. Raises what went wrong: then nothing was charged."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
        if self._error is not None:
            raise self._error

    async def ended(self) -> NewReceipt | None:
        """Returns when the answer is over, with its receipt if it was charged."""
        await self._ended.wait()
        return self._final.receipt if self._final else None

    def hang_up(self) -> None:
        """The reader has left. What was generated is still charged, and its receipt can be fetched."""
        self.is_abandoned = True
        for react in self._on_hang_up:
            react()

    def on_hang_up(self, react: Callable[[], None]) -> None:
        """Have it called when the reader leaves; at once if that is over."""
        if self.is_abandoned:
            react()
        self._on_hang_up.append(react)

    def put(self, choice: int, chunk: Chunk) -> None:
        if chunk.text or chunk.logprobs:
            self._chunks.put_nowait((choice, chunk))
        self._started.set()

    def end(self, final: Final) -> None:
        self._final = final
        self._close()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._close()

    def _close(self) -> None:
        self._chunks.put_nowait(None)
        self._started.set()
        self._ended.set()
