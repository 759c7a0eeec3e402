"""Incremental detokenization: holds back incomplete characters and possible starts of stop strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_INCOMPLETE = "\ufffd"
_MAX_PENDING_TOKENS = 8
_MAX_PROMPT_CONTEXT = 24
"""Most tokens of a prompt that are tried as the context of its answer."""


class TokenDecoder(Protocol):
    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens, without special tokens."""


class IncrementalDetokenizer:
    """Decodes what follows `prompt`. A character split over tokens is held back until it is complete.

    Without a prompt, the decoders of SentencePiece drop the first blank.
    """

    def __init__(self, decoder: TokenDecoder, prompt: Sequence[int] = ()) -> None:
        self._decoder = decoder
        self._context = _end_of(decoder, prompt)  # the last tokens that were decoded
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        self._pending.append(token_id)
        text = self._pending_text()
        # A model may also emit U+FFFD itself; no character needs more tokens than this.
        if text.endswith(_INCOMPLETE) and len(self._pending) < _MAX_PENDING_TOKENS:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """The remaining text, with an incomplete character as U+FFFD."""
        return self._advance(self._pending_text()) if self._pending else ""

    def _pending_text(self) -> str:
        """Decode the pending tokens with their context, which decides whether a word starts with a blank."""
        before = self._decoder.decode(self._context)
        both = self._decoder.decode([*self._context, *self._pending])
        # Decoders with byte fallback replace all bytes of an invalid sequence, those of the context too.
        return both[len(before) :] if both.startswith(before) else self._decoder.decode(self._pending)

    def _advance(self, text: str) -> str:
        # Special tokens have no text; after them the context must not begin within a character either.
        both = [*self._context, *self._pending]
        self._context = self._pending if text else _end_of(self._decoder, both)
        self._pending = []
        return text


def _end_of(decoder: TokenDecoder, sequence: Sequence[int]) -> list[int]:
    """The last tokens of a sequence from the start of a character on, and with more than special tokens."""
    tokens: list[int] = []
    for length in range(min(_MAX_PENDING_TOKENS, len(sequence)), min(_MAX_PROMPT_CONTEXT, len(sequence)) + 1):
        tokens = list(sequence[len(sequence) - length :])
        text = decoder.decode(tokens)
        if text and _INCOMPLETE not in text:
            break
    return tokens


class StopFilter:
    """Ends a stream at the first stop string. Text that may be the start of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Add `text`, and return the text that cannot be part of a stop string; "" once stopped."""
        if self.is_stopped:
            return ""
        text = self._held + text
        found = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)]
        length = self._possible_start(text)
        self._held = text[len(text) - length :]
        return text[: len(text) - length]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest suffix of `text` that is a prefix of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class TextStream:
    """Text of an answer, token by token. `prompt`: the tokens whose text it continues."""

    def __init__(self, decoder: TokenDecoder, stops: Sequence[str], prompt: Sequence[int] = ()) -> None:
        self._detokenizer = IncrementalDetokenizer(decoder, prompt)
        self._filter = StopFilter(stops)

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self._filter.is_stopped

    def push(self, token_id: int) -> str:
        return self._filter.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """The remaining text, for an answer that ended for another reason than a stop string."""
        return self._filter.push(self._detokenizer.flush()) + self._filter.flush()
