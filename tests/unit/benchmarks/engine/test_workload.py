"""Prompts and Zipf draws."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.engine.workload import ClosedLoop, prompts, zipf_requests


def test_prompts_repeat_for_a_seed_and_share_nothing_between_seeds() -> None:
    assert prompts("a") == prompts("a")
    assert not {tuple(prompt[:2]) for prompt in prompts("a")} & {tuple(prompt[:2]) for prompt in prompts("b")}
    assert {len(prompt) for prompt in prompts("a", 5, 7)} == {7}


def test_adapters_are_drawn_by_zipfs_law() -> None:
    loop = ClosedLoop([str(number) for number in range(1, 11)], num_requests=20_000, seed=1)
    drawn = Counter(adapter for _, adapter, _ in zipf_requests(loop))
    for number in (2, 5, 10):
        assert drawn["1"] / drawn[str(number)] == pytest.approx(number, rel=0.15)


def test_lengths_of_answers_vary_within_their_bounds() -> None:
    loop = ClosedLoop(["a"], num_requests=500, seed=1, shortest=3, longest=6)
    assert {new_tokens for _, _, new_tokens in zipf_requests(loop)} == {3, 4, 5, 6}


def test_a_loop_depends_on_the_seed_and_not_on_adapter_names() -> None:
    first, second = (
        [(prompt, length) for prompt, _, length in zipf_requests(ClosedLoop(names, 50, seed=3))]
        for names in (["a", "b"], ["c", "d"])
    )
    assert first == second
