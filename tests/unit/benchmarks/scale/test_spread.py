"""Medians of repeated runs, with their range."""

from __future__ import annotations

from benchmarks.scale.spread import spread


def test_the_median_of_an_even_number_of_runs_is_between_the_middle_two() -> None:
    assert spread([1.0, 2.0, 4.0, 8.0], 0) == "3 (1 to 8)"
    assert spread([2.0, 2.0], 1) == "2.0"
