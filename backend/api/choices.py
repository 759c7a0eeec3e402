"""Choices in OpenAI's shapes, of chats and of texts, whole and in chunks, with their log-probabilities."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.protocol import TokenLogprob, TokenLogprobs


class Shape(Protocol):
    """How one kind of endpoint shows the choices of an answer. `logprobs`: None where none were asked for."""

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


class TextShape:
    """Of `/v1/completions`; an object an answer, since offsets go on from chunk to chunk."""

    whole_object = chunk_object = "text_completion"

    def __init__(self) -> None:
        self._offsets: Counter[int] = Counter()

    def whole(
        self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]:
        return self.piece(index, text, logprobs) | {"finish_reason": reason}

    def opening(self, index: int) -> dict[str, Any] | None:  # noqa: ARG002 - a text has none
        return None

    def piece(self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None) -> dict[str, Any]:
        return {"index": index, "text": text} | _ending(self._logprobs(index, logprobs), None)

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
