"""Clocks and percentiles."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.engine.measure import TokenClock, percentile, spread


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands still at `now`."""
    still = SimpleNamespace(now=100.0)
    still.perf_counter = lambda: still.now
    monkeypatch.setattr("benchmarks.engine.measure.time", still)
    return still


def test_a_first_token_counts_from_its_own_submission_and_the_rest_from_the_token_before(
    time: SimpleNamespace,
) -> None:
    clock = TokenClock()
    time.now = 200
    clock.submit("a")
    time.now = 200.5
    clock.tokens("a", 1)
    time.now = 200.75
    clock.tokens("a", 1)
    measured = clock.measurement()
    assert measured.ttft_seconds == [0.5]
    assert measured.itl_seconds == [0.25]
    assert measured.num_tokens == 2


def test_a_request_that_is_not_timed_has_gaps_but_no_first_token(time: SimpleNamespace) -> None:
    clock = TokenClock()
    clock.submit("a", is_timed=False)
    for _ in range(2):
        time.now += 1
        clock.tokens("a", 1)
    measured = clock.measurement()
    assert (measured.ttft_seconds, measured.itl_seconds, measured.num_tokens) == ([], [1], 2)


def test_tokens_that_come_at_once_end_one_gap(time: SimpleNamespace) -> None:
    clock = TokenClock()
    clock.submit("a")
    time.now += 1
    clock.tokens("a", 1)
    time.now += 1
    clock.tokens("a", 3)
    assert clock.measurement().itl_seconds == [1, 0, 0]


def test_throughput_is_new_tokens_over_the_time_to_the_last_of_them(time: SimpleNamespace) -> None:
    clock = TokenClock()
    for name in ("a", "b"):
        clock.submit(name)
    time.now += 2
    for name in ("a", "b"):
        clock.tokens(name, 5)
    assert clock.measurement().tokens_per_second == 5


def test_no_tokens_change_nothing() -> None:
    clock = TokenClock()
    clock.submit("a")
    clock.tokens("a", 0)
    assert clock.measurement().ttft_seconds == []


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
