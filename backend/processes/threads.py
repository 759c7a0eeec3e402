"""Starts threads in processes that may be short of memory."""

from __future__ import annotations

import faulthandler
import threading

START_SECONDS = 30.0
"""Time in which a thread must start."""
_LOCK = threading.Lock()
"""The interpreter has one timer."""
_STANDARD_ERROR = 2
"""`sys.stderr` may be a logger's object without a file, as Celery's is."""


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. A process in which it does not start in time ends with code 1 and its stacks on
    standard error, for its supervisor to start it again.

    `Thread.start` waits for ever if the new thread runs out of memory before it reports that it runs
    (https://github.com/python/cpython/issues/140746). The timer needs no memory once it is set.

    Errors: as `Thread.start`.
    """
    with _LOCK:
        faulthandler.dump_traceback_later(START_SECONDS, exit=True, file=_STANDARD_ERROR)
        try:
            thread.start()
        finally:
            faulthandler.cancel_dump_traceback_later()
