from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.protocol import Sampling
from inference.sampling.sampler import INVALID_TOKEN, sample_tokens
from inference.sampling.state import SamplingState
from inference.sampling.vocabulary import Vocabulary

VOCAB = 8
LOGITS = torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0, -0.5, -1.0, -9.0])
PENALTIES = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.9]),
    presence_penalty=st.sampled_from([0.0, 1.5, -0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.5, -0.25]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-3, 3, width=32), max_size=3),
    min_tokens=st.integers(0, 3),
    logprobs=st.sampled_from([None, 0, 3]),
    seed=st.integers(0, 1000),
)


def vocabulary() -> Vocabulary:
    """Bytes are the token ids; token 7 ends an answer."""
    it = Vocabulary(VOCAB, frozenset({7}), lambda: "")
    it.token_bytes = lambda token_id: bytes([token_id])  # type: ignore[method-assign]
    return it


def state(prompt: tuple[int, ...] = (), answer: tuple[int, ...] = (), **options: Any) -> SamplingState:
    it = SamplingState(Sampling(**{"temperature": 0.0, **options}), prompt)
    for token_id in answer:
        it.push(token_id)
    return it


def adjusted(it: SamplingState, logits: torch.Tensor = LOGITS) -> list[float]:
    """The logits that a token is sampled from."""
    rows = logits.clone().unsqueeze(0)
    sample_tokens(rows, [it], vocabulary())
    return rows[0].tolist()


def by_definition(sampling: Sampling, prompt: list[int], answer: list[int]) -> list[float]:
    """Straight from the definitions, one token at a time."""
    values = LOGITS.tolist()
    counts = Counter(answer)
    for token_id in range(VOCAB):
        if token_id == 7 and len(answer) < sampling.min_tokens:
            values[token_id] = -math.inf
        values[token_id] += sampling.logit_bias.get(token_id, 0.0)
        if token_id in counts or token_id in prompt:
            factor = sampling.repetition_penalty
            values[token_id] *= 1 / factor if values[token_id] > 0 else factor
        values[token_id] -= sampling.frequency_penalty * counts[token_id]
        values[token_id] -= sampling.presence_penalty * (token_id in counts)
    return values


def test_temperature_zero_takes_the_best() -> None:
    assert sample_tokens(LOGITS.expand(2, -1).clone(), [state(), state()], vocabulary())[1].token_id == 0


@pytest.mark.parametrize("temperature", [9e-7, 1e-50, 5e-324])
def test_a_temperature_that_is_zero_in_fp32_is_greedy(temperature: float) -> None:
    assert state(temperature=temperature).is_greedy


def test_rows_that_are_not_finite_are_marked_and_do_not_affect_others() -> None:
    broken = [torch.full((VOCAB,), math.nan), LOGITS.index_fill(0, torch.tensor([2]), math.inf)]
    rows = torch.stack([LOGITS, *broken, torch.full((VOCAB,), -math.inf), LOGITS])
    states = [state(), state(logprobs=2), state(temperature=1.0), state(top_p=0.5, temperature=1.0), state()]
    tokens = [token.token_id for token in sample_tokens(rows, states, vocabulary())]
    assert tokens == [0, INVALID_TOKEN, INVALID_TOKEN, INVALID_TOKEN, 0]


@settings(max_examples=60, deadline=None)
@given(
    sampling=PENALTIES,
    prompt=st.lists(st.integers(0, VOCAB - 1), max_size=5),
    answer=st.lists(st.integers(0, VOCAB - 1), max_size=40),
)
def test_logits_are_changed_by_the_definitions_in_their_order(
    sampling: Sampling, prompt: list[int], answer: list[int]
) -> None:
    it = SamplingState(sampling, prompt)
    for token_id in answer:
        it.push(token_id)
    assert adjusted(it) == pytest.approx(by_definition(sampling, prompt, answer), abs=1e-4)


def test_repetition_looks_at_the_prompt_and_the_other_penalties_do_not() -> None:
    assert adjusted(state((0, 5), repetition_penalty=2.0)) == [1.5, *LOGITS[1:5].tolist(), -1.0, -1.0, -9.0]
    assert adjusted(state((0,), presence_penalty=2.0, frequency_penalty=2.0)) == LOGITS.tolist()


@settings(max_examples=40, deadline=None)
@given(samplings=st.lists(PENALTIES, min_size=2, max_size=6), answer=st.lists(st.integers(0, 7), max_size=6))
def test_a_row_is_chosen_the_same_alone_and_among_others(
    samplings: list[Sampling], answer: list[int]
) -> None:
    states = [SamplingState(each, [1, 2]) for each in samplings]
    for it in states:
        for token_id in answer:
            it.push(token_id)
    rows = torch.randn(len(states), VOCAB, generator=torch.Generator().manual_seed(len(answer)))
    crowd = sample_tokens(rows.clone(), states, vocabulary())
    assert crowd == [
        sample_tokens(rows[i : i + 1].clone(), [it], vocabulary())[0] for i, it in enumerate(states)
    ]


def test_logprobs_are_those_of_the_unmodified_logits() -> None:
    plain, bent = (
        sample_tokens(LOGITS.clone().unsqueeze(0), [each], vocabulary())[0]
        for each in (state(logprobs=3), state(logprobs=3, logit_bias={6: 100.0}, temperature=0.1))
    )
    expected = torch.log_softmax(LOGITS, 0)
    assert plain.token_id == 0
    assert bent.token_id == 6
    assert bent.logprobs.chosen.logprob == pytest.approx(float(expected[6]))
    assert bent.logprobs.top == plain.logprobs.top
    assert [each.token_id for each in plain.logprobs.top] == [0, 1, 2]
    assert [each.logprob for each in plain.logprobs.top] == pytest.approx(expected[:3].tolist())
    assert plain.logprobs.top[0] == plain.logprobs.chosen


def test_a_least_length_without_an_end_changes_nothing() -> None:
    rows = LOGITS.clone().unsqueeze(0)
    (token,) = sample_tokens(rows, [state(min_tokens=2)], Vocabulary(VOCAB, frozenset(), lambda: ""))
    assert token.token_id == 0


def test_zero_alternatives_give_the_chosen_token_alone() -> None:
    (token,) = sample_tokens(LOGITS.clone().unsqueeze(0), [state(logprobs=0)], vocabulary())
    assert (token.logprobs.chosen.token, token.logprobs.top) == (b"\x00", [])


def test_an_impossible_alternative_has_a_finite_logprob() -> None:
    rows = torch.tensor([[0.0, -math.inf]])
    (token,) = sample_tokens(rows, [state(logprobs=2)], vocabulary())
    assert [each.logprob for each in token.logprobs.top] == [0.0, -9999.0]
