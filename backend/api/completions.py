"""An answer in OpenAI's shape, whole or as server-sent events, with what it cost and its receipt."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from backend.api.errors import domain_error_body, internal_error_body
from backend.domain.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    from backend.api.choices import Shape
    from backend.services.answers.answer import Answer, Final
    from inference.protocol import Chunk, TokenLogprobs

FINISH_REASONS = {"abort": "stop"}
"""OpenAI has no word for an answer that was cut off."""
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the request says about how it is answered."""

    shape: Shape
    num_choices: int = 1
    has_logprobs: bool = False
    is_stream: bool = False
    includes_usage: bool = False
    service_tier: str | None = None


class Completion:
    """One answer on its way to its reader, under the name by which its model was resolved."""

    def __init__(self, answer: Answer, model: str, wanted: Wanted) -> None:
        self.answer = answer
        self.is_whole = False
        """Whether the stream has come to its end without an error."""
        self._model = model
        self._wanted = wanted
        self._shape = wanted.shape
        self._created = int(time.time())

    async def whole(self) -> dict[str, Any]:
        found: list[list[Chunk]] = [[] for _ in range(self._wanted.num_choices)]
        try:
            async for index, chunk in self.answer.chunks():
                found[index].append(chunk)
        except asyncio.CancelledError:
            self.answer.hang_up()
            raise
        final = self.answer.final
        choices = [
            self._shape.whole(index, "".join(chunk.text for chunk in chunks), self._logprobs(chunks), reason)
            for index, (chunks, reason) in enumerate(zip(found, _reasons(final), strict=True))
        ]
        return self._object(self._shape.whole_object, choices) | bill(final)

    async def events(self) -> AsyncIterator[str]:
        """The bill is in the last chunk before `[DONE]`; `includes_usage` gives it one without choices."""
        try:
            for index in range(self._wanted.num_choices):
                if (opening := self._shape.opening(index)) is not None:
                    yield self._chunk([opening])
            async for index, chunk in self.answer.chunks():
                yield self._chunk([self._shape.piece(index, chunk.text, self._logprobs([chunk]))])
            final = self.answer.final
            *closings, last = (self._shape.closing(*ended) for ended in enumerate(_reasons(final)))
            for closing in closings:
                yield self._chunk([closing])
            if self._wanted.includes_usage:
                yield self._chunk([last])
                yield self._chunk([], bill(final))
            else:
                yield self._chunk([last], bill(final))
            self.is_whole = True
            yield DONE
        except DomainError as error:
            yield event(domain_error_body(error))
        except Exception:  # the headers have left: all that can still be said goes into the stream
            yield event(internal_error_body())
            raise

    def _logprobs(self, chunks: Sequence[Chunk]) -> list[TokenLogprobs] | None:
        if not self._wanted.has_logprobs:
            return None
        return [place for chunk in chunks for place in chunk.logprobs or ()]

    def _chunk(self, choices: list[dict[str, Any]], extra: Mapping[str, Any] | None = None) -> str:
        return event(self._object(self._shape.chunk_object, choices) | dict(extra or {}))

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        found = {"id": self.answer.id, "object": kind, "created": self._created, "model": self._model}
        tier = self._wanted.service_tier
        return found | ({"service_tier": tier} if tier else {}) | {"choices": choices}


def _reasons(final: Final) -> list[str]:
    return [FINISH_REASONS.get(reason, reason) for reason in final.finish_reasons]


class CompletionStream(StreamingResponse):
    """Tells the answer when the reader has left, however the server notices."""

    def __init__(self, completion: Completion) -> None:
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
    """Usage as OpenAI has it, and ours: receipt, charge (micro-units, decimal), salt, shares by position."""
    stored = final.receipt
    receipt = stored.signed.receipt
    prompt, completion = receipt.prompt_tokens, receipt.completion_tokens
    attribution = [
        {
            "version_id": part.version_id,
            "weight_ppm": part.weight_ppm,
            "shares": [{"position": share.position, "ppm": share.ppm} for share in part.shares],
        }
        for part in stored.signed.slices
    ]
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": final.cached_prompt_tokens},
        },
        "loraledger": {
            "receipt_id": stored.id,
            "channel_id": receipt.channel_id,
            "charge": str(receipt.charge),
            "cumulative": str(receipt.cumulative),
            "salt": stored.salt,
            "method": stored.signed.method,
            "attribution": attribution,
        },
    }
