"""Work that requests start and wait for briefly, such as what fetches operators' data for minutes.

It runs in threads, in turns, one piece of work at a time for each key. A request waits for it until it has
taken `WAIT_SECONDS`, if no more than `MAX_WAITING` wait. What failed is repeated once as much time as the
failure took has passed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from backend.domain.errors import DomainError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

WAIT_SECONDS = 10.0
MAX_THREADS = 4
MAX_WAITING = 10
"""Requests that wait at once for one `Background`: audits, proofs and terms each have one. Each request holds
one of the 40 threads in which the process serves requests.
"""
MAX_REMEMBERED = 1000
"""Failures that are remembered, beyond those that may not be repeated yet."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Work:
    """Work for a key. `turn` does a part of it, and returns whether it is done. `repeat_at`: when work that
    failed may be repeated.
    """

    turn: Callable[[], bool]
    began_at: float
    is_done: threading.Event = field(default_factory=threading.Event)
    error: DomainError | None = None
    repeat_at: float = 0.0


class Background:
    """Threads start as they are needed and end when nothing is left to do. Thread-safe.

    `max_queued`: pieces of work that may wait for a thread, apart from urgent ones; None: any number.
    """

    def __init__(
        self,
        wait_seconds: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        max_threads: int = MAX_THREADS,
        max_queued: int | None = None,
    ) -> None:
        self._wait_seconds, self.clock = wait_seconds, clock
        self._max_threads, self._max_queued = max_threads, max_queued
        self._lock, self._places = threading.Lock(), threading.Semaphore(MAX_WAITING)
        self._latest: dict[Hashable, Work] = {}
        """By key: work that waits, runs or failed."""
        self._waiting: deque[tuple[Hashable, Work]] = deque()
        self._num_threads = 0

    def start(self, key: Hashable, turn: Callable[[], bool], *, is_urgent: bool = False) -> Work:
        """The key's work that waits, runs or failed a short while ago, else new work. Urgent work gets the
        next thread that is free. Errors: `Unavailable` if `max_queued` pieces wait for a thread.
        """
        with self._lock:
            latest, now = self._latest.get(key), self.clock()
            if latest is not None and (not latest.is_done.is_set() or now < latest.repeat_at):
                if is_urgent and (key, latest) in self._waiting:
                    self._waiting.remove((key, latest))
                    self._waiting.appendleft((key, latest))
                return latest
            if not is_urgent and self._max_queued is not None and len(self._waiting) >= self._max_queued:
                raise Unavailable("too much is still to be fetched or audited; try again later")
            if self._num_threads < self._max_threads:
                threading.Thread(target=self._run, name="background", daemon=True).start()
                self._num_threads += 1
            work = self._latest[key] = Work(turn, now)
            (self._waiting.appendleft if is_urgent else self._waiting.append)((key, work))
            return work

    def error(self, work: Work, asked_at: float) -> DomainError | None:
        """Why work failed, or `Unavailable` if it takes longer than a request waits; None if it is done.

        The time that a request waits counts from `asked_at`, or from when another request began the work.
        """
        left = min(work.began_at, asked_at) + self._wait_seconds - self.clock()
        if not self._is_done(work, left):
            return Unavailable("data is still being fetched or audited; try again")
        return None if work.error is None else replace(work.error)  # each request raises its own

    def _is_done(self, work: Work, left: float) -> bool:
        """Whether work is done within `left` seconds; whether it is now, if others wait in all places."""
        if work.is_done.is_set() or left <= 0 or not self._places.acquire(blocking=False):
            return work.is_done.is_set()
        try:
            return work.is_done.wait(left)
        finally:
            self._places.release()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._num_threads -= 1
                    return
                key, work = self._waiting.popleft()
            self._take_turn(key, work)

    def _take_turn(self, key: Hashable, work: Work) -> None:
        began_at, error = self.clock(), None
        try:
            is_done = work.turn()
        except DomainError as found:
            # A copy has no traceback, which would keep the data that was read.
            is_done, error = True, replace(found)
        except Exception:
            log.exception("background work for %s failed", key)
            is_done = True
            error = Unavailable("reading its data failed; the log of this installation says why")
        with self._lock:
            if not is_done:
                self._waiting.append((key, work))
                return
            self._finish(key, work, error, began_at)

    def _finish(self, key: Hashable, work: Work, error: DomainError | None, began_at: float) -> None:
        now = self.clock()
        if error is None:
            del self._latest[key]
        else:
            work.error, work.repeat_at = error, 2 * now - began_at
        if len(self._latest) > MAX_REMEMBERED:
            self._latest = {
                known: one
                for known, one in self._latest.items()
                if not one.is_done.is_set() or now < one.repeat_at
            }
        work.is_done.set()
