from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.attribution import ScoreNotFinite, answer_draw, rank_correlation, shares_from_scores
from backend.domain.money import PPM
from backend.domain.receipt import Share
from backend.domain.split import MAX_SHARES

scores = st.dictionaries(
    st.integers(0, (1 << 32) - 1), st.floats(-1e300, 1e300), min_size=1, max_size=MAX_SHARES + 40
)


@given(scores)
def test_lists_are_always_well_formed(given_scores: dict[int, float]) -> None:
    shares = shares_from_scores(given_scores)
    positions = [share.position for share in shares]
    assert positions == sorted(set(positions))
    assert sum(share.ppm for share in shares) == PPM
    assert all(share.ppm > 0 for share in shares)
    assert len(shares) <= MAX_SHARES
    assert set(positions) <= set(given_scores)


@given(scores)
def test_a_higher_score_never_gets_less(given_scores: dict[int, float]) -> None:
    ppm = {share.position: share.ppm for share in shares_from_scores(given_scores)}
    ranked = sorted(ppm, key=lambda position: given_scores[position])
    if max(given_scores.values()) > 0:
        assert [ppm[p] for p in ranked[:-1]] == sorted(ppm[p] for p in ranked[:-1])


def test_weights_are_squares_of_positive_scores() -> None:
    shares = shares_from_scores({4: 1.0, 1: 2.0, 9: -5.0, 7: 0.0})
    assert shares == (Share(1, 800_000), Share(4, 200_000))


def test_the_remainder_goes_to_the_largest_the_lowest_position_on_a_tie() -> None:
    assert shares_from_scores({2: 1.0, 3: 1.0, 8: 1.0})[0] == Share(2, 333_334)


def test_positions_count_equally_without_a_positive_score() -> None:
    assert shares_from_scores({5: -1.0, 6: 0.0}) == (Share(5, 500_000), Share(6, 500_000))


@pytest.mark.parametrize(("more", "num_higher", "draw"), [(1, 0, 0), (2, 255, 1 << 255), (300, 5, 77)])
def test_draws_pay_each_of_many_equal_contributions_as_often(more: int, num_higher: int, draw: int) -> None:
    """As many draws as equal scores, one after the other, are a full turn."""
    higher = dict.fromkeys(range(num_higher), 2.0)
    equal = dict.fromkeys(range(1000, 1000 + MAX_SHARES - num_higher + more), 1.0)
    times = Counter(
        share.position
        for turn in range(len(equal))
        for share in shares_from_scores(higher | equal, draw + turn)
    )
    assert times.keys() == higher.keys() | equal.keys()
    assert {times[position] for position in equal} == {MAX_SHARES - num_higher}
    assert all(times[position] == len(equal) for position in higher)


@given(scores, st.integers(0))
def test_a_draw_only_decides_between_equal_scores(given_scores: dict[int, float], draw: int) -> None:
    drawn = {share.position: share.ppm for share in shares_from_scores(given_scores, draw)}
    first = {share.position: share.ppm for share in shares_from_scores(given_scores)}
    assert sorted(drawn.values()) == sorted(first.values())
    if len(given_scores) <= MAX_SHARES:
        assert drawn == first


def test_an_answer_draws_by_its_request_and_its_texts() -> None:
    draws = {answer_draw(body, texts) for body in (b"{}", b"{ }") for texts in (["a"], ["b"], ["a", ""])}
    assert len(draws) == 6


def test_no_scores_give_an_empty_list() -> None:
    assert shares_from_scores({}) == ()


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(score: float) -> None:
    with pytest.raises(ScoreNotFinite) as caught:
        shares_from_scores({3: 0.5, 11: score})
    assert caught.value.details == {"position": 11}


def test_rank_correlation_is_that_of_the_order_alone() -> None:
    assert rank_correlation([1.0, 2.0, 3.0], [-5.0, 0.0, 100.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert rank_correlation([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]) == pytest.approx(0.6)


def test_rank_correlation_gives_equal_scores_the_mean_of_their_ranks() -> None:
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5 and 2.
    assert rank_correlation([0.0, 0.0, 1.0], [1.0, 2.0, 3.0]) == pytest.approx(1.5 / 3**0.5)


@pytest.mark.parametrize("constant", [[], [1.0], [2.0, 2.0]])
def test_scores_without_an_order_have_no_rank_correlation(constant: list[float]) -> None:
    assert rank_correlation(constant, list(range(len(constant)))) is None
