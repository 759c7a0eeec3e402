"""A stock vLLM server as the engine: implements `backend.ports.engine.Engine` over its HTTP API.

See docs/vllm.md for the server's options. Adapters are served by digest through vLLM's own
`lora_filesystem_resolver`; no name is ever used for other content. Nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec

from backend.domain.errors import InvalidInput, Overloaded
from backend.domain.ids import Hash32
from backend.domain.streams import LineSplitter
from backend.engine.metric_texts import checked
from backend.engine.vllm_answer import AnswerReader, Part, failure
from backend.engine.vllm_request import check_prompt, check_request, completion_body, prompt_body
from backend.ports.engine import EngineState, EngineUnavailable, EngineUnreachable
from inference.protocol import Chunk, TokenCount

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from backend.domain.errors import DomainError
    from backend.engine.vllm_adapters import VllmAdapters
    from backend.engine.vllm_answer import AnswerParts
    from inference.protocol import CountTokens, Generate

T = TypeVar("T")

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
CALL_SECONDS = 30.0
"""Time limit of calls without a forward pass."""
_DIGEST = re.compile("[0-9a-f]{64}")
_METRIC = re.compile("(# (HELP|TYPE) )?vllm:")
_PROGRESS = re.compile("vllm:(prompt_tokens_total|generation_tokens_total|kv_cache_usage_perc)[{ ]")
_EVENT = "data: "
_END = "[DONE]"
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What the decoder raises for bytes that are not what they should be."""
_REFUSED = frozenset({httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY})
"""Faults of a request. Other client errors are those of the server's settings, such as its access control."""
_OVERLOADED = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE})


class _Card(msgspec.Struct, frozen=True):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Card]

    @property
    def base(self) -> _Card:
        """Errors: `EngineUnavailable` if the server names none."""
        found = next((card for card in self.data if card.parent is None), None)
        if found is None:
            raise EngineUnavailable.because("its server has no base model")
        return found


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]
    max_model_len: int


