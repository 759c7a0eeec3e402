"""The engine's server: accepts clients on a unix domain socket and delivers the engine's outputs to them.

The socket is created only after the model is loaded, so every client that can connect is served.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from inference.errors import OverloadedError, UnsupportedModelError
from inference.protocol import Error
from inference.server.engine_thread import EngineThread
from inference.server.frames import encode_frame
from inference.server.process import call_soon, listen
from inference.server.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.config import EngineConfig
    from inference.outputs import Output

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
"""A client needs one connection for all its requests. Each may buffer two frames in either direction."""
DRAIN_SECONDS = 45.0
"""Time that running requests have to end. API processes that stop at the same time abort and charge theirs
within 30 s; Compose and the chart kill after 60 s.
"""


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
        `locked_socket`.
        """
        loop = asyncio.get_running_loop()
        self._engine_thread.start(
            deliver=lambda outputs: call_soon(loop, self._deliver, outputs),
            on_crash=lambda error: call_soon(loop, self._handle_crash, error),
        )
        server = await listen(socket_path, self._handle_connection)
        logger.info("engine ready on %s", socket_path)
        async with server:
            await self._stopped.wait()
            server.close()
            await asyncio.gather(*(session.close() for session in self._sessions.values()))
        await asyncio.to_thread(socket_path.unlink, missing_ok=True)
        if self._crash is not None:
            raise RuntimeError("the engine failed") from self._crash
        self._engine_thread.stop()

    def drain(self) -> None:
        """Refuse further requests, and stop once the running ones have ended, after `DRAIN_SECONDS` at the
        latest. Called again, stop at once.
        """
        if self._engine_thread.is_draining:
            self.stop()
            return
        self._engine_thread.is_draining = True
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, self.stop)
        self._stop_if_drained()

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
            self._stop_if_drained()

    def _deliver(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            session = self._sessions.get(int(output.request_id.partition(":")[0]))
            if session is not None:
                session.deliver(output)
        self._stop_if_drained()

    def _stop_if_drained(self) -> None:
        sessions = self._sessions.values()
        if self._engine_thread.is_draining and not any(session.has_requests for session in sessions):
            self.stop()

    def _handle_crash(self, error: BaseException) -> None:
        self._crash = error
        self._stopped.set()
