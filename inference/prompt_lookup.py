"""Prompt lookup: predicts the next tokens of a sequence from an earlier occurrence of its last ones.

Saxena, "Prompt Lookup Decoding" (2023, github.com/apoorvumang/prompt-lookup-decoding). It needs no draft
model, and predicts text that copies: quotations, code that is edited, tables, repetition.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NGRAM = 3
"""Tokens that must have occurred before. With two, text that copies nothing has four times as many false
matches."""
_MATCH_LENGTHS = (3, 5, 8)
"""Predictions are classed by the number of tokens before them that match the earlier text: the more match,
the likelier the prediction is right. These are the largest numbers of all classes but the last."""
_FIRST_HIT_RATES = (0.45, 0.6, 0.75, 0.9)  # of each class; close to those measured on copied lists of numbers
_WEIGHT = 0.2  # of the latest prediction in the hit rate of its class


class PromptLookup:
    """The predictions for one sequence, and how often they are right.

    Every prediction is compared with the token that follows, whether it was proposed or not. So hit rates
    depend on the sequence alone, and recover when the text begins to copy.
    """

    __slots__ = ("_following", "_hit_rates", "_num_indexed", "_num_prompt_tokens")

    def __init__(self, num_prompt_tokens: int) -> None:
        self._num_prompt_tokens = num_prompt_tokens
        self._following: dict[tuple[int, ...], int] = {}  # position after the latest occurrence of n tokens
        self._num_indexed = NGRAM
        self._hit_rates = [*_FIRST_HIT_RATES]

    def can_predict(self, token_ids: Sequence[int]) -> bool:
        """Whether the last tokens of the sequence have occurred before. `token_ids` begins with those of the
        last call.
        """
        for position in range(self._num_indexed, len(token_ids)):
            key = tuple(token_ids[position - NGRAM : position])
            predicted = self._following.get(key)
            if predicted is not None and position >= self._num_prompt_tokens:
                is_hit = token_ids[predicted] == token_ids[position]
                which = _class_of(_match_length(token_ids, predicted, position))
                self._hit_rates[which] += _WEIGHT * (is_hit - self._hit_rates[which])
            self._following[key] = position
        self._num_indexed = max(self._num_indexed, len(token_ids))
        return self._key(token_ids) in self._following

    def hit_rates(self, token_ids: Sequence[int], count: int) -> list[float]:
        """Estimated probability of each of the next `count` tokens of a sequence that `can_predict` has seen,
        provided that those before it are as predicted.
        """
        end = len(token_ids)
        length = _match_length(token_ids, self._following[self._key(token_ids)], end)
        return [self._hit_rates[_class_of(length + index)] for index in range(count)]

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


def _match_length(token_ids: Sequence[int], first: int, second: int) -> int:
    """Number of equal tokens before positions `first` and `second`, as far as classes differ by it."""
    length = NGRAM
    while length <= min(_MATCH_LENGTHS[-1], first - 1):
        if token_ids[first - length - 1] != token_ids[second - length - 1]:
            break
        length += 1
    return length


def _class_of(match_length: int) -> int:
    return bisect_left(_MATCH_LENGTHS, match_length)