class VllmEngine:
    """Errors of all methods: `EngineUnavailable` where the same call may succeed later, `InvalidInput` where
    the request itself is at fault, or asks for what vLLM does not keep.
    """

    def __init__(self, url: str, adapters: VllmAdapters, parts: AnswerParts) -> None:
        """`parts`: what is made of an answer's log-probabilities, of the base model that the server has."""
        timeout = httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        # An environment's proxy must not see prompts.
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False)
        self._url = url
        self._adapters, self._parts = adapters, parts
        self._base: _Card | None = None
        self._aborts: dict[str, Callable[[], None]] = {}
        """By request id: what ends a running request."""

    async def close(self) -> None:
        """Close the connections, and end the check of constraints, which replicas share. The process that
        verifies adapters ends with this one.
        """
        await self._http.aclose()
        self._parts.constraints.close()

    async def count_tokens(self, request: CountTokens) -> TokenCount:
        check_prompt(request)
        found = await self._tokenize(request)
        return TokenCount("", len(found.tokens), found.max_model_len)

    async def generate(self, request: Generate) -> AsyncGenerator[Chunk, None]:
        """Stream an answer; the last chunk has a `finish_reason`. Closing the iterator early closes the
        connection, by which vLLM aborts the request.
        """
        check_request(request)
        if request.request_id in self._aborts:
            raise InvalidInput(f"request id {request.request_id!r} is in use", "request_id")
        events: asyncio.Queue[Chunk | Exception] = asyncio.Queue()
        reader = AnswerReader(request, self._parts)
        # Built at once: tokens of chunks that follow it in the queue are neither returned nor counted.
        self._aborts[request.request_id] = lambda: events.put_nowait(reader.aborted())
        task = asyncio.create_task(self._read(request, reader, events))
        try:
            is_finished = False
            while not is_finished:
                chunk = await events.get()
                if isinstance(chunk, Exception):
                    raise chunk
                is_finished = chunk.finish_reason is not None
                yield chunk
        finally:
            del self._aborts[request.request_id]
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def abort(self, request_id: str) -> None:
        """End a request. vLLM does not say what it generated since the last chunk, so that is not counted."""
        if request_id in self._aborts:
            self._aborts[request_id]()

    async def state(self) -> EngineState:
        """A vLLM server does not state the format of its weights."""
        models = _decode(await self._call("GET", "/v1/models"), _Models)
        loaded = (card.id for card in models.data if card.parent and _DIGEST.fullmatch(card.id))
        return EngineState(frozenset(Hash32(f"0x{digest}") for digest in loaded), models.base.max_model_len)

    async def metrics(self, deadline_seconds: float) -> str:
        """The server's metrics with the prefix `vllm:`; those of its Python process are left out."""
        content = await self._call("GET", "/metrics", seconds=deadline_seconds)
        text = checked(content.decode(errors="replace"), f"the server at {self._url}")
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if _METRIC.match(line))

    async def progress(self) -> object:
        """Its counts of tokens and the share of blocks in use, which its engine process reports after each
        step: its API process answers without it. None without them (`--disable-log-stats`).
        """
        text = await self.metrics(CALL_SECONDS)
        return [line for line in text.splitlines() if _PROGRESS.match(line)] or None

    async def _read(
        self, request: Generate, reader: AnswerReader, events: asyncio.Queue[Chunk | Exception]
    ) -> None:
        try:
            async for part in self._parts_of(request, reader):
                for chunk in reader.push(part):
                    events.put_nowait(chunk)
            for chunk in reader.end():
                events.put_nowait(chunk)
        except Exception as error:  # noqa: BLE001 - raised where the answer is read
            events.put_nowait(error)

    async def _parts_of(self, request: Generate, reader: AnswerReader) -> AsyncIterator[Part]:
        await self._prepare(request)
        base = await self._served_base()
        adapter = request.adapter_or_blend
        if adapter is not None:
            await self._adapters.prepare(adapter, base.root or base.id, request.payer)
        prompt = (await self._tokenize(request)).tokens
        reader.prompt_tokens = len(prompt)
        body = completion_body(request, base.id if adapter is None else adapter.digest, prompt)
        async with self._stream(body) as response:
            splitter = LineSplitter()
            async for piece in response.aiter_text():
                for line in splitter.push(piece):
                    if line.startswith(_EVENT) and line != _EVENT + _END:
                        yield _part(line.removeprefix(_EVENT))

    @contextlib.asynccontextmanager
    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        # No limit between two tokens: a long queue is no fault, and the answer has a deadline of its own.
        timeout = httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS, read=None)
        with self._transport_errors():
            async with self._http.stream("POST", "/v1/completions", json=body, timeout=timeout) as response:
                if not response.is_success:
                    raise self._refusal(response.status_code, await response.aread())
                yield response

    async def _prepare(self, request: Generate) -> None:
        sampling, constraints = request.sampling, self._parts.constraints
        if sampling.logprobs is not None:
            await constraints.read_vocabulary()
        if sampling.constraint is not None:
            await constraints.check(sampling.constraint, request.payer)

    async def _tokenize(self, request: CountTokens | Generate) -> _Tokens:
        base = await self._served_base()
        content = await self._call("POST", "/tokenize", prompt_body(request, base.id))
        return _decode(content, _Tokens)

    async def _served_base(self) -> _Card:
        if self._base is None:
            self._base = _decode(await self._call("GET", "/v1/models"), _Models).base
        return self._base

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float = CALL_SECONDS
    ) -> bytes:
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        with self._transport_errors():
            response = await self._http.request(method, path, json=body, timeout=timeout)
        if not response.is_success:
            raise self._refusal(response.status_code, response.content)
        return response.content

    @contextlib.contextmanager
    def _transport_errors(self) -> Any:
        try:
            yield
        except httpx.RequestError as error:
            self._base = None  # the server may restart with another model
            is_unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            kind = EngineUnreachable if is_unreachable else EngineUnavailable
            raise kind.because("its server does not answer") from error

    def _refusal(self, status: int, content: bytes) -> DomainError:
        """Messages reach the API's clients, so addresses and folders are in the log alone."""
        message = _message(content)
        if status == httpx.codes.NOT_FOUND:
            self._base = None
            log.error(
                "%s does not find a model: %s Its VLLM_LORA_RESOLVER_CACHE_DIR must be the folder of "
                "LORALEDGER_VLLM_ADAPTERS, or with several base models that of the base in it (docs/vllm.md)",
                self._url,
                message,
            )
            return EngineUnavailable.because("its server does not find the adapter")
        if status in _OVERLOADED:
            return Overloaded(f"vLLM is overloaded: {message}", details={"code": "overloaded"})
        if status in _REFUSED:
            return InvalidInput(f"vLLM refuses the request: {message}", details={"code": "invalid_request"})
        log.warning("%s answers with status %d: %s", self._url, status, message)
        return EngineUnavailable.because(f"its server answers with status {status}")


def answers(url: str, seconds: float) -> bool:
    """Whether the server answers within `seconds`, and its engine lives."""
    try:
        return httpx.get(f"{url}/health", timeout=seconds, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except _MALFORMED as error:
        raise EngineUnavailable.because(f"what its server answers cannot be decoded: {error}") from error


def _part(event: str) -> Part:
    try:
        part = msgspec.json.decode(event, type=Part)
    except _MALFORMED as error:
        raise failure(f"sent an event that cannot be decoded: {error}") from error
    if part.error is not None:
        raise EngineUnavailable.because(f"vLLM ended the answer: {part.error.message}")
    return part


def _message(content: bytes) -> str:
    """What vLLM says about a refused request."""
    try:
        return str(msgspec.json.decode(content, type=dict[str, Any])["error"]["message"])[:400]
    except (*_MALFORMED, KeyError, TypeError):
        return content[:200].decode(errors="replace")
