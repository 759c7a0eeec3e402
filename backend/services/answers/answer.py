"""A running answer, with one producer task and one reader. Either may end first."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.serving import NewCharge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from backend.domain.errors import DomainError
    from backend.domain.serving import NewReceipt
    from inference.protocol import Chunk, FinishReason


@dataclass(frozen=True, slots=True)
class Final:
    """End of an answer: finish reason of each choice, and its receipt or charge, which is durable by then.
    `cached_prompt_tokens` of the prompt, which is charged in full, came from the engine's prefix cache.
    `texts`: those that the receipt commits to, of an answer with tools, whose reader gets calls instead.
    `error`: why a streamed answer ended in the middle; what was streamed before is charged.
    """

    finish_reasons: tuple[FinishReason, ...]
    charged: NewReceipt | NewCharge
    cached_prompt_tokens: int = 0
    texts: tuple[str, ...] = ()
    error: DomainError | None = None

    @property
    def receipt(self) -> NewReceipt:
        """Errors: `TypeError` if the receipt follows the charge."""
        if isinstance(self.charged, NewCharge):
            raise TypeError(f"the receipt of charge {self.charged.id} is not signed yet")
        return self.charged


class Answer:
    """Yields chunks as they arrive, then has `final`. The producer never waits for the reader."""

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
    def has_begun(self) -> bool:
        """Whether a chunk of any choice has arrived."""
        return self._started.is_set()

    @property
    def final(self) -> Final:
        if self._final is None:
            raise RuntimeError("the answer has not ended")
        return self._final

    async def started(self) -> None:
        """Returns with the first chunk. Raises the error of an answer that failed before it."""
        await self._started.wait()
        if self._error is not None:
            raise self._error

    async def chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        """Each chunk with the index of its choice. Raises if the answer failed and is not charged."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
        if self._error is not None:
            raise self._error

    async def ended(self) -> NewReceipt | NewCharge | None:
        """Waits for the end of the answer; returns its receipt or charge if it was charged."""
        await self._ended.wait()
        return self._final.charged if self._final else None

    def hang_up(self) -> None:
        """The reader disconnected. Generated tokens are still charged, and the receipt can be fetched."""
        self.is_abandoned = True
        for callback in self._on_hang_up:
            callback()

    @contextlib.contextmanager
    def on_hang_up(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` if the reader disconnects within the block, or now if it has."""
        if self.is_abandoned:
            callback()
        self._on_hang_up.append(callback)
        try:
            yield
        finally:
            self._on_hang_up.remove(callback)

    def put(self, choice: int, chunk: Chunk) -> None:
        if chunk.text or chunk.content or chunk.logprobs:
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
