from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.training.distil import _cross_validate, _fit, distil


def kept_out(count: int) -> list[bool]:
    return [number % 4 == 3 for number in range(count)]


def test_a_linear_relation_is_found_and_agrees_on_answers_kept_out() -> None:
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(80, 4)), rng.normal(size=(5, 4))
    scores = features @ weights.T
    found = distil(features, 3 * scores, kept_out(80))
    assert found.agreement is not None
    assert found.agreement > 0.9
    assert found.map.weights.dtype == found.map.bias.dtype == np.float32


def test_features_that_say_nothing_give_the_mean_direction() -> None:
    rng = np.random.default_rng(0)
    features, mean = rng.normal(size=(200, 4)), np.array([2.0, 0.0, -2.0])
    found = distil(features, mean + 0.1 * rng.normal(size=(200, 3)), kept_out(200))
    assert np.abs(found.map.weights).max() < 0.02
    assert found.map.bias == pytest.approx(mean / np.linalg.norm(mean), abs=0.02)


def test_an_answer_counts_alike_whatever_the_size_of_its_scores() -> None:
    rng = np.random.default_rng(0)
    features, scores = rng.normal(size=(40, 6)), rng.normal(size=(40, 3))
    one = distil(features, scores, kept_out(40))
    other = distil(features, scores * rng.uniform(1, 100, size=(40, 1)), kept_out(40))
    assert one.map.weights == pytest.approx(other.map.weights, abs=1e-6)


@given(num_answers=st.integers(2, 12), size=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_fit_solves_ridge_regression_with_an_intercept(num_answers: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, targets = rng.normal(size=(num_answers, size)), rng.normal(size=(num_answers, 3))
    found, strength = _fit(features, targets)
    centred = features - features.mean(0)
    damping = strength * np.trace(centred @ centred.T) / num_answers
    gram = centred.T @ centred + damping * np.eye(size)
    expected = np.linalg.solve(gram, centred.T @ (targets - targets.mean(0))).T
    assert found.weights == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert found.bias == pytest.approx(targets.mean(0) - expected @ features.mean(0), rel=1e-3, abs=1e-4)


def test_the_criterion_is_that_of_generalised_cross_validation() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
    inputs, outputs = features - features.mean(0), targets - targets.mean(0)
    gram, damping = inputs @ inputs.T, 0.7
    hat = gram @ np.linalg.inv(gram + damping * np.eye(9)) + np.full((9, 9), 1 / 9)
    left = np.eye(9) - hat
    expected = ((left @ targets) ** 2).sum() / np.trace(left) ** 2
    values, vectors = np.linalg.eigh(gram)
    assert _cross_validate(values, vectors.T @ outputs, damping) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_answers_give_their_mean(count: int) -> None:
    scores = np.tile([3.0, 4.0], (count, 1))
    found = distil(np.ones((count, 7)), scores, kept_out(count))
    assert not found.map.weights.any()
    assert found.map.bias == pytest.approx([0.6, 0.8])


def test_answers_without_influence_give_a_map_to_zero() -> None:
    found = distil(np.random.default_rng(0).normal(size=(8, 3)), np.zeros((8, 2)), kept_out(8))
    assert not found.map.weights.any()
    assert not found.map.bias.any()
    assert found.agreement is None


def test_one_contribution_or_no_answer_kept_out_has_no_agreement() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8, 3))
    assert distil(features, rng.normal(size=(8, 1)), kept_out(8)).agreement is None
    assert distil(features[:3], rng.normal(size=(3, 2)), kept_out(3)).agreement is None
