"""Predictions from what a sequence has said before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from inference.prompt_lookup import NGRAM, PromptLookup

if TYPE_CHECKING:
    from collections.abc import Sequence

FEW_TOKENS = st.lists(st.integers(0, 2), max_size=40)


def latest_match(token_ids: Sequence[int]) -> int | None:
    """Position after the latest earlier occurrence of the last tokens, by search."""
    last = list(token_ids[-NGRAM:])
    ends = range(len(token_ids) - 1, NGRAM - 1, -1)
    return next((end for end in ends if list(token_ids[end - NGRAM : end]) == last), None)


@given(prompt=FEW_TOKENS, answer=FEW_TOKENS)
def test_what_followed_the_latest_occurrence_is_predicted(prompt: list[int], answer: list[int]) -> None:
    """The index that grows token by token finds what a search finds."""
    lookup, sequence = PromptLookup(len(prompt)), list(prompt)
    for token_id in [*answer, None]:
        match = latest_match(sequence) if len(sequence) > NGRAM else None
        assert lookup.can_predict(sequence) == (match is not None)
        if match is not None:
            known = sequence[match:]
            assert lookup.predict(sequence, len(known)) == known
        if token_id is not None:
            sequence.append(token_id)


def test_a_repetition_is_continued() -> None:
    sequence = [7, 1, 2, 3, 1, 2, 3]
    lookup = PromptLookup(len(sequence))
    assert lookup.can_predict(sequence)
    assert lookup.predict(sequence, 7) == [1, 2, 3, 1, 2, 3, 1]


def rates_after(prompt: list[int], answer: list[int], count: int = 1) -> list[float]:
    """Of what follows `answer`, which ends with tokens that occurred before."""
    lookup = PromptLookup(len(prompt))
    assert lookup.can_predict([*prompt, *answer])
    return lookup.hit_rates([*prompt, *answer], count)


def test_hit_rates_follow_the_answer_and_not_the_prompt() -> None:
    cycle = [1, 2, 3, 4]
    (start,) = rates_after([*cycle, 9], cycle[:3])
    assert rates_after([*cycle, 9, *cycle, 9, *cycle, 8], cycle[:3]) == [start]
    (after_misses,) = rates_after([*cycle, 9], [*cycle[:3], 8, *cycle[:3], 7, *cycle[:3]])
    assert after_misses < start
    (after_hits,) = rates_after([*cycle, 9], [*cycle, 8, *cycle, 7, *cycle[:3]])
    assert after_hits > start
    assert rates_after([*cycle, 9], [*range(10, 50), *cycle[:3]]) == [start]


def test_a_longer_match_makes_a_prediction_likelier() -> None:
    """The prediction itself lengthens the match."""
    passage = list(range(20))
    assert rates_after([*passage, 99], passage[:3], 8) == [0.45, 0.6, 0.6, 0.75, 0.75, 0.75, 0.9, 0.9]
    (long,) = rates_after([*passage, 99], [77, *passage[:12]])
    assert long > 0.9
