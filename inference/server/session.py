"""One client's connection to the engine process: reads commands, submits requests, sends events."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import msgspec

from inference.errors import ContextLengthExceededError, InferenceError, OverloadedError
from inference.outputs import Failure
from inference.protocol import (
    Abort,
    Chunk,
    CountTokens,
    Embed,
    Embedding,
    Error,
    Generate,
    GetMetrics,
    GetStatus,
    Metrics,
    ProbeStates,
    TokenCount,
)
from inference.server import frames
from inference.server.compilations import Compilations
from inference.server.engine_thread import abort_job
from inference.server.frames import FrameTooLargeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from concurrent.futures import Executor

    from inference.engine import Engine
    from inference.outputs import Output
    from inference.protocol import Command, Event
    from inference.sampling.grammar import Grammar
    from inference.server.engine_thread import EngineThread
T = TypeVar("T")

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""Time that a client has to read the last frames: the socket holds only some, and the end of the process
drops the rest.
"""
_MAX_COMPILING = 1024  # requests of one client that wait for their constraints; a payer leaves as many free
_MAX_UNSENT_BYTES = 2 * frames.MAX_FRAME_BYTES  # a client that leaves more than this unread is disconnected


class Session:
    """Reads commands until the client disconnects, which aborts all its requests."""

    def __init__(
        self,
        number: int,
        engine_thread: EngineThread,
        tokenizers: Executor,
        compilers: Executor,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """`tokenizers` runs work that would block the event loop, `compilers` work that would block
        tokenizers for too long.
        """
        self._number = number
        self._engine_thread = engine_thread
        self._tokenizers = tokenizers
        self._compilations = Compilations(compilers)
        self._reader = reader
        self._writer = writer
        self._routes: dict[str, Callable[[Output], None]] = {}
        self._aborted: set[str] = set()  # ids in `_routes` whose abort was posted
        self._compiling: dict[str, asyncio.Task[None]] = {}  # by the request whose constraint it compiles
        self._compiling_of: Counter[str] = Counter()  # by payer
        self._aborted_compilations: set[str] = set()  # ids in `_compiling` to abort once they are compiled

    async def run(self) -> None:
        try:
            while (body := await frames.read_frame(self._reader)) is not None:
                await self._handle_frame(body)
                await self._writer.drain()
        except ConnectionError:
            logger.debug("client %d disconnected during an answer", self._number)
        except FrameTooLargeError as error:
            self._send(Error("", "frame_too_large", str(error)))
        finally:
            for task in self._compiling.values():
                task.cancel()
            self._compilations.cancel()
            for engine_id in self._routes.keys() - self._aborted:
                self._engine_thread.post(abort_job(engine_id))
            self._routes.clear()
            self._writer.close()

    @property
    def has_requests(self) -> bool:
        return bool(self._routes)

    async def close(self) -> None:
        """Disconnect once the client has read what it was sent, or `FLUSH_SECONDS` have passed. `run` then
        ends as if the client had disconnected.
        """
        self._writer.close()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._writer.wait_closed()
        except (TimeoutError, ConnectionError):
            self._writer.transport.abort()

    def deliver(self, output: Output) -> None:
        """Route `output` to its request, if this session still has it."""
        route = self._routes.get(output.request_id)
        if route is None:
            return
        if isinstance(output, Failure) or output.finish_reason is not None:
            self._drop_route(output.request_id)
        route(output)

    async def _handle_frame(self, body: bytes) -> None:
        try:
            command = frames.decode_command(body)
        except msgspec.MsgspecError as error:
            self._send(Error(frames.find_request_id(body), "invalid_request", str(error)))
            return
        await self._report_errors(command.request_id, self._handle(command))

    async def _report_errors(self, request_id: str, handled: Awaitable[None]) -> None:
        """Send any error as the answer to this request."""
        try:
            await handled
        except InferenceError as error:
            self._send(_error(request_id, error))
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a panic in the tokenizer's Rust code is no `Exception`
            logger.exception("a command failed unexpectedly")
            reason = "the engine failed at this request; see its log"
            self._send(Error(request_id, InferenceError.code, reason, retryable=True))

    async def _handle(self, command: Command) -> None:
        match command:
            case Generate():
                await self._generate(command)
            case Abort():
                self._abort(self._engine_id(command.request_id))
            case CountTokens():
                await self._count_tokens(command)
            case Embed():
                await self._embed(command)
            case GetStatus():
                self._send(await self._between_steps(lambda engine: engine.status(command.request_id)))
            case GetMetrics():
                metrics = self._engine_thread.metrics
                text = await self._between_steps(lambda engine: metrics.render(engine.status()))
                self._send(Metrics(command.request_id, text))

    async def _generate(self, command: Generate) -> None:
        engine_id = self._engine_id(command.request_id)
        engine = self._engine_thread.engine
        prompt = await self._in_thread(lambda: engine.encode_prompt(command))

        def route(output: Output) -> None:
            chunk = output.last if isinstance(output, Failure) else output
            if chunk is not None:
                self._send(msgspec.structs.replace(chunk, request_id=command.request_id))
            if isinstance(output, Failure):
                self._send(_error(command.request_id, output.error))

        # Without the text, which may be much longer than its tokens: the queue's limits count only tokens.
        # An empty prompt, unlike none, states that it was raw text.
        empty = None if command.prompt is None else ""
        inner = msgspec.structs.replace(command, request_id=engine_id, messages=(), prompt=empty)

        def accept(grammar: Grammar | None) -> None:
            payer, num_tokens = command.payer, len(prompt)
            self._accept(
                engine_id, route, payer, num_tokens, lambda engine: engine.add(inner, prompt, grammar)
            )
            self._engine_thread.metrics.set_parent_span(engine_id, command.traceparent)

        constraint = engine.constraint_of(command)
        grammar = None if constraint is None else engine.grammars.cached(constraint, command.payer)
        if constraint is None or grammar is not None:
            accept(grammar)
        else:
            compilation = self._compilations.start(engine.grammars.compile, constraint, command.payer)
            self._accept_later(command, compilation, accept)

    def _accept_later(
        self, command: Generate, compilation: asyncio.Future[Grammar], accept: Callable[[Grammar], None]
    ) -> None:
        """Accept the request once its constraint is compiled, which may take a second or more."""
        request_id, payer = command.request_id, command.payer
        engine_id = self._engine_id(request_id)
        if engine_id in self._compiling:
            raise InferenceError(f"request id {request_id!r} is in use")
        if self._compiling_of[payer] >= _MAX_COMPILING - len(self._compiling):
            raise OverloadedError(len(self._compiling))

        async def compile_and_accept() -> None:
            accept(await asyncio.shield(compilation))
            if engine_id in self._aborted_compilations:
                self._abort(engine_id)

        def done(_: asyncio.Task[None]) -> None:
            del self._compiling[engine_id]
            self._compiling_of -= Counter((payer,))  # forgets payers with none
            self._aborted_compilations.discard(engine_id)

        task = asyncio.create_task(self._report_errors(request_id, compile_and_accept()))
        self._compiling[engine_id] = task
        self._compiling_of[payer] += 1
        task.add_done_callback(done)

    def _abort(self, engine_id: str) -> None:
        """Abort a generation, or all items of an embedding, which then sends no further event."""
        if engine_id in self._compiling:
            self._aborted_compilations.add(engine_id)
        if engine_id in self._routes and engine_id not in self._aborted:
            self._aborted.add(engine_id)
            self._engine_thread.post(abort_job(engine_id))
        self._abort_items([key for key in self._routes if key.startswith(f"{engine_id}#")])

    def _abort_items(self, engine_ids: Sequence[str]) -> None:
        for key in engine_ids:
            if self._drop_route(key):
                self._engine_thread.post(abort_job(key))

    async def _count_tokens(self, command: CountTokens) -> None:
        engine = self._engine_thread.engine
        tokens = await self._in_thread(lambda: engine.encode_prompt(command))
        self._send(TokenCount(command.request_id, len(tokens), engine.max_context))

    async def _embed(self, command: Embed) -> None:
        """Submit each item as a request, and answer when all are done, or at the first failure."""
        tokenizer = self._engine_thread.engine.tokenizer
        pairs = await self._in_thread(lambda: [tokenizer.encode_item(item) for item in command.items])
        engine_ids = [f"{self._engine_id(command.request_id)}#{index}" for index in range(len(pairs))]
        results: dict[str, ProbeStates] = {}

        def route(output: Output) -> None:
            if isinstance(output, Chunk) and output.probe is not None:
                results[output.request_id] = output.probe
                if len(results) == len(engine_ids):
                    self._send(Embedding(command.request_id, [results[key] for key in engine_ids]))
                return
            self._abort_items(engine_ids)
            if isinstance(output, Failure):
                self._send(_error(command.request_id, output.error))

        accepted: list[str] = []
        try:
            for key, (prompt, answer) in zip(engine_ids, pairs, strict=True):
                num_tokens = len(prompt) + len(answer)
                self._accept(key, route, "", num_tokens, _embed_job(key, prompt, answer, command))
                accepted.append(key)
        except InferenceError:
            self._abort_items(accepted)
            raise

    async def _between_steps(self, ask: Callable[[Engine], T]) -> T:
        """Run `ask` on the engine's thread and wait for the answer before the next command is read: otherwise
        commands could pile up behind a long step.
        """
        answer: Future[T] = Future()

        def job(engine: Engine) -> Sequence[Output]:
            if answer.set_running_or_notify_cancel():
                answer.set_result(ask(engine))
            return []

        self._engine_thread.post(job)
        return await asyncio.wrap_future(answer)

    def _accept(
        self,
        engine_id: str,
        route: Callable[[Output], None],
        payer: str,
        num_tokens: int,
        add: Callable[[Engine], None],
    ) -> None:
        if engine_id in self._routes:
            raise InferenceError(f"request id {engine_id.partition(':')[2]!r} is in use")
        max_context = self._engine_thread.engine.max_context
        if num_tokens > max_context + 1:  # the engine refuses it too, but only after the submission queue
            raise ContextLengthExceededError(num_tokens, max_context)
        self._engine_thread.submit(engine_id, payer, num_tokens, add)
        self._routes[engine_id] = route

    def _drop_route(self, engine_id: str) -> bool:
        """Remove the route of a request; whether it had one."""
        self._aborted.discard(engine_id)
        return self._routes.pop(engine_id, None) is not None

    def _engine_id(self, request_id: str) -> str:
        """The engine's request id: the client's id, made unique over all connections."""
        return f"{self._number}:{request_id}"

    def _send(self, event: Event) -> None:
        if self._writer.is_closing():
            return
        try:
            frame = frames.encode_frame(event)
        except FrameTooLargeError as error:
            frame = frames.encode_frame(
                Error(event.request_id, "frame_too_large", f"the answer is a {error}")
            )
        self._writer.write(frame)
        if self._writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            self._writer.transport.abort()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, function)


def _embed_job(
    engine_id: str, prompt: list[int], answer: list[int], command: Embed
) -> Callable[[Engine], None]:
    return lambda engine: engine.embed(engine_id, prompt, answer, command.adapter_or_blend)


def _error(request_id: str, error: InferenceError) -> Error:
    return Error(request_id, error.code, str(error), error.is_retryable)
