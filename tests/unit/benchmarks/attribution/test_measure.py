from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.attribution.data import half_subsets
from benchmarks.attribution.measure import (
    Series,
    aboutness,
    as_paid,
    ceiling,
    differences,
    draw,
    figures,
    predict,
    spearman,
)


def test_rank_correlation_of_known_series() -> None:
    rising = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(rising, rising**3) == pytest.approx(1)
    assert spearman(rising, -rising) == pytest.approx(-1)
    assert spearman(rising, np.ones(4)) == 0
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman(np.array([1.0, 5.0, 5.0, 9.0]), rising) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=9), st.integers(0, 99))
def test_rank_correlation_does_not_care_for_the_scale(values: list[int], seed: int) -> None:
    one = np.array(values, dtype=np.float64)
    other = np.random.default_rng(seed).permutation(one)
    assert spearman(one, other) == pytest.approx(spearman(np.exp(one), 2 * other - 7))
    assert spearman(one, other) == pytest.approx(spearman(other, one))
    assert -1 - 1e-9 <= spearman(one, other) <= 1 + 1e-9


def test_a_method_that_knows_the_truth_leads_and_noise_does_not() -> None:
    dice = np.random.default_rng(1)
    truth = dice.normal(size=(30, 8))
    halves = half_subsets(8, 20)
    actual = predict(truth, halves) + 0.1 * dice.normal(size=(30, 20))
    guesses = {"best": truth, "noise": dice.normal(size=(30, 8))}
    series = {
        name: Series(predict(scores, halves), predict(as_paid(scores), halves))
        for name, scores in guesses.items()
    }
    drawn = draw(series, actual, ["generated"] * 10 + ["held-out"] * 20)
    found = figures(drawn, "noise")
    assert set(found["best"]) == {"generated", "held-out"}
    best, noise = found["best"]["generated"]["scored"], found["noise"]["generated"]["scored"]
    assert best["lds"] > 0.9
    assert abs(noise["lds"]) < 0.3
    assert best["interval"][0] < best["lds"] < best["interval"][1] + 0.05
    assert best["lead_interval"][0] > 0.5
    assert noise["lead_interval"] == [0, 0]
    assert 0.5 < found["best"]["held-out"]["paid"]["lds"] < best["lds"]  # what harms is not paid
    ahead, behind = differences(drawn, [("best", "noise"), ("noise", "best")])
    assert (ahead["method"], ahead["over"]) == ("best", "noise")
    assert ahead["by_kind"]["generated"] == {"lds": best["lead"], "interval": best["lead_interval"]}
    assert behind["by_kind"]["generated"]["interval"] == [-high for high in reversed(best["lead_interval"])]


def test_the_ceiling_is_how_well_one_seed_predicts_another() -> None:
    dice = np.random.default_rng(2)
    first = dice.normal(size=(6, 10))
    kinds = ["generated"] * 3 + ["held-out"] * 3
    assert ceiling(first, 2 * first, kinds)["generated"]["lds"] == pytest.approx(1)
    noisy = ceiling(first, first + dice.normal(size=first.shape), kinds)["held-out"]
    assert noisy["interval"][0] < noisy["lds"] < 1


def test_shares_as_paid_sum_to_a_million_and_drop_who_harms() -> None:
    paid = as_paid(np.array([[3.0, -1.0, 4.0], [-1.0, -1.0, -1.0]]))
    assert paid.sum(1).tolist() == [1_000_000] * 2
    assert paid[0].tolist() == [360_000, 0, 640_000]


def test_aboutness_counts_the_answers_whose_own_contributor_comes_first() -> None:
    scores = np.array([[2.0, 1.0], [0.0, 1.0], [5.0, 1.0], [0.0, 3.0]])
    assert aboutness(scores, [0, 1, 1, 1]) == 0.75


def test_halves_are_halves_differ_and_stay_when_more_are_wanted() -> None:
    few, many = half_subsets(12, 10), half_subsets(12, 30)
    assert many[:10] == few
    assert len(set(many)) == 30
    assert all(len(set(half)) == 6 for half in many)
