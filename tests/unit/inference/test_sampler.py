from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.protocol import Sampling
from inference.sampler import NOT_FINITE, sample, uniform

LOGITS = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3]))


def draw(logits: torch.Tensor, sampling: Sampling, count: int, seed: int = 3) -> list[int]:
    return sample(logits.expand(count, -1), [sampling] * count, [seed] * count, range(count))


def frequencies(tokens: list[int], size: int) -> torch.Tensor:
    return torch.bincount(torch.tensor(tokens), minlength=size) / len(tokens)


def test_temperature_zero_takes_the_best() -> None:
    assert draw(LOGITS, Sampling(temperature=0.0), 3) == [1, 1, 1]


def test_draws_follow_the_distribution() -> None:
    seen = frequencies(draw(LOGITS, Sampling(), 4000), 4)
    torch.testing.assert_close(seen, LOGITS.exp(), atol=0.03, rtol=0)


def test_temperature_sharpens_the_distribution() -> None:
    seen = frequencies(draw(LOGITS, Sampling(temperature=0.5), 4000), 4)
    torch.testing.assert_close(seen, torch.softmax(LOGITS / 0.5, 0), atol=0.03, rtol=0)


def test_top_k_keeps_the_k_likeliest_in_proportion() -> None:
    seen = frequencies(draw(LOGITS, Sampling(top_k=2), 4000), 4)
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.625, 0.0, 0.375]), atol=0.03, rtol=0)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    assert set(draw(LOGITS, Sampling(top_p=0.5), 500)) == {1}
    assert set(draw(LOGITS, Sampling(top_p=0.79), 500)) == {1, 3}
    assert set(draw(LOGITS, Sampling(top_p=0.81), 500)) == {1, 2, 3}


def test_top_p_looks_past_the_first_few_hundred_of_a_flat_distribution() -> None:
    seen = set(draw(torch.zeros(3000), Sampling(top_p=0.9), 2000))
    assert max(seen) > 256
    assert len(seen) > 1000


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    assert draw(LOGITS * 1e4, Sampling(temperature=1e-6), 5) == [1] * 5


@pytest.mark.parametrize("temperature", [9e-7, 1e-50, 5e-324])
def test_a_temperature_that_is_zero_in_fp32_is_greedy(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, top_p=0.9)
    assert draw(LOGITS, sampling, 3) == draw(torch.zeros(4).index_fill(0, torch.tensor([1]), 1), sampling, 3)


def test_rows_that_are_not_finite_are_marked_and_hurt_nobody() -> None:
    rows = torch.stack([LOGITS, torch.full((4,), float("nan")), torch.tensor([0.0, float("inf"), 0.0, 0.0])])
    assert sample(rows, [Sampling(temperature=0.0)] * 3, [0] * 3, [0] * 3) == [1, NOT_FINITE, NOT_FINITE]


@settings(max_examples=60, deadline=None)
@given(
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 40),
    seed=st.integers(-(2**63), 2**63 - 1),
    position=st.integers(0, 10_000),
)
def test_a_row_is_drawn_the_same_alone_and_among_others(
    temperature: float, top_p: float, top_k: int, seed: int, position: int
) -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0)) * 3
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    others = [Sampling(), Sampling(temperature=0.0), Sampling(top_k=3), Sampling(top_p=0.5)]
    alone = sample(logits[:1], [sampling], [seed], [position])
    crowd = sample(logits, [sampling, *others], [seed, 1, 2, 3, 4], [position] * 5)
    assert crowd[0] == alone[0]
    rank = int((logits[0] > logits[0, alone[0]]).sum())
    assert top_k == 0 or rank < top_k


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_uniform_lies_in_the_half_open_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0
    assert uniform(seed, position) == uniform(seed, position)
