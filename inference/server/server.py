"""The engine's server: accepts clients on a unix domain socket and delivers the engine's outputs to them.

The socket is created only after the model is loaded, so every client that can connect is served.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inference.errors import OverloadedError, SocketTakenError, UnsupportedModelError
from inference.protocol import Error
from inference.server.engine_thread import EngineThread
from inference.server.frames import encode_frame
from inference.server.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from inference.config import EngineConfig
    from inference.outputs import Output

logger = logging.getLogger(__name__)

MAX_SOCKET_PATH_BYTES = 107
MAX_CONNECTIONS = 64
"""A client needs one connection for all its requests. Each may buffer two frames in either direction."""


class EngineServer:
    """Serves one engine to any number of connections."""

    def __init__(self, config: EngineConfig) -> None:
        self._engine_thread = EngineThread(config)
        try:
            self._engine_thread.engine.vocabulary.warm_up()
        except UnsupportedModelError as error:  # only constraints and log-probabilities need it
            logger.warning("%s", error)
        self._tokenizers = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._compilers = ThreadPoolExecutor(1, thread_name_prefix="grammar-compiler")
        self._sessions: dict[int, Session] = {}
        self._num_sessions = 0
        self._crash: BaseException | None = None
        self._stopped = asyncio.Event()

    async def serve(self, socket_path: Path) -> None:
        """Serve until `stop`, or until the engine crashes, which raises `RuntimeError`. The caller holds
        `locked_socket`; a socket left by a killed engine is replaced.
        """
        loop = asyncio.get_running_loop()
        self._engine_thread.start(
            deliver=lambda outputs: call_soon(loop, self._deliver, outputs),
            on_crash=lambda error: call_soon(loop, self._handle_crash, error),
        )
        old_mask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._handle_connection, socket_path)
        finally:
            os.umask(old_mask)
        logger.info("engine ready on %s", socket_path)
        async with server:
            await self._stopped.wait()
            for session in self._sessions.values():
                session.close()
        await asyncio.to_thread(socket_path.unlink, missing_ok=True)
        if self._crash is not None:
            raise RuntimeError("the engine failed") from self._crash
        self._engine_thread.stop()

    def stop(self) -> None:
        """Close all connections; their clients see a retryable error."""
        self._stopped.set()

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._sessions) >= MAX_CONNECTIONS:
            reason = f"{MAX_CONNECTIONS} clients are connected already"
            writer.write(encode_frame(Error("", OverloadedError.code, reason, retryable=True)))
            writer.close()
            return
        number = self._num_sessions
        self._num_sessions += 1
        session = Session(number, self._engine_thread, self._tokenizers, self._compilers, reader, writer)
        self._sessions[number] = session
        try:
            await session.run()
        finally:
            del self._sessions[number]

    def _deliver(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            session = self._sessions.get(int(output.request_id.partition(":")[0]))
            if session is not None:
                session.deliver(output)

    def _handle_crash(self, error: BaseException) -> None:
        self._crash = error
        self._stopped.set()


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


def stop_on_request(stop: Callable[[], None], *, at_end_of_stdin: bool) -> None:
    """Call `stop` on the running loop at SIGTERM or SIGINT and, with `at_end_of_stdin`, when standard input
    ends, as it does when the parent process dies.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if at_end_of_stdin:
        threading.Thread(target=_await_stdin_end, args=(loop, stop), daemon=True).start()


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
