"""Async client of the engine process. Torch-free; one connection carries any number of requests at once."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypedDict, TypeVar, Unpack

import msgspec

from backend.domain.errors import InvalidInput, Overloaded, Unavailable
from inference.frames import (
    MAX_FRAME_BYTES,
    FrameTooLargeError,
    decode_event,
    encode_frame,
    find_request_id,
    read_frame,
)
from inference.protocol import (
    MAX_EMBED_ITEMS,
    Abort,
    Chunk,
    Command,
    CountTokens,
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

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from pathlib import Path

    from backend.domain.errors import DomainError
    from inference.protocol import AdapterBlend, AdapterRef, EmbedItem, Message, ProbeStates, Sampling

E = TypeVar("E", bound=Event)

logger = logging.getLogger(__name__)

_MAX_UNSENT_BYTES = 4 * MAX_FRAME_BYTES  # the engine reads a command when it has taken in the one before


class _GenerateFields(TypedDict, total=False):
    """Those of `Generate`."""

    messages: tuple[Message, ...]
    prompt: str | None
    adapter: AdapterRef | None
    blend: AdapterBlend | None
    sampling: Sampling
    probe: bool
    probe_error: bool
    payer: str
    priority: int
    deadline_ms: int | None
    traceparent: str | None


class EngineClient:
    """Connects on first use, and again after the engine was restarted.

    Errors of all methods: `Unavailable` where the same call may succeed later (engine down, restarted in the
    middle, or `Overloaded`), `InvalidInput` where the request itself is at fault; `details["code"]` is the
    engine's own name for it.
    """

    def __init__(self, socket_path: Path, deadline_s: float = 30.0) -> None:
        """`deadline_s` bounds, in seconds, what is answered between two steps: `count_tokens`, `status`."""
        self._socket_path = socket_path
        self._deadline_s = deadline_s
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

    async def generate(
        self, *, request_id: str | None = None, **fields: Unpack[_GenerateFields]
    ) -> AsyncGenerator[Chunk, None]:
        """The answer, chunk by chunk; the last one has a `finish_reason`.

        Closing the iterator early aborts the request; the last chunk seen says how many tokens there were. To
        have the exact number, `abort(request_id)` instead and read on: the last chunk then says `abort`.
        """
        command = Generate(request_id or self._new_id(), **fields)
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
        """End a request of this client; unknown ids are ignored."""
        if self._connection is not None:
            self._connection.send(Abort(request_id))

    async def count_tokens(self, messages: Sequence[Message] = (), prompt: str | None = None) -> TokenCount:
        """Prompt tokens that `generate` would report, and the context they have to fit in."""
        command = CountTokens(self._new_id(), tuple(messages), prompt)
        return await self._ask(command, TokenCount, self._deadline_s)

    async def embed(self, items: Sequence[EmbedItem], adapter: AdapterRef | None = None) -> list[ProbeStates]:
        """States of given prompts and answers, as `generate(probe=True)` would return them, in order."""
        states: list[ProbeStates] = []
        for start in range(0, len(items), MAX_EMBED_ITEMS):
            part = tuple(items[start : start + MAX_EMBED_ITEMS])
            states += (await self._ask(Embed(self._new_id(), part, adapter), Embedding)).items
        return states

    async def status(self) -> Status:
        return await self._ask(GetStatus(self._new_id()), Status, self._deadline_s)

    async def metrics(self, deadline_s: float) -> str:
        """What the engine counts, in Prometheus' text format."""
        return (await self._ask(GetMetrics(self._new_id()), Metrics, deadline_s)).text

    async def _ask(self, command: Command, answer: type[E], deadline_s: float | None = None) -> E:
        try:
            async with asyncio.timeout(deadline_s):
                return await self._answer(command, answer)
        except TimeoutError as error:
            raise _unavailable(f"it did not answer within {deadline_s:g} s") from error

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
    """One socket and a queue of events for every request under way; None in a queue means it was lost."""

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
            raise _unavailable(f"nothing answers on {path}") from error

    @asynccontextmanager
    async def events(self, command: Command) -> AsyncIterator[asyncio.Queue[Event | None]]:
        """Send `command` and receive what carries its request id until the block is left."""
        if command.request_id in self._queues:
            raise InvalidInput(f"request id {command.request_id!r} is in use", "request_id")
        if self._writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            raise Overloaded(
                "the inference engine is behind with what it was sent; try again shortly",
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
    """An event that cannot be decoded is an error of its own request, and of no other."""
    try:
        return decode_event(body)
    except msgspec.MsgspecError as error:
        logger.exception("the engine sent an event that cannot be decoded")
        reason = f"the engine's event cannot be decoded: {error}"
        return Error(find_request_id(body), "engine_unavailable", reason, retryable=True)


async def _next(events: asyncio.Queue[Event | None], expected: type[E]) -> E:
    event = await events.get()
    if event is None:
        raise _unavailable("it ended while it worked on this request")
    if isinstance(event, Error):
        raise _domain_error(event)
    if not isinstance(event, expected):
        raise _unavailable(f"it answered with {type(event).__name__} where {expected.__name__} belongs")
    return event


def _unavailable(reason: str) -> Unavailable:
    return Unavailable(
        f"the inference engine is not available: {reason}; try again shortly",
        details={"code": "engine_unavailable"},
    )


def _domain_error(error: Error) -> DomainError:
    if error.code == "overloaded":
        return Overloaded(error.message, details={"code": error.code})
    kind = Unavailable if error.retryable else InvalidInput
    return kind(error.message, details={"code": error.code})
