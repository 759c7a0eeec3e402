from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.protocol import Sampling
from inference.sampling.draw import draw, uniform

LOGITS = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3]))
SEEDS = st.integers(-(2**63), 2**63 - 1)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.05, 5),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1)),
    top_k=st.integers(0, 40),
    min_p=st.one_of(st.just(0.0), st.floats(0, 1)),
)


def shares(logits: torch.Tensor, count: int = 4000, **options: Any) -> torch.Tensor:
    """How often each token was drawn."""
    numbers = [uniform(3, position) for position in range(count)]
    tokens = draw(logits.expand(count, -1), range(count), [Sampling(**options)] * count, numbers)
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / count


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.05, 0.5, 0.15, 0.3]),
        ({"temperature": 0.5}, [0.0068, 0.6849, 0.0616, 0.2466]),
        ({"top_k": 2}, [0, 0.625, 0, 0.375]),
        ({"top_p": 0.5}, [0, 1, 0, 0]),
        ({"top_p": 0.79}, [0, 0.625, 0, 0.375]),
        ({"top_p": 0.81}, [0, 0.5263, 0.1579, 0.3158]),
        ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0]),  # 0.625 of what top-k left
        ({"min_p": 0.5}, [0, 0.625, 0, 0.375]),
        ({"min_p": 0.5, "top_p": 0.6}, [0, 1, 0, 0]),  # 0.625 of what min-p left
        ({"min_p": 1.0}, [0, 1, 0, 0]),
    ],
)
def test_draws_follow_the_distribution_that_the_cuts_leave(
    options: dict[str, Any], expected: list[float]
) -> None:
    seen = shares(LOGITS, **options).tolist()
    assert seen == pytest.approx(expected, abs=0.03)
    assert all(share == 0 for share, wanted in zip(seen, expected, strict=True) if wanted == 0)


def test_min_p_is_a_share_of_the_best_after_the_temperature() -> None:
    """At 2 the probabilities' roots compete: 0.22, 0.71, 0.39, 0.55; half of the best is 0.35."""
    assert (shares(LOGITS, temperature=2.0, min_p=0.5) > 0).tolist() == [False, True, True, True]


@pytest.mark.parametrize("vocab", [3000, 5000])
def test_top_p_looks_past_the_first_few_hundred_of_a_flat_distribution(vocab: int) -> None:
    drawn = shares(torch.zeros(vocab), 2000, top_p=0.9).nonzero()
    assert len(drawn) > 1000
    assert len({int(token_id) // 256 for token_id in drawn}) > 8


@pytest.mark.parametrize(
    ("top_k", "top_p", "num_left"), [(300, 1.0, 300), (1000, 0.9, 900), (4000, 0.5, 2000), (4500, 1.0, 4500)]
)
def test_top_k_looks_past_the_first_few_hundred(top_k: int, top_p: float, num_left: int) -> None:
    logits = torch.arange(5000) * -1e-6  # nearly flat, token 0 the most likely
    drawn = shares(logits, 4000, top_k=top_k, top_p=top_p).nonzero()
    assert num_left * 0.99 < drawn.max() < num_left * 1.01


@pytest.mark.parametrize("top_p", [5e-324, 1e-46, 1e-38, 1e-9])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"min_p": 0.1}])
def test_a_tiny_top_p_leaves_the_most_likely_token(top_p: float, options: dict[str, Any]) -> None:
    assert shares(LOGITS, 5, top_p=top_p, **options).tolist() == [0, 1, 0, 0]


def test_a_tiny_temperature_does_not_overflow() -> None:
    assert shares(LOGITS * 1e4, 5, temperature=1e-6).tolist() == [0, 1, 0, 0]


@settings(max_examples=60, deadline=None)
@given(sampling=SAMPLINGS, others=st.lists(SAMPLINGS, max_size=4), seed=SEEDS)
def test_a_row_is_drawn_the_same_alone_and_among_others(
    sampling: Sampling, others: list[Sampling], seed: int
) -> None:
    logits = torch.randn(5, 700, generator=torch.Generator().manual_seed(0)) * 3
    numbers = [uniform(seed, position) for position in range(5)]
    (alone,) = draw(logits, [0], [sampling], numbers[:1])
    crowd = draw(logits, range(1 + len(others)), [sampling, *others], numbers)
    assert crowd[0] == alone
    rank = int((logits[0] > logits[0, alone]).sum())
    assert sampling.top_k == 0 or rank < sampling.top_k
    assert torch.softmax(logits[0] / sampling.temperature, 0)[alone] > 0


@given(SEEDS, st.integers(0, 2**40))
def test_uniform_lies_in_the_half_open_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0
    assert uniform(seed, position) == uniform(seed, position)


def test_the_largest_number_never_draws_what_has_no_probability() -> None:
    logits = torch.tensor([0.0, 0.0, -torch.inf, -200.0] + [-torch.inf] * 600)
    options = [Sampling(), Sampling(top_p=0.999999), Sampling(top_k=4)]
    assert set(draw(logits.expand(3, -1), range(3), options, [1 - 2**-24] * 3)) <= {0, 1}
