"""Async client of the engine process: implements `backend.ports.engine.Engine` over a Unix socket.

One connection carries any number of concurrent requests. Nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from backend.domain.errors import InvalidInput, Overloaded
from backend.domain.ids import Hash32
from backend.engine.metric_texts import checked
from backend.ports.engine import (
    EngineState,
    EngineUnavailable,
    EngineUnreachable,
    InvalidSchema,
    InvalidToolSchema,
    UnsupportedReasoning,
)
from inference.protocol import (
    MAX_EMBED_ITEMS,
    Abort,
    Chunk,
    Command,
    Embed,
    Embedding,
    Error,
    Event,
    Generate,
    GetMetrics,
    GetStatus,
    Metrics,
    Status,
    TokenCount,
)
from inference.server.frames import (
    MAX_FRAME_BYTES,
    FrameTooLargeError,
    decode_event,
    encode_frame,
    find_request_id,
    read_frame,
)
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from pathlib import Path

    from backend.domain.errors import DomainError
    from inference.protocol import AdapterRef, CountTokens, EmbedItem, ProbeStates

E = TypeVar("E", bound=Event)

logger = logging.getLogger(__name__)

_REFUSALS: dict[str, tuple[type[InvalidInput], str]] = {
    "invalid_schema": (InvalidSchema, "response_format"),
    "invalid_tool_schema": (InvalidToolSchema, "tools"),
    "unsupported_reasoning": (UnsupportedReasoning, "reasoning_effort"),
}
"""Errors of a parameter: class and OpenAI's name of it."""
_MAX_UNSENT_BYTES = 4 * MAX_FRAME_BYTES  # the engine reads the next command once it has accepted the last


class EngineClient:
    """Connects on first use, and reconnects after the engine restarts.

    Errors of all methods: `EngineUnavailable` or `Overloaded` where the same call may succeed later,
    `InvalidInput` where the request itself is at fault; `details["code"]` is the engine's error code.
    """

    def __init__(self, socket_path: Path, deadline_seconds: float = 30.0) -> None:
        """`deadline_seconds`: time limit of calls that need no forward pass: `count_tokens`, `status`."""
        self._socket_path = socket_path
        self._deadline_seconds = deadline_seconds
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._numbers = itertools.count()

    async def __aenter__(self) -> Self:
        await self._connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def generate(self, request: Generate) -> AsyncGenerator[Chunk, None]:
        """Stream an answer; the last chunk has a `finish_reason`. The request carries the current span.

        Closing the iterator early aborts the request, and tokens after the last chunk read are not reported.
        For the exact number, call `abort(request_id)` and read on to the chunk with finish reason `abort`.
        """
        command = msgspec.structs.replace(
            request, traceparent=request.traceparent or traces.current_traceparent()
        )
        connection = await self._connected()
        is_finished = False
        async with connection.events(command) as events:
            try:
                while not is_finished:
                    chunk = await _next(events, Chunk)
                    is_finished = chunk.finish_reason is not None
                    yield chunk
            finally:
                if not is_finished:
                    connection.send(Abort(command.request_id))

    async def abort(self, request_id: str) -> None:
        """End a request of this client. Unknown ids are ignored."""
        if self._connection is not None:
            self._connection.send(Abort(request_id))

    async def count_tokens(self, request: CountTokens) -> TokenCount:
        """Count the prompt tokens that `generate` would report; the result has the model's context too."""
        command = msgspec.structs.replace(request, request_id=self._new_id())
        return await self._ask(command, TokenCount, self._deadline_seconds)

    async def embed(self, items: Sequence[EmbedItem], adapter: AdapterRef | None = None) -> list[ProbeStates]:
        """Compute the states of given prompts and answers, in order, as a `Generate` with `probe` would."""
        states: list[ProbeStates] = []
        for start in range(0, len(items), MAX_EMBED_ITEMS):
            chunk = tuple(items[start : start + MAX_EMBED_ITEMS])
            states += (await self._ask(Embed(self._new_id(), chunk, adapter), Embedding)).items
        return states

    async def status(self) -> Status:
        return await self._ask(GetStatus(self._new_id()), Status, self._deadline_seconds)

    async def state(self) -> EngineState:
        status = await self.status()
        active = frozenset(Hash32(f"0x{digest}") for digest in status.active_adapters)
        return EngineState(active, status.max_context, status.weight_format)

    async def progress(self) -> object:
        """It answers between two steps, and ends itself if they hang."""
        await self.status()
        return object()

    async def metrics(self, deadline_seconds: float) -> str:
        """Return the engine's metrics in Prometheus' text format."""
        found = await self._ask(GetMetrics(self._new_id()), Metrics, deadline_seconds)
        return checked(found.text, f"the engine at {self._socket_path}")

    async def _ask(self, command: Command, answer: type[E], deadline_seconds: float | None = None) -> E:
        try:
            async with asyncio.timeout(deadline_seconds):
                return await self._answer(command, answer)
        except TimeoutError as error:
            raise EngineUnavailable.because(f"it did not answer within {deadline_seconds:g} s") from error

    async def _answer(self, command: Command, answer: type[E]) -> E:
        connection = await self._connected()
        async with connection.events(command) as events:
            try:
                return await _next(events, answer)
            except asyncio.CancelledError:
                connection.send(Abort(command.request_id))
                raise

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.is_lost:
                self._connection = await _Connection.open(self._socket_path)
            return self._connection

    def _new_id(self) -> str:
        return f"auto-{next(self._numbers)}"


