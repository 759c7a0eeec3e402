"""Formats the choices of an answer as OpenAI's API does: chat and text, complete and streamed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.protocol import TokenLogprob, TokenLogprobs


class ChoiceFormat(Protocol):
    """Format of the choices of one endpoint. `logprobs` is None if the request does not ask for them."""

    complete_object: str
    chunk_object: str

    def complete(
        self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]: ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """First chunk of a streamed choice, before any text."""
        ...

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None) -> dict[str, Any]: ...

    def closing(self, index: int, reason: str) -> dict[str, Any]: ...


class ChatFormat:
    """Choices of `/v1/chat/completions`."""

    complete_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def complete(
        self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message} | _ending(chat_logprobs(logprobs), reason)

    def opening(self, index: int) -> dict[str, Any] | None:
        return self._chunk(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None) -> dict[str, Any]:
        return self._chunk(index, {"content": text}, logprobs)

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        return self._chunk(index, {}, reason=reason)

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
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
        self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None, reason: str
    ) -> dict[str, Any]:
        return self.delta(index, text, logprobs) | {"finish_reason": reason}

    def opening(self, index: int) -> dict[str, Any] | None:  # noqa: ARG002 - text streams have none
        return None

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprobs] | None) -> dict[str, Any]:
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
    r"""Decode a token; bytes that are not UTF-8 become `\x..` escapes, so that texts stay distinct."""
    return token.decode(errors="backslashreplace")


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token_text(token.token), "logprob": token.logprob, "bytes": list(token.token)}


def _ending(logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"logprobs": logprobs, "finish_reason": reason}
