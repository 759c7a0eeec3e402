"""Whether an engine process still works, for itself and for the supervisor that owns it."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from inference.protocol import GetStatus
from inference.server.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PERIOD_SECONDS = 5.0
_QUESTION = encode_frame(GetStatus("heartbeat"))
_READ_BYTES = 1 << 16


class Heartbeat:
    """Asks an engine for its status, which it reads between two steps. Never blocks."""

    def __init__(self, socket_path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = socket_path, clock
        self._connection: socket.socket | None = None
        self._asked_at: float | None = None
        self._ask_at = 0.0

    def silence(self) -> float:
        """Seconds for which the engine has owed an answer; 0 while it owes none, or accepts no connection."""
        now = self._clock()
        if self._connection is None:
            self._connect()
        self._receive()
        if self._connection is not None and self._asked_at is None and now >= self._ask_at:
            self._ask(now)
        return 0.0 if self._asked_at is None else now - self._asked_at

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            return
        self._connection = connection

    def _ask(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                if self._connection is not None:
                    self._connection.sendall(_QUESTION)
            except ConnectionError:
                self._close()
                return
        self._asked_at = now

    def _receive(self) -> None:
        """Any answer will do: nothing else is asked on this connection."""
        while self._connection is not None:
            try:
                answer = self._connection.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                answer = b""
            if not answer:
                self._close()
                return
            self._asked_at, self._ask_at = None, self._clock() + PERIOD_SECONDS

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._asked_at = None, None