class _Connection:
    """One socket, and a queue of events for each request. None in a queue: the connection is lost."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._queues: dict[str, asyncio.Queue[Event | None]] = {}
        self.is_lost = False
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, path: Path) -> Self:
        try:
            return cls(*await asyncio.open_unix_connection(path))
        except OSError as error:
            raise EngineUnreachable.because("nothing answers on its socket") from error

    @asynccontextmanager
    async def events(self, command: Command) -> AsyncIterator[asyncio.Queue[Event | None]]:
        """Send `command` and queue the events with its request id until the block exits."""
        if command.request_id in self._queues:
            raise InvalidInput(f"request id {command.request_id!r} is in use", "request_id")
        if self._writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            raise Overloaded(
                "the inference engine has too many unread requests; try again shortly",
                details={"code": "overloaded"},
            )
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues[command.request_id] = queue
        try:
            self.send(command)
            yield queue
        finally:
            del self._queues[command.request_id]

    def send(self, command: Command) -> None:
        try:
            frame = encode_frame(command)
        except FrameTooLargeError as error:
            raise InvalidInput(str(error)) from error
        if not self.is_lost:
            self._writer.write(frame)
        elif command.request_id in self._queues:
            self._queues[command.request_id].put_nowait(None)

    async def close(self) -> None:
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            while (body := await read_frame(self._reader)) is not None:
                event = _decode(body)
                queue = self._queues.get(event.request_id)
                if queue is not None:
                    queue.put_nowait(event)
        finally:
            self.is_lost = True
            for queue in self._queues.values():
                queue.put_nowait(None)
            self._writer.close()


def _decode(body: bytes) -> Event:
    """Decode an event; one that is malformed becomes an error of its own request only."""
    try:
        return decode_event(body)
    except msgspec.MsgspecError as error:
        logger.exception("the engine sent an event that cannot be decoded")
        reason = f"the engine's event cannot be decoded: {error}"
        return Error(find_request_id(body), "engine_unavailable", reason, retryable=True)


async def _next(events: asyncio.Queue[Event | None], expected: type[E]) -> E:
    event = await events.get()
    if event is None:
        raise EngineUnavailable.because("it ended during this request")
    if isinstance(event, Error):
        raise _domain_error(event)
    if not isinstance(event, expected):
        raise EngineUnavailable.because(
            f"it answered with {type(event).__name__} instead of {expected.__name__}"
        )
    return event


def _domain_error(error: Error) -> DomainError:
    details = {"code": error.code}
    if error.code == "overloaded":
        return Overloaded(error.message, details=details)
    if error.code in _REFUSALS:
        kind, param = _REFUSALS[error.code]
        return kind(error.message, param, details)
    return (EngineUnavailable if error.retryable else InvalidInput)(error.message, details=details)
