"""Formats an answer as OpenAI's Responses API does, complete or as its events, with charge and receipt."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

from backend.api.choices import content_of
from backend.api.completions import bill, event
from backend.api.errors import domain_error_body, internal_error_body
from backend.domain.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from backend.services.answers.answer import Answer, Final
    from inference.protocol import CallDelta, Chunk

Event = dict[str, Any]

INCOMPLETE = {"length": "max_output_tokens", "abort": "deadline"}
"""`incomplete_details.reason` by finish reason."""


class ResponseRendering:
    """Response of one answer. `echo`: the request's parameters as the response repeats them."""

    def __init__(self, answer: Answer, model: str, echo: Mapping[str, Any]) -> None:
        self.answer = answer
        self.is_complete = False
        """Whether the stream ended without an error."""
        self._model = model
        self._echo = echo
        self._created_at = int(time.time())
        self._output = _Output()
        self._num_events = 0

    async def complete(self) -> dict[str, Any]:
        try:
            async for _, chunk in self.answer.chunks():
                list(self._output.add(chunk))
        except asyncio.CancelledError:
            self.answer.hang_up()
            raise
        list(self._output.close(is_whole=_reason(self.answer.final) is None))
        return self._response(self.answer.final)

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events. The last one has the response with the bill; the error of an answer that is
        charged up to there follows it.
        """
        try:
            for name in ("response.created", "response.in_progress"):
                yield self._event({"type": name, "response": self._response(None)})
            async for _, chunk in self.answer.chunks():
                for each in self._output.add(chunk):
                    yield self._event(each)
            final = self.answer.final
            for each in self._output.close(is_whole=_reason(final) is None):
                yield self._event(each)
            response = self._response(final)
            yield self._event({"type": f"response.{response['status']}", "response": response})
            self.is_complete = True
            if final.error is not None:
                yield self._error(domain_error_body(final.error))
        except DomainError as error:
            yield self._error(domain_error_body(error))
        except Exception:  # the status is already sent: the error goes into the stream
            yield self._error(internal_error_body())
            raise

    def _event(self, data: Event) -> str:
        numbered = {"type": data["type"], "sequence_number": self._num_events} | data
        self._num_events += 1
        return f"event: {data['type']}\n{event(numbered)}"

    def _error(self, body: dict[str, Any]) -> str:
        """OpenAI's event, and `error` as in other streams, by which the stock client raises it."""
        fields = {name: body["error"][name] for name in ("code", "message", "param")}
        return self._event({"type": "error"} | fields | body)

    def _response(self, final: Final | None) -> dict[str, Any]:
        reason = None if final is None else _reason(final)
        error = None if final is None else final.error
        status = "in_progress" if final is None else "completed" if reason is None else "incomplete"
        if error is not None:
            reason, status = None, "failed"
        return {
            "id": self.answer.id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "error": None if error is None else {"code": error.code, "message": error.message},
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self._model,
            "output": self._output.items,
            **self._echo,
            **({"usage": None} if final is None else _bill(final)),
        }


def _reason(final: Final) -> str | None:
    """Why the answer is incomplete; None if it is not."""
    return INCOMPLETE.get(final.finish_reasons[0])


def _bill(final: Final) -> dict[str, Any]:
    billed = bill(final)
    usage = billed["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    billed["usage"] = {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
        "cost": usage["cost"],
    }
    return billed


class _Output:
    """The items of an answer, as they grow: a message if it has text, then its calls."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._is_open = False

    def add(self, chunk: Chunk) -> Iterator[Event]:
        if content := content_of(chunk):
            if not self.items:
                yield from self._open_message()
            self.items[-1]["content"][0]["text"] += content
            yield self._at("response.output_text.delta", content_index=0, delta=content, logprobs=[])
        for call in chunk.calls:
            yield from self._add_call(call)

    def close(self, *, is_whole: bool) -> Iterator[Event]:
        """End the last item; an answer without text and calls gets an empty message."""
        if not self.items:
            yield from self._open_message()
        yield from self._close_item("completed" if is_whole else "incomplete")

    def _add_call(self, call: CallDelta) -> Iterator[Event]:
        if call.name is not None:
            yield from self._close_item("completed")
            yield from self._open(
                {
                    "id": f"fc_{secrets.token_hex(16)}",
                    "type": "function_call",
                    "status": "in_progress",
                    "call_id": f"call_{secrets.token_hex(12)}",
                    "name": call.name,
                    "arguments": "",
                }
            )
        if call.arguments:
            self.items[-1]["arguments"] += call.arguments
            yield self._at("response.function_call_arguments.delta", delta=call.arguments)

    def _open_message(self) -> Iterator[Event]:
        message = {"id": f"msg_{secrets.token_hex(16)}", "type": "message", "status": "in_progress"}
        yield from self._open(message | {"role": "assistant", "content": []})
        part = {"type": "output_text", "text": "", "annotations": []}
        self.items[-1]["content"] = [part]
        yield self._at("response.content_part.added", content_index=0, part=dict(part))

    def _open(self, item: dict[str, Any]) -> Iterator[Event]:
        self.items.append(item)
        self._is_open = True
        yield {
            "type": "response.output_item.added",
            "output_index": len(self.items) - 1,
            "item": dict(item),
        }

    def _close_item(self, status: str) -> Iterator[Event]:
        if not self._is_open:
            return
        item = self.items[-1]
        item["status"], self._is_open = status, False
        if item["type"] == "message":
            (part,) = item["content"]
            yield self._at("response.output_text.done", content_index=0, text=part["text"], logprobs=[])
            yield self._at("response.content_part.done", content_index=0, part=part)
        else:
            arguments = {"name": item["name"], "arguments": item["arguments"]}
            yield self._at("response.function_call_arguments.done", **arguments)
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": item}

    def _at(self, kind: str, /, **fields: Any) -> Event:
        """An event of the last item."""
        return {"type": kind, "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1} | fields
