"""Choices in OpenAI's shapes, whole and in chunks: of chats here, each with its log-probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.ports.engine import TokenLogprob, TokenLogprobs


class Shape(Protocol):
    """How one kind of endpoint shows the choices of an answer. `logprobs`: None where none were asked for."""

    prefix: str
    """Of the answers' ids."""
    whole_object: str
    chunk_object: str

    def whole(
        self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]: ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice in a stream before its first text."""
        ...

    def piece(self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None) -> dict[str, Any]: ...

    def closing(self, index: int, reason: str) -> dict[str, Any]: ...


class ChatShape:
    """Of `/v1/chat/completions`."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(
        self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message} | _ending(chat_logprobs(logprobs), reason)

    def opening(self, index: int) -> dict[str, Any] | None:
        return self._delta(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None) -> dict[str, Any]:
        return self._delta(index, {"content": text}, logprobs)

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        return self._delta(index, {}, reason=reason)

    def _delta(
        self,
        index: int,
        delta: dict[str, str],
        logprobs: Sequence[TokenLogprobs] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta} | _ending(chat_logprobs(logprobs), reason)


def chat_logprobs(places: Sequence[TokenLogprobs] | None) -> dict[str, Any] | None:
    if places is None:
        return None
    content = [
        _token(place.chosen) | {"top_logprobs": [_token(token) for token in place.top]} for place in places
    ]
    return {"content": content, "refusal": None}


def token_text(token: bytes) -> str:
    """A token that is no UTF-8 alone is spelled out, so that no two look the same."""
    return token.decode(errors="backslashreplace")


def _token(found: TokenLogprob) -> dict[str, Any]:
    return {"token": token_text(found.token), "logprob": found.logprob, "bytes": list(found.token)}


def _ending(logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"logprobs": logprobs, "finish_reason": reason}
