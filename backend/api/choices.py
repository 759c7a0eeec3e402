"""Formats the choices of an answer as OpenAI's API does: chat and text, complete and streamed."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.protocol import CallDelta, Chunk, TokenLogprob, TokenLogprobs


class ChoiceFormat(Protocol):
    """Format of the choices of one endpoint. `logprobs` is None if the request does not ask for them."""

    complete_object: str
    chunk_object: str

    def complete(
        self, index: int, chunks: Sequence[Chunk], logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]: ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """First chunk of a streamed choice, before any text."""
        ...

    def deltas(
        self, index: int, chunk: Chunk, logprobs: Sequence[TokenLogprobs] | None
    ) -> list[dict[str, Any]]:
        """The chunk as chunks of a stream."""
        ...

    def closing(self, index: int, reason: str) -> dict[str, Any]: ...


class ChatFormat:
    """Choices of `/v1/chat/completions`. One instance for each answer: it keeps the ids of tool calls."""

    complete_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, *, has_tools: bool = False) -> None:
        self._has_tools = has_tools
        self._call_ids: dict[tuple[int, int], str] = {}

    def complete(
        self, index: int, chunks: Sequence[Chunk], logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]:
        calls = [
            {"id": self._call_id(index, number), "type": "function", "function": call}
            for number, call in enumerate(joined_calls(chunks))
        ]
        content: str | None = "".join(map(content_of, chunks))
        content = content or (None if calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        message |= {"tool_calls": calls} if calls else {}
        return {"index": index, "message": message} | _ending(chat_logprobs(logprobs), reason)

    def opening(self, index: int) -> dict[str, Any] | None:
        return self._chunk(index, {"role": "assistant", "content": None if self._has_tools else ""})

    def deltas(
        self, index: int, chunk: Chunk, logprobs: Sequence[TokenLogprobs] | None
    ) -> list[dict[str, Any]]:
        """One for the text, and one for each piece of a call: LlamaIndex reads one piece of a chunk."""
        content = content_of(chunk)
        text = [self._chunk(index, {"content": content}, logprobs)] if content or logprobs else []
        calls = [{"tool_calls": [self._call_delta(index, call)]} for call in chunk.calls]
        return [*text, *(self._chunk(index, delta) for delta in calls)]

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        return self._chunk(index, {}, reason=reason)

    def _call_delta(self, index: int, call: CallDelta) -> dict[str, Any]:
        if call.name is None:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        named = {"name": call.name, "arguments": call.arguments}
        call_id = self._call_id(index, call.index)
        return {"index": call.index, "id": call_id, "type": "function", "function": named}

    def _call_id(self, index: int, number: int) -> str:
        return self._call_ids.setdefault((index, number), f"call_{secrets.token_hex(12)}")

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: Sequence[TokenLogprobs] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta} | _ending(chat_logprobs(logprobs), reason)


class TextFormat:
    """Choices of `/v1/completions`. One instance for each answer: text offsets continue across chunks."""

    complete_object = chunk_object = "text_completion"

    def __init__(self) -> None:
        self._offsets: Counter[int] = Counter()

    def complete(
        self, index: int, chunks: Sequence[Chunk], logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]:
        text = "".join(chunk.text for chunk in chunks)
        return {"index": index, "text": text} | _ending(self._logprobs(index, logprobs), reason)

    def opening(self, index: int) -> dict[str, Any] | None:  # noqa: ARG002 - text streams have none
        return None

    def deltas(
        self, index: int, chunk: Chunk, logprobs: Sequence[TokenLogprobs] | None
    ) -> list[dict[str, Any]]:
        return [{"index": index, "text": chunk.text} | _ending(self._logprobs(index, logprobs), None)]

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        return {"index": index, "text": ""} | _ending(None, reason)

    def _logprobs(self, index: int, places: Sequence[TokenLogprobs] | None) -> dict[str, Any] | None:
        if places is None:
            return None
        tokens = [token_text(place.chosen.token) for place in places]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [place.chosen.logprob for place in places],
            "top_logprobs": [
                {token_text(token.token): token.logprob for token in (*place.top, place.chosen)}
                for place in places
            ],
            "text_offset": offsets,
        }


def content_of(chunk: Chunk) -> str:
    """The chunk's text without tool calls."""
    return chunk.text if chunk.content is None else chunk.content


def joined_calls(chunks: Sequence[Chunk]) -> list[dict[str, str]]:
    """Name and arguments of each call, from the pieces of a choice's chunks."""
    calls: list[dict[str, str]] = []
    for piece in (call for chunk in chunks for call in chunk.calls):
        if piece.name is not None:
            calls.append({"name": piece.name, "arguments": ""})
        calls[-1]["arguments"] += piece.arguments
    return calls


def chat_logprobs(places: Sequence[TokenLogprobs] | None) -> dict[str, Any] | None:
    if places is None:
        return None
    content = [
        _token(place.chosen) | {"top_logprobs": [_token(token) for token in place.top]} for place in places
    ]
    return {"content": content, "refusal": None}


def token_text(token: bytes) -> str:
    r"""Decode a token; bytes that are not UTF-8 become `\x..` escapes, so that texts stay distinct."""
    return token.decode(errors="backslashreplace")


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token_text(token.token), "logprob": token.logprob, "bytes": list(token.token)}


def _ending(logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"logprobs": logprobs, "finish_reason": reason}
