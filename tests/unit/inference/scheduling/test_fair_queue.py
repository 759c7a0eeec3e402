from __future__ import annotations

import pytest

from inference.scheduling import fair_queue
from inference.scheduling.fair_queue import TokenCounters
from tests.support.scheduling import SchedulerHarness


def test_a_new_payer_starts_at_the_lowest_counter_of_the_waiting() -> None:
    counters = TokenCounters[str]()
    for key in "ab":
        counters.join(key)
    counters.charge("a", 10)
    counters.charge("b", 4)
    counters.join("new")
    assert counters.fairest() == ["b", "new", "a"]
    counters.charge("new", 1)
    assert counters.fairest() == ["b", "new", "a"]


@pytest.mark.parametrize("last", ["a", None])
def test_a_key_that_joins_an_empty_queue_starts_at_the_last_counter(last: str | None) -> None:
    """None is a key like any other: the base model's among the adapters of a payer."""
    counters = TokenCounters[str | None]()
    counters.join(last)
    counters.leave(last)
    counters.charge(last, 10)
    counters.prune()
    counters.join("new")
    counters.join(last)
    assert counters.fairest() == ["new", last]
    counters.charge("new", 1)
    assert counters.fairest() == [last, "new"]


def test_debts_are_remembered_only_as_far_as_they_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "_MAX_IDLE_KEYS", 2)
    counters = TokenCounters[str]()
    counters.join("waits")
    counters.charge("waits", 5)
    for debt, key in enumerate(["none", "small", "middle", "large"]):
        counters.charge(key, debt)  # on top of the five at which it starts
    counters.prune()
    assert [key in counters for key in ("waits", "none", "small", "middle", "large")] == [
        True,
        False,
        False,
        True,
        True,
    ]


def test_a_queue_forgets_payers_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "_PUSHES_PER_PRUNING", 8)
    monkeypatch.setattr(fair_queue, "_MAX_IDLE_KEYS", 4)
    harness = SchedulerHarness(max_running=1)
    for number in range(80):
        harness.add(1, payer=str(number), max_tokens=1)
        harness.step()
    queue = harness.scheduler._queues[0]
    assert len(queue._adapters) <= len(queue._payers._served) <= 4 + 8
