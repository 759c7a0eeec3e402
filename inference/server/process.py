"""A process that serves a unix domain socket: its lock, its listener, and the requests to stop."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inference.errors import SocketTakenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

MAX_SOCKET_PATH_BYTES = 107


@contextmanager
def locked_socket(socket_path: Path) -> Iterator[None]:
    """Hold the lock file next to `socket_path`, so that only one engine uses the path. The kernel releases
    the lock when the process ends for any reason. Raises `SocketTakenError`, `ValueError`.
    """
    if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"socket path {socket_path} is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    with socket_path.with_name(f"{socket_path.name}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SocketTakenError(socket_path, lock.read()) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


async def listen(
    socket_path: Path, on_connect: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> asyncio.Server:
    """A server on a socket that only this user can open. A socket left by a killed process is replaced."""
    old_mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(on_connect, socket_path)
    finally:
        os.umask(old_mask)


def stop_on_request(at_signal: Callable[[], None], at_end_of_stdin: Callable[[], None] | None) -> None:
    """Call `at_signal` on the running loop at each SIGTERM or SIGINT and `at_end_of_stdin`, if given, when
    standard input ends, as it does when the parent process dies.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, at_signal)
    if at_end_of_stdin is not None:
        threading.Thread(target=_await_stdin_end, args=(loop, at_end_of_stdin), daemon=True).start()


def _await_stdin_end(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    while os.read(0, 4096):  # unbuffered, because Python's own stream would hold a lock at exit
        pass
    call_soon(loop, stop)


def call_soon(loop: asyncio.AbstractEventLoop, function: object, *arguments: object) -> None:
    """Call `function` on the loop from another thread; ignored after the loop has closed."""
    try:
        loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
    except RuntimeError:
        logger.debug("event loop closed before %r", function)
