"""Formats an answer as OpenAI's API does, complete or as server-sent events, with its charge and receipt."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import StreamingResponse

from backend.api.errors import domain_error_body, internal_error_body
from backend.domain.errors import DomainError
from backend.domain.money import AMOUNT, DOLLAR
from backend.domain.serving import NewCharge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    from backend.api.choices import ChoiceFormat
    from backend.domain.serving import NewReceipt
    from backend.services.answers.answer import Answer, Final
    from inference.protocol import Chunk, TokenLogprobs

FINISH_REASONS = {"abort": "stop"}
"""OpenAI has no finish reason for an aborted answer."""
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """Options of a request that concern the response format."""

    format: ChoiceFormat
    num_choices: int = 1
    has_logprobs: bool = False
    includes_usage: bool = False
    service_tier: str | None = None


class Rendering(Protocol):
    """An answer in the format of an endpoint."""

    answer: Answer
    is_complete: bool
    """Whether the stream ended without an error."""

    async def complete(self) -> dict[str, Any]: ...

    def events(self) -> AsyncIterator[str]: ...


class Completion:
    """Response of one answer. `model`: the name that the model was resolved to."""

    def __init__(self, answer: Answer, model: str, options: ResponseOptions) -> None:
        self.answer = answer
        self.is_complete = False
        """Whether the stream ended without an error."""
        self._model = model
        self._options = options
        self._format = options.format
        self._created = int(time.time())

    async def complete(self) -> dict[str, Any]:
        received: list[list[Chunk]] = [[] for _ in range(self._options.num_choices)]
        try:
            async for index, chunk in self.answer.chunks():
                received[index].append(chunk)
        except asyncio.CancelledError:
            self.answer.hang_up()
            raise
        final = self.answer.final
        choices = [
            self._format.complete(index, chunks, self._logprobs(chunks), reason)
            for index, (chunks, reason) in enumerate(zip(received, _reasons(final), strict=True))
        ]
        return self._object(self._format.complete_object, choices) | bill(final)

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events. The last chunk before `[DONE]`, or before the error of an answer that is
        charged up to there, has the bill; with `includes_usage` it has no choices.
        """
        try:
            for index in range(self._options.num_choices):
                if (opening := self._format.opening(index)) is not None:
                    yield self._chunk([opening])
            async for index, chunk in self.answer.chunks():
                for delta in self._format.deltas(index, chunk, self._logprobs([chunk])):
                    yield self._chunk([delta])
            final = self.answer.final
            *closings, last = (self._format.closing(*indexed) for indexed in enumerate(_reasons(final)))
            for closing in closings:
                yield self._chunk([closing])
            if self._options.includes_usage:
                yield self._chunk([last])
                yield self._chunk([], bill(final))
            else:
                yield self._chunk([last], bill(final))
            self.is_complete = True
            yield DONE if final.error is None else event(domain_error_body(final.error))
        except DomainError as error:
            yield event(domain_error_body(error))
        except Exception:  # the status is already sent: the error goes into the stream
            yield event(internal_error_body())
            raise

    def _logprobs(self, chunks: Sequence[Chunk]) -> list[TokenLogprobs] | None:
        if not self._options.has_logprobs:
            return None
        return [place for chunk in chunks for place in chunk.logprobs or ()]

    def _chunk(self, choices: list[dict[str, Any]], extra: Mapping[str, Any] | None = None) -> str:
        return event(self._object(self._format.chunk_object, choices) | dict(extra or {}))

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        body = {"id": self.answer.id, "object": kind, "created": self._created, "model": self._model}
        tier = self._options.service_tier
        return body | ({"service_tier": tier} if tier else {}) | {"choices": choices}


def _reasons(final: Final) -> list[str]:
    return [FINISH_REASONS.get(reason, reason) for reason in final.finish_reasons]


class CompletionStream(StreamingResponse):
    """Notifies the answer when the client disconnects."""

    def __init__(self, completion: Rendering) -> None:
        super().__init__(
            completion.events(),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self.completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.completion.answer.hang_up()


def event(data: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def bill(final: Final) -> dict[str, Any]:
    """OpenAI's `usage`, and `loraledger`: charge, salt, and the receipt with shares by position, or the id of
    the charge that it follows.
    """
    charged, interval = final.charged, final.charged.interval
    prompt, completion = interval.prompt_tokens, interval.completion_tokens
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": final.cached_prompt_tokens},
            "cost": interval.charge / DOLLAR,
        },
        "loraledger": {
            "channel_id": interval.channel_id,
            "charge": AMOUNT.render(interval.charge),
            "cumulative": AMOUNT.render(interval.cumulative),
            "salt": charged.salt,
        }
        | (_pending(charged) if isinstance(charged, NewCharge) else _signed(charged))
        | ({"texts": list(final.texts)} if final.texts else {}),
    }


def _pending(charged: NewCharge) -> dict[str, Any]:
    return {"charge_id": charged.id, "receipt_by": charged.signed.charge.receipt_by}


def _signed(receipt: NewReceipt) -> dict[str, Any]:
    attribution = [
        {
            "version_id": part.version_id,
            "weight_ppm": part.weight_ppm,
            "shares": [{"position": share.position, "ppm": share.ppm} for share in part.shares],
        }
        for part in receipt.signed.slices
    ]
    return {"receipt_id": receipt.id, "method": receipt.signed.method, "attribution": attribution}
