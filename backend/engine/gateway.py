"""The port `Engine` on top of `EngineClient`."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.ids import Hash32
from backend.ports.attribution import Probe
from backend.ports.engine import InvalidSchema, Piece, PromptSize, TokenLogprob, TokenLogprobs
from inference import protocol
from inference.protocol import AdapterBlend, AdapterRef, BlendPart, JsonSchema, Message
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from backend.engine.client import EngineClient
    from backend.ports.engine import AdapterFolder, Chat, Prompt, Sampling
    from inference.protocol import Chunk, ProbeStates


class EngineGateway:
    """Implements `backend.ports.engine.Engine`."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def count_tokens(self, prompt: Prompt) -> PromptSize:
        count = await self._client.count_tokens(_messages(prompt), _text(prompt))
        return PromptSize(count.num_tokens, count.max_context)

    async def answer(self, chat: Chat) -> AsyncGenerator[Piece, None]:
        chunks = self._client.generate(
            messages=_messages(chat.prompt),
            prompt=_text(chat.prompt),
            adapter=_adapter(chat.adapter),
            blend=_blend(chat.blend),
            sampling=_sampling(chat.sampling),
            probe=chat.probe,
            probe_error=chat.probe_error,
            request_id=chat.id,
            payer=chat.payer,
            priority=chat.priority,
            traceparent=traces.parent(),
        )
        # Closed here and now: a generator left to the collector would abort its request who knows when.
        async with aclosing(chunks) as opened:
            try:
                async for chunk in opened:
                    yield _piece(chunk)
            except InvalidInput as error:
                if error.details.get("code") != "invalid_schema":
                    raise
                raise InvalidSchema(error.message, "response_format") from error

    async def abort(self, chat_id: str) -> None:
        await self._client.abort(chat_id)

    async def active_adapters(self) -> Sequence[Hash32]:
        status = await self._client.status()
        return [Hash32(f"0x{digest}") for digest in status.active_adapters]

    async def metrics(self, deadline_seconds: float) -> str:
        return await self._client.metrics(deadline_seconds)


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    turns = () if isinstance(prompt, str) else prompt
    return tuple(Message(turn.role, turn.content) for turn in turns)


def _text(prompt: Prompt) -> str | None:
    return prompt if isinstance(prompt, str) else None


def _adapter(folder: AdapterFolder | None) -> AdapterRef | None:
    return None if folder is None else AdapterRef(folder.digest.removeprefix("0x"), str(folder.path))


def _blend(weighted: Sequence[tuple[AdapterFolder, float]]) -> AdapterBlend | None:
    parts = [BlendPart(ref, weight) for folder, weight in weighted if (ref := _adapter(folder))]
    return AdapterBlend(tuple(parts)) if parts else None


def _sampling(sampling: Sampling) -> protocol.Sampling:
    fields = asdict(sampling)  # the port uses the engine's names
    schema = fields.pop("json_schema")
    return protocol.Sampling(**fields, constraint=None if schema is None else JsonSchema(schema))


def _logprob(found: protocol.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(found.token, found.logprob)


def _probe(states: ProbeStates | None) -> Probe | None:
    return None if states is None or states.answer is None else Probe(states.answer, states.error)


def _piece(chunk: Chunk) -> Piece:
    return Piece(
        text=chunk.text,
        prompt_tokens=chunk.prompt_tokens,
        completion_tokens=chunk.completion_tokens,
        finish_reason=chunk.finish_reason,
        probe=_probe(chunk.probe),
        cached_prompt_tokens=chunk.cached_prompt_tokens,
        logprobs=tuple(
            TokenLogprobs(_logprob(place.chosen), tuple(map(_logprob, place.top)))
            for place in chunk.logprobs or ()
        ),
    )
