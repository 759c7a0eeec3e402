"""Many callers, one answer at a time: those that come meanwhile wait, and are answered together next.

What one answer costs whatever its size, such as the write to disk of a transaction, is so divided by the
number of those that wait. A caller who is alone waits for nobody.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

C = TypeVar("C")
R = TypeVar("R")

MOST = 256
"""Calls answered at once: others that write must get a turn in between."""


class Together(Generic[C, R]):
    """Safe from any thread."""

    def __init__(self, answer: Callable[[Sequence[C]], Sequence[R | Exception]], name: str) -> None:
        """`answer` gives a result or an error for each call, in their order; what it raises is all calls'."""
        self._answer = answer
        self._lock = threading.Lock()
        self._waiting: list[tuple[C, Future[R]]] = []
        self._is_answering = False
        self._thread = ThreadPoolExecutor(1, name)

    def ask(self, call: C) -> Future[R]:
        """Done once the call is answered. Cancelled before its turn, it is not made."""
        future: Future[R] = Future()
        with self._lock:
            self._waiting.append((call, future))
            if not self._is_answering:
                self._is_answering = True
                self._thread.submit(self._answer_all)
        return future

    def _answer_all(self) -> None:
        while True:
            with self._lock:
                taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                self._is_answering = bool(taken)
            if not taken:
                return
            self._answer_some([(c, f) for c, f in taken if f.set_running_or_notify_cancel()])

    def _answer_some(self, asked: list[tuple[C, Future[R]]]) -> None:
        if not asked:
            return
        try:
            results = self._answer([call for call, _ in asked])
        except BaseException as error:  # noqa: BLE001 - whoever waits has to hear of it, whatever it is
            results = [error] * len(asked)  # type: ignore[list-item]
        for (_, future), result in zip(asked, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
