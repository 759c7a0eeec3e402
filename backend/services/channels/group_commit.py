"""Many callers, one answer at a time: those that come meanwhile wait, and are answered together next.

What one answer costs whatever its size, such as the write to disk of a transaction, is so divided by the
number of those that wait. A caller who is alone waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

C = TypeVar("C")
R = TypeVar("R")

MOST = 256
"""Calls answered at once: others that write must get a turn in between."""


class GroupCommit(Generic[C, R]):
    """Answers in a thread of its own; asked from coroutines of any loops."""

    def __init__(self, answer: Callable[[Sequence[C]], Sequence[R | Exception]], name: str) -> None:
        """`answer` gives a result or an error for each call, in their order; what it raises is all calls'."""
        self._answer = answer
        self._lock = threading.Lock()
        self._waiting: list[tuple[C, asyncio.Future[R]]] = []
        self._is_answering = False
        self._thread = ThreadPoolExecutor(1, name)

    async def ask(self, call: C) -> R:
        """A call whose caller was cancelled before its turn is not made; made, it is made to the end."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((call, future))
            if not self._is_answering:
                self._is_answering = True
                self._thread.submit(self._answer_all)
        return await future

    def _answer_all(self) -> None:
        while True:
            with self._lock:
                taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                self._is_answering = bool(taken)
            if not taken:
                return
            self._answer_some([(call, future) for call, future in taken if not future.cancelled()])

    def _answer_some(self, asked: list[tuple[C, asyncio.Future[R]]]) -> None:
        if not asked:
            return
        results: Sequence[R | BaseException]
        try:
            results = self._answer([call for call, _ in asked])
        except BaseException as error:  # noqa: BLE001 - whoever waits has to hear of it, whatever it is
            results = [error] * len(asked)
        futures = [future for _, future in asked]
        told = zip(futures, results, strict=True)
        # A loop is woken once for all of its callers. One that has ended has no callers any more.
        for loop, pairs in groupby(told, lambda pair: pair[0].get_loop()):
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_tell, list(pairs))


def _tell(told: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in told:
        if future.done():  # its caller was cancelled meanwhile
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
