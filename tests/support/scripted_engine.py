"""An engine that returns given words, without a model."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

from backend.domain.errors import InvalidInput
from backend.domain.ids import Hash32
from backend.ports.engine import EngineState, EngineUnavailable, InvalidSchema, InvalidToolSchema
from inference.protocol import (
    Chunk,
    CountTokens,
    FinishReason,
    Generate,
    JsonSchema,
    Message,
    ProbeStates,
    TokenCount,
    TokenLogprob,
    TokenLogprobs,
)
from inference.tool_calls import HERMES, CallParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


def scripted_logprobs(word: str, num_top: int | None) -> list[TokenLogprobs] | None:
    """Each word is a token; the second likeliest is an incomplete UTF-8 sequence."""
    if num_top is None:
        return None
    ranked = [TokenLogprob(1, word.encode(), -0.5), TokenLogprob(2, b"\xe2\x82", -1.5)]
    return [TokenLogprobs(ranked[0], ranked[:num_top])]


def parsed(chunk: Chunk, parser: CallParser) -> Chunk:
    """What the engine makes of a chunk of an answer with tools."""
    content, calls = parser.push(chunk.text)
    if chunk.finish_reason is None:
        return replace(chunk, content=content, calls=calls)
    reason = "tool_calls" if parser.is_complete and chunk.finish_reason == "stop" else chunk.finish_reason
    return replace(chunk, content=content + parser.flush(), calls=calls, finish_reason=reason)


REFUSED_PARAMETERS = '{"type": "object", "not": {}}'


class ScriptedEngine:
    """Generates `words`, one token each. It can wait, fail during an answer, or be unavailable."""

    def __init__(self) -> None:
        self.words: Sequence[str] = ("Hello", " there", ", world", ".")
        self.max_context = 128
        self.cached_prompt_tokens = 0
        self.token_ids = [1]
        """Of each word."""
        self.weight_format: str | None = "bf16"
        self.counted: list[Sequence[Message] | str] = []
        self.breaks_after: int | None = None
        self.gives_up_after: int | None = None
        """Words after which the constraint is too complex to follow."""
        self.is_gone = False
        self.waits_after: int | None = None
        self.waits_after_of: dict[str, int] = {}
        """Overrides `waits_after` by request id."""
        self.probe = ProbeStates([], [1.0, 0.0, 0.0], 0, 0)
        self.requests: list[Generate] = []
        self.refused_schema = JsonSchema('{"not": {}}')
        self.asked = asyncio.Event()
        self.is_waiting = threading.Event()
        """Set while a generation waits, for tests on other threads."""
        self._waking: dict[str, asyncio.Event] = {}
        self._aborted: set[str] = set()

    async def count_tokens(self, request: CountTokens) -> TokenCount:
        if self.is_gone:
            raise EngineUnavailable("The engine is not running; try again.")
        self.counted.append(request.messages if request.prompt is None else request.prompt)
        contents = [message.content for message in request.messages]
        texts = contents if request.prompt is None else [request.prompt]
        return TokenCount("", sum(len(text.split()) for text in texts), self.max_context)

    async def metrics(self, deadline_seconds: float) -> str:
        if self.is_gone:
            raise EngineUnavailable("The engine is not running; try again.")
        return "loraledger_scripted_engine 1.0\n"

    async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        self.asked.set()
        functions = () if request.tools is None else request.tools.functions
        if request.sampling.constraint == self.refused_schema:
            raise InvalidSchema("schema refused at #: as the script has it", "response_format")
        if any(function.parameters == REFUSED_PARAMETERS for function in functions):
            raise InvalidToolSchema("schema refused at f#: as the script has it", "tools")
        request_id = request.request_id
        waking = self._waking.setdefault(request_id, asyncio.Event())
        prompt = (await self.count_tokens(CountTokens("", request.messages, request.prompt))).num_tokens
        words = self.words[: request.sampling.max_tokens]
        parser = None if request.tools is None else CallParser(HERMES)
        for number, word in enumerate(words, start=1):
            if number - 1 == self.breaks_after:
                raise EngineUnavailable("The engine stopped; nothing was charged, try again.")
            if number - 1 == self.gives_up_after:
                raise InvalidInput("the constraint is too complex", details={"code": "grammar_too_complex"})
            if number - 1 == self.waits_after_of.get(request_id, self.waits_after):
                self._loop = asyncio.get_running_loop()
                self.is_waiting.set()
                await waking.wait()
            if request_id in self._aborted:
                probe = self.probe if request.probe else None
                yield Chunk(request_id, "", [], prompt, number - 1, "abort", probe)
                return
            is_last = number == len(words)
            reason: FinishReason | None = (
                ("stop" if len(words) == len(self.words) else "length") if is_last else None
            )
            probe = self.probe if is_last and request.probe else None
            logprobs = scripted_logprobs(word, request.sampling.logprobs)
            cached = self.cached_prompt_tokens
            chunk = Chunk(
                request_id, word, list(self.token_ids), prompt, number, reason, probe, cached, logprobs
            )
            yield chunk if parser is None else parsed(chunk, parser)

    async def abort(self, request_id: str) -> None:
        self._aborted.add(request_id)
        self._waking.setdefault(request_id, asyncio.Event()).set()

    async def state(self) -> EngineState:
        if self.is_gone:
            raise EngineUnavailable("The engine is not running; try again.")
        active = frozenset(Hash32(f"0x{asked.adapter.digest}") for asked in self.requests if asked.adapter)
        return EngineState(active, self.max_context, self.weight_format)

    def wake(self) -> None:
        """Resume all waiting generations. Thread-safe."""
        for waking in self._waking.values():
            self._loop.call_soon_threadsafe(waking.set)

    @property
    def aborted(self) -> set[str]:
        return self._aborted
