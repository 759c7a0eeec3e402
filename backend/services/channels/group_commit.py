"""Groups concurrent calls into one transaction (group commit). A lone caller does not wait.

Calls that arrive while a group is handled form the next group, so that the fixed cost of a transaction, such
as its write to disk, is shared by all callers that wait.
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

MAX_GROUP = 256
"""Calls in one group: other writers must get a turn in between."""


class GroupCommit(Generic[C, R]):
    """Handles groups in its own thread. Coroutines of any event loop may submit calls."""

    def __init__(self, handle: Callable[[Sequence[C]], Sequence[R | Exception]], name: str) -> None:
        """`handle` returns a result or an error for each call, in order. All calls get what it raises."""
        self._handle = handle
        self._lock = threading.Lock()
        self._queue: list[tuple[C, asyncio.Future[R]]] = []
        self._is_running = False
        self._thread = ThreadPoolExecutor(1, name)

    async def submit(self, call: C) -> R:
        """Result of the call. A caller cancelled before its group starts is left out; afterwards the call is
        completed.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        with self._lock:
            if not self._is_running:
                self._thread.submit(self._run)  # raises if no thread can start: the next call tries again
                self._is_running = True
            self._queue.append((call, future))
        return await future

    def _run(self) -> None:
        while True:
            with self._lock:
                group, self._queue = self._queue[:MAX_GROUP], self._queue[MAX_GROUP:]
                self._is_running = bool(group)
            if not group:
                return
            self._run_group([(call, future) for call, future in group if not future.cancelled()])

    def _run_group(self, group: list[tuple[C, asyncio.Future[R]]]) -> None:
        if not group:
            return
        results: Sequence[R | BaseException]
        try:
            results = self._handle([call for call, _ in group])
        except BaseException as error:  # noqa: BLE001 - every waiting caller gets the error
            results = [error] * len(group)
        futures = [future for _, future in group]
        resolved = zip(futures, results, strict=True)
        # Each loop is woken once for all of its callers. A loop that is closed has no callers left.
        for loop, pairs in groupby(resolved, lambda pair: pair[0].get_loop()):
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, list(pairs))


def _resolve(pairs: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if future.done():  # the caller was cancelled
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
