"""An answer in OpenAI's shape, whole or as server-sent events, with what it cost and its receipt."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from backend.api.errors import domain_error_body, internal_error_body
from backend.domain.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.types import Receive, Scope, Send

    from backend.services.answer import Answer, Final

FINISH_REASONS = {"abort": "stop"}
"""OpenAI has no word for an answer that was cut off."""
DONE = "data: [DONE]\n\n"


class Completion:
    """One answer under the name by which its model was resolved."""

    def __init__(self, answer: Answer, model: str, created: int) -> None:
        self.answer = answer
        self._model = model
        self._created = created

    async def whole(self) -> dict[str, Any]:
        try:
            text = "".join([piece async for piece in self.answer.texts()])
        except asyncio.CancelledError:
            self.answer.hang_up()
            raise
        final = self.answer.final
        message = {"role": "assistant", "content": text, "refusal": None}
        reason = FINISH_REASONS.get(final.finish_reason, final.finish_reason)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return self._object("chat.completion", [choice]) | bill(final)

    async def events(self, *, include_usage: bool) -> AsyncIterator[str]:
        """The bill is in the last chunk before `[DONE]`; `include_usage` gives it one without choices."""
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            async for piece in self.answer.texts():
                yield self._chunk({"content": piece})
            final = self.answer.final
            reason = FINISH_REASONS.get(final.finish_reason, final.finish_reason)
            if include_usage:
                yield self._chunk({}, reason)
                yield event(self._object("chat.completion.chunk", []) | bill(final))
            else:
                yield self._chunk({}, reason, bill(final))
            yield DONE
        except DomainError as error:
            yield event(domain_error_body(error))
        except Exception:  # the headers have left: all that can still be said goes into the stream
            yield event(internal_error_body())
            raise

    def _chunk(
        self, delta: Mapping[str, str], reason: str | None = None, extra: Mapping[str, Any] | None = None
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event(self._object("chat.completion.chunk", [choice]) | dict(extra or {}))

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        identity = {"id": self.answer.id, "object": kind, "created": self._created, "model": self._model}
        return identity | {"choices": choices}


class CompletionStream(StreamingResponse):
    """Tells the answer when the reader has left, however the server notices."""

    def __init__(self, completion: Completion, *, include_usage: bool) -> None:
        super().__init__(
            completion.events(include_usage=include_usage),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._answer = completion.answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.hang_up()


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
