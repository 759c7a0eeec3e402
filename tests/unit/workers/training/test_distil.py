from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.attribution import rank_correlation
from workers.training.distil import STRENGTHS, Distilled, _cross_validate, _fit, distil


def distilled(features: Any, scores: Any) -> Distilled:
    """A map that starts from nothing; every fourth answer is kept out."""
    nothing = np.zeros((scores.shape[1], features.shape[1]))
    return distil(features, scores, nothing, [number % 4 == 3 for number in range(len(scores))])


def test_a_linear_relation_is_found_and_agrees_on_answers_kept_out() -> None:
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(80, 4)), rng.normal(size=(5, 4))
    scores = features @ weights.T
    found = distilled(features, 3 * scores)
    assert found.agreement is not None
    assert found.agreement > 0.9
    assert found.map.weights.dtype == found.map.bias.dtype == np.float32


def test_features_that_say_nothing_give_the_mean_direction() -> None:
    rng = np.random.default_rng(0)
    features, mean = rng.normal(size=(200, 4)), np.array([2.0, 0.0, -2.0])
    found = distilled(features, mean + 0.1 * rng.normal(size=(200, 3)))
    assert np.abs(found.map.weights).max() < 0.02
    assert found.map.bias == pytest.approx(mean / np.linalg.norm(mean), abs=0.02)


def test_an_answer_counts_alike_whatever_the_size_of_its_scores() -> None:
    rng = np.random.default_rng(0)
    features, scores = rng.normal(size=(40, 6)), rng.normal(size=(40, 3))
    one = distilled(features, scores)
    other = distilled(features, scores * rng.uniform(1, 100, size=(40, 1)))
    assert one.map.weights == pytest.approx(other.map.weights, abs=1e-6)


@given(num_answers=st.integers(2, 12), size=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_fit_is_ridge_regression_from_a_multiple_of_the_prior_with_an_intercept(
    num_answers: int, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    features, targets = rng.normal(size=(num_answers, size)), rng.normal(size=(num_answers, 3))
    prior = rng.normal(size=(3, size))
    found, strength = _fit(features, targets, prior, STRENGTHS)
    centred, outputs = features - features.mean(0), targets - targets.mean(0)
    predicted = (centred @ prior.T).ravel()
    factor = max(0.0, predicted @ outputs.ravel() / (predicted @ predicted))
    damping = strength * np.trace(centred @ centred.T) / num_answers
    gram = centred.T @ centred + damping * np.eye(size)
    residuals = outputs - factor * centred @ prior.T
    expected = factor * prior + np.linalg.solve(gram, centred.T @ residuals).T
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
    found = distilled(np.ones((count, 7)), scores)
    assert not found.map.weights.any()
    assert found.map.bias == pytest.approx([0.6, 0.8])


def test_what_the_answers_do_not_tell_remains_as_in_the_prior() -> None:
    rng = np.random.default_rng(0)
    features, prior = rng.normal(size=(40, 3)), rng.normal(size=(4, 3))
    features[:, 2] = 1  # in all answers
    found = distil(features, 5 * features @ prior.T, prior, [False] * 40)
    untold = found.map.weights[:, 2]
    assert untold[0] / prior[0, 2] > 0
    assert untold / untold[0] == pytest.approx(prior[:, 2] / prior[0, 2], rel=1e-5)


def test_a_prior_that_points_the_wrong_way_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    features, prior = rng.normal(size=(40, 3)), rng.normal(size=(4, 3))
    scores = -features @ prior.T
    against, without = (
        distil(features, scores, prior, [False] * 40),
        distil(features, scores, 0 * prior, [False] * 40),
    )
    assert against.map.weights == pytest.approx(without.map.weights)


def test_answers_kept_out_fit_the_map_but_not_the_one_that_they_measure() -> None:
    rng = np.random.default_rng(0)
    features, scores, prior = rng.normal(size=(12, 3)), rng.normal(size=(12, 4)), np.zeros((4, 3))
    kept_out = [number % 4 == 3 for number in range(12)]
    found, honest = (distil(features, scores, prior, split) for split in (kept_out, [False] * 12))
    assert found.map.weights.tolist() == honest.map.weights.tolist()
    others = distil(features[~np.array(kept_out)], scores[~np.array(kept_out)], prior, [False] * 9).map
    pairs = [(others.scores(features[n]).tolist(), scores[n].tolist()) for n in (3, 7, 11)]
    assert found.agreement == pytest.approx(fmean(rank_correlation(*pair) or 0.0 for pair in pairs))


def test_answers_without_influence_give_a_map_to_zero() -> None:
    found = distilled(np.random.default_rng(0).normal(size=(8, 3)), np.zeros((8, 2)))
    assert not found.map.weights.any()
    assert not found.map.bias.any()
    assert found.agreement is None


def test_one_contribution_or_no_answer_kept_out_has_no_agreement() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8, 3))
    assert distilled(features, rng.normal(size=(8, 1))).agreement is None
    assert distilled(features[:3], rng.normal(size=(3, 2))).agreement is None
