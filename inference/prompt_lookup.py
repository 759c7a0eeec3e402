"""Prompt lookup: predicts the next tokens of a sequence from an earlier occurrence of its last ones.

Saxena, "Prompt Lookup Decoding" (2023, github.com/apoorvumang/prompt-lookup-decoding). It needs no draft
model, and predicts text that copies: quotations, code that is edited, tables, repetition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NGRAM = 3
"""Tokens that must have occurred before. With two, text that copies nothing has four times as many false
matches."""
_FIRST_HIT_RATE = 0.5
_WEIGHT = 0.2  # of the latest prediction in the hit rate


class PromptLookup:
    """The predictions for one sequence, and how often they are right.

    Every prediction is compared with the token that follows, whether it was proposed or not. So `hit_rate`
    depends on the sequence alone, and recovers when the text begins to copy.
    """

    __slots__ = ("_following", "_num_indexed", "_num_prompt_tokens", "hit_rate")

    def __init__(self, num_prompt_tokens: int) -> None:
        self._num_prompt_tokens = num_prompt_tokens
        self._following: dict[tuple[int, ...], int] = {}  # position after the latest occurrence of n tokens
        self._num_indexed = NGRAM
        self.hit_rate = _FIRST_HIT_RATE
        """Estimated probability that a prediction is the next token."""

    def can_predict(self, token_ids: Sequence[int]) -> bool:
        """Whether the last tokens of the sequence have occurred before. `token_ids` begins with those of the
        last call.
        """
        for position in range(self._num_indexed, len(token_ids)):
            key = tuple(token_ids[position - NGRAM : position])
            predicted = self._following.get(key)
            if predicted is not None and position >= self._num_prompt_tokens:
                is_hit = token_ids[predicted] == token_ids[position]
                self.hit_rate += _WEIGHT * (is_hit - self.hit_rate)
            self._following[key] = position
        self._num_indexed = max(self._num_indexed, len(token_ids))
        return self._key(token_ids) in self._following

    def predict(self, token_ids: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens of a sequence that `can_predict` has seen. Where the earlier text reaches
        the end of the sequence, it goes on with the prediction itself: a repetition is continued.
        """
        first = self._following[self._key(token_ids)]
        predicted: list[int] = []
        for position in range(first, first + count):
            after = position - len(token_ids)
            predicted.append(token_ids[position] if after < 0 else predicted[after])
        return predicted

    @staticmethod
    def _key(token_ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(token_ids[-NGRAM:])
