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


def rate_after(prompt: list[int], answer: list[int]) -> float:
    lookup = PromptLookup(len(prompt))
    lookup.can_predict([*prompt, *answer])
    return lookup.hit_rate


def test_the_hit_rate_follows_the_answer_and_not_the_prompt() -> None:
    cycle = [1, 2, 3, 4]
    start = rate_after(cycle, [])
    assert rate_after(cycle * 8, []) == start
    assert rate_after(cycle, cycle * 8) > 0.95
    assert rate_after(cycle, [*cycle, 9, *cycle, 8, *cycle, 7, *cycle, 6]) < start
    assert rate_after(cycle, list(range(10, 50))) == start
