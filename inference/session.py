"""One client's connection to the engine process: its commands, its requests, its events."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import msgspec

from inference import frames, worker
from inference.engine import Failure
from inference.errors import ContextLengthExceededError, InferenceError, OverloadedError
from inference.frames import FrameTooLargeError
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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from concurrent.futures import Executor

    from inference.engine import Engine, Output
    from inference.protocol import Command, Constraint, Event
    from inference.sampling.grammar import Grammar

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MAX_COMPILING = 64  # requests of one client that wait for their constraint
_MAX_UNSENT_BYTES = 2 * frames.MAX_FRAME_BYTES  # more is kept for no client that does not read


class Session:
    """Reads commands until the client hangs up, which aborts all its requests."""

    def __init__(
        self,
        number: int,
        engine_worker: worker.EngineWorker,
        tokenizers: Executor,
        compilers: Executor,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """`tokenizers` runs what would hold up the event loop, `compilers` what would hold up those."""
        self._number = number
        self._worker = engine_worker
        self._tokenizers = tokenizers
        self._compilers = compilers
        self._reader = reader
        self._writer = writer
        self._routes: dict[str, Callable[[Output], None]] = {}
        self._aborted: set[str] = set()  # those of `_routes` that were told to end
        # Requests whose constraint is being compiled, and those of them that were told to end.
        self._compiling: dict[str, asyncio.Task[None]] = {}
        self._unwanted: set[str] = set()

    async def run(self) -> None:
        try:
            while (body := await frames.read_frame(self._reader)) is not None:
                await self._handle_frame(body)
                await self._writer.drain()
        except ConnectionError:
            logger.debug("client %d hung up while it was answered", self._number)
        except FrameTooLargeError as error:
            self._send(Error("", "frame_too_large", str(error)))
        finally:
            for task in self._compiling.values():
                task.cancel()
            for engine_id in self._routes.keys() - self._aborted:
                self._worker.post(worker.abort(engine_id))
            self._routes.clear()
            self._writer.close()

    def close(self) -> None:
        """Hang up; `run` then ends as if the client had."""
        self._writer.close()

    def deliver(self, output: Output) -> None:
        """Hand `output` to the request it belongs to, if that is still one of this session's."""
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
        await self._guard(command.request_id, self._handle(command))

    async def _guard(self, request_id: str, handled: Awaitable[None]) -> None:
        """Whatever goes wrong is this request's own error."""
        try:
            await handled
        except InferenceError as error:
            self._send(_error(request_id, error))
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a panic in the tokenizer's Rust is no `Exception`
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
                meter = self._worker.meter
                text = await self._between_steps(lambda engine: meter.exposition(engine.status()))
                self._send(Metrics(command.request_id, text))

    async def _generate(self, command: Generate) -> None:
        engine_id = self._engine_id(command.request_id)
        prompt = await self._in_thread(
            lambda: self._worker.engine.tokenizer.encode_prompt(command.messages, command.prompt)
        )

        def route(output: Output) -> None:
            if isinstance(output, Failure):
                self._send(_error(command.request_id, output.error))
            else:
                self._send(msgspec.structs.replace(output, request_id=command.request_id))

        # Without the text, which may be much longer than its tokens: what waits is bounded by those.
        inner = msgspec.structs.replace(command, request_id=engine_id, messages=(), prompt=None)

        def accept(grammar: Grammar | None) -> None:
            payer, num_tokens = command.payer, len(prompt)
            self._accept(
                engine_id, route, payer, num_tokens, lambda engine: engine.add(inner, prompt, grammar)
            )
            self._worker.meter.belongs_to(engine_id, command.traceparent)

        if command.sampling.constraint is None:
            accept(None)
        else:
            self._compile(command.request_id, command.sampling.constraint, accept)

    def _compile(self, request_id: str, constraint: Constraint, accept: Callable[[Grammar], None]) -> None:
        """Go on to other commands while the constraint is compiled, which may take a second or more."""
        engine_id = self._engine_id(request_id)
        if engine_id in self._compiling:
            raise InferenceError(f"request id {request_id!r} is in use")
        if len(self._compiling) >= _MAX_COMPILING:
            raise OverloadedError(len(self._compiling))

        async def compiled() -> None:
            grammars, loop = self._worker.engine.grammars, asyncio.get_running_loop()
            accept(await loop.run_in_executor(self._compilers, grammars.compile, constraint))
            if engine_id in self._unwanted:
                self._abort(engine_id)

        def done(_: asyncio.Task[None]) -> None:
            del self._compiling[engine_id]
            self._unwanted.discard(engine_id)

        self._compiling[engine_id] = task = asyncio.create_task(self._guard(request_id, compiled()))
        task.add_done_callback(done)

    def _abort(self, engine_id: str) -> None:
        """A generation, or all items of an embedding; of the latter nothing more is said."""
        if engine_id in self._compiling:
            self._unwanted.add(engine_id)
        if engine_id in self._routes and engine_id not in self._aborted:
            self._aborted.add(engine_id)
            self._worker.post(worker.abort(engine_id))
        self._abort_items([key for key in self._routes if key.startswith(f"{engine_id}#")])

    def _abort_items(self, engine_ids: Sequence[str]) -> None:
        for key in engine_ids:
            if self._drop_route(key):
                self._worker.post(worker.abort(key))

    async def _count_tokens(self, command: CountTokens) -> None:
        engine = self._worker.engine
        tokens = await self._in_thread(
            lambda: engine.tokenizer.encode_prompt(command.messages, command.prompt)
        )
        self._send(TokenCount(command.request_id, len(tokens), engine.max_context))

    async def _embed(self, command: Embed) -> None:
        """One engine request an item; answered when all are done, or at the first failure."""
        tokenizer = self._worker.engine.tokenizer
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
        """The next command is read when it was answered: else questions could pile up behind a long step."""
        answer: Future[T] = Future()

        def job(engine: Engine) -> Sequence[Output]:
            if answer.set_running_or_notify_cancel():
                answer.set_result(ask(engine))
            return []

        self._worker.post(job)
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
        max_context = self._worker.engine.max_context
        if num_tokens > max_context + 1:  # the engine would refuse it too, but let it wait in line first
            raise ContextLengthExceededError(num_tokens, max_context)
        self._worker.submit(engine_id, payer, num_tokens, add)
        self._routes[engine_id] = route

    def _drop_route(self, engine_id: str) -> bool:
        """Whether there was one."""
        self._aborted.discard(engine_id)
        return self._routes.pop(engine_id, None) is not None

    def _engine_id(self, request_id: str) -> str:
        """Ids are the client's own; this makes them unique over all connections."""
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
    return lambda engine: engine.embed(engine_id, prompt, answer, command.choice)


def _error(request_id: str, error: InferenceError) -> Error:
    return Error(request_id, error.code, str(error), error.is_retryable)
