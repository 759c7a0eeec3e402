"""Classes of priority, and requests that move up because they waited long."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.scheduling.scheduler import AGEING_SECONDS
from tests.support.scheduling import SchedulerHarness


def test_a_higher_class_goes_first() -> None:
    harness = SchedulerHarness(max_running=1)
    harness.add(2, "later", priority=-1, max_tokens=1)
    harness.add(2, "soon", max_tokens=1)
    harness.add(2, "now", priority=1, max_tokens=1)
    assert [list(harness.step()) for _ in range(3)] == [["now2"], ["soon1"], ["later0"]]


def test_a_lower_class_is_preempted_first() -> None:
    harness = SchedulerHarness(num_blocks=5)
    harness.add(4, "background", max_tokens=9, priority=-1)
    harness.add(4, "normal", max_tokens=9)
    while not harness.scheduler.num_preemptions:
        harness.step()
    assert [request.request_id for request in harness.scheduler.running] == ["normal1"]


def test_a_request_that_waited_long_moves_up_a_class() -> None:
    """Urgent requests without an end: from the lowest class it takes two ages to be served."""
    harness = SchedulerHarness(max_running=1)
    background = harness.add(2, "background", priority=-1, max_tokens=1)
    for _ in count():
        harness.add(2, "urgent", priority=1, max_tokens=1)
        harness.now += 1
        if "background0" in harness.step():
            break
    assert 2 * AGEING_SECONDS <= harness.now <= 2 * AGEING_SECONDS + 10
    assert background.queue_seconds == harness.now


@pytest.mark.parametrize("priority", [-1, 0])
def test_a_backlog_that_ages_does_not_overtake_other_payers(priority: int) -> None:
    """Two requests a second, and a payer that keeps 1,000 of them waiting."""
    harness = SchedulerHarness(max_running=1)
    num_waiting, late = 0, []
    for second in range(200):
        for _ in range(1000 - num_waiting):
            harness.add(1, payer="backlog", max_tokens=1, priority=priority)
        if second >= 100 and second % 5 == 0:
            late.append(harness.add(1, payer="late", max_tokens=1, priority=priority))
        for _ in range(2):
            harness.now += 0.5
            harness.step()
        num_waiting = harness.scheduler.num_waiting
    assert max(request.queue_seconds for request in late) <= 1


def test_aged_requests_take_turns_with_the_payers_of_the_class_that_they_join() -> None:
    harness = SchedulerHarness(max_running=1)
    for _ in range(100):
        harness.add(2, "many", payer="many", priority=-1, max_tokens=1)
    harness.add(2, "one", payer="one", priority=-1, max_tokens=1)
    started = []
    for _ in range(int(AGEING_SECONDS) + 8):
        harness.add(2, "default", payer="default", max_tokens=1)
        harness.now += 1
        started += [name.rstrip("0123456789") for name in harness.step()]
    assert started[: int(AGEING_SECONDS) - 1] == ["default"] * (int(AGEING_SECONDS) - 1)
    assert sorted(started[int(AGEING_SECONDS) - 1 :]) == ["default"] * 4 + ["many"] * 4 + ["one"]


def test_an_aged_request_is_preempted_like_others_of_its_class() -> None:
    harness = SchedulerHarness(num_blocks=5, max_running=2)
    for _ in range(2):
        harness.add(1, max_tokens=2)
    harness.step()
    background = harness.add(4, "background", max_tokens=9, priority=-1)
    harness.now += AGEING_SECONDS
    harness.step()
    harness.add(4, "default", max_tokens=9)
    while not harness.scheduler.num_preemptions:
        assert harness.step()
    assert background.aged_priority == 0
    assert [request.request_id for request in harness.scheduler.running] == ["default3"]


@settings(max_examples=40, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(
            st.sampled_from(["p", "q", "r"]),
            st.sampled_from([None, "a", "b"]),
            st.integers(1, 12),
            st.integers(1, 5),
            st.integers(0, 25),
        ),
        min_size=1,
        max_size=40,
    ),
    priority=st.integers(-1, 1),
    max_running=st.integers(1, 3),
)
def test_ageing_changes_no_order_within_a_class(
    arrivals: list[tuple[str, str | None, int, int, int]], priority: int, max_running: int
) -> None:
    def steps(seconds: int) -> list[dict[str, int]]:
        harness, seen = SchedulerHarness(max_running=max_running), []
        for payer, adapter, num_tokens, max_tokens, pause in arrivals:
            harness.add(num_tokens, adapter, max_tokens, payer, priority)
            harness.now += pause * seconds
            if pause % 3 == 0:
                seen.append(harness.step())
        while step := harness.step():
            harness.now += seconds
            seen.append(step)
        return seen

    assert steps(seconds=3) == steps(seconds=0)


@settings(max_examples=15, deadline=None)
@given(
    streams=st.lists(
        st.tuples(st.sampled_from("pqr"), st.sampled_from([None, "a"]), st.integers(0, 1)),
        min_size=1,
        max_size=4,
    ),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    adapter=st.sampled_from([None, "a", "b"]),
    payer=st.sampled_from("pqrs"),
)
def test_no_class_starves(
    streams: list[tuple[str, str | None, int]], lengths: list[int], adapter: str | None, payer: str
) -> None:
    """Streams of higher classes without an end, each with several requests waiting."""
    harness = SchedulerHarness(max_running=2)
    turn = count()

    def refill() -> None:
        waiting = Counter((r.payer, r.adapter_digest, r.priority) for r in harness.scheduler.waiting())
        for stream in set(streams):
            for _ in range(4 - waiting[stream]):
                length = lengths[next(turn) % len(lengths)]
                harness.add(length, stream[1], length, stream[0], stream[2])

    refill()
    request = harness.add(3, adapter, 3, payer, priority=-1)
    while request not in harness.scheduler.running:
        assert harness.now <= 2 * AGEING_SECONDS + 60
        harness.now += 1
        harness.step()
        refill()
