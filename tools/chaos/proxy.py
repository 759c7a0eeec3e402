"""A TCP proxy that can lose its server, or make it slow."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ_BYTES = 1 << 16


class Proxy:
    """Forwards connections to a server, on a free port of loopback, except while it is cut."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """`connect` opens a connection to the server."""
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._delay_seconds = 0.0
        self.num_delayed = 0
        """Messages that were delayed so far."""
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Close all connections, and further ones at once."""
        with self._lock:
            self._is_cut = True
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def slow(self, seconds: float) -> None:
        """Delay each piece of data, in both directions."""
        self._delay_seconds = seconds

    def restore(self) -> None:
        self._delay_seconds = 0.0
        with self._lock:
            self._is_cut = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], name="proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self._is_cut:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._connect() as server, self._registered(client, server):
                back = threading.Thread(target=self._copy, args=[server, client], name="proxy", daemon=True)
                back.start()
                self._copy(client, server)
                back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        """Copy until one side ends, then end the other."""
        with contextlib.suppress(OSError):
            while data := source.recv(_READ_BYTES):
                if self._delay_seconds:
                    self.num_delayed += 1
                    time.sleep(self._delay_seconds)
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _registered(self, *connections: socket.socket) -> Iterator[None]:
        with self._lock:
            if self._is_cut:
                raise ConnectionResetError
            self._open.update(connections)
        try:
            yield
        finally:
            with self._lock:
                self._open.difference_update(connections)
