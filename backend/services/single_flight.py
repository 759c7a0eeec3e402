"""Answers many callers at once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Calls `ask` once for all who wait, and keeps its answer, but no exception, for some seconds: for what
    anyone may ask and may take long. Used from one event loop.
    """

    def __init__(
        self,
        ask: Callable[[], Coroutine[Any, Any, T]],
        kept_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._asked: asyncio.Task[T] | None = None
        self._kept_until = 0.0

    async def get(self) -> T:
        if self._asked is None or (self._asked.done() and self._clock() >= self._kept_until):
            self._asked = asyncio.create_task(self._ask_and_keep())
        return await asyncio.shield(self._asked)  # others wait too: one who hangs up must not cancel it

    async def _ask_and_keep(self) -> T:
        self._kept_until = 0.0  # an error is not kept
        answer = await self._ask()
        self._kept_until = self._clock() + self._kept_seconds
        return answer
