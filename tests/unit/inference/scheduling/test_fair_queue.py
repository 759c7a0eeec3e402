from __future__ import annotations

import pytest

from inference.scheduling import fair_queue
from inference.scheduling.fair_queue import TokenCounters
from tests.support.scheduling import SchedulerHarness


@pytest.mark.parametrize("last", ["b", None])
def test_a_new_key_starts_at_the_counter_of_the_key_that_was_served_last(last: str | None) -> None:
    """None is a key like any other: the base model's among the adapters of a payer."""
    counters = TokenCounters[str | None]()
    for key in ("a", last):
        counters.join(key)
    counters.charge("a", 10)
    counters.charge(last, 4)
    counters.serve(last)
    counters.charge(last, 1)
    counters.join("new")
    assert counters.fairest() == ["new", last, "a"]
    counters.charge("new", 2)
    assert counters.fairest() == [last, "new", "a"]


@pytest.mark.parametrize("last", ["a", None])
def test_waiting_alone_neither_saves_up_nor_remits(last: str | None) -> None:
    counters = TokenCounters[str | None]()
    for key in (last, "other"):
        counters.join(key)
        counters.serve(key)
        counters.leave(key)
    counters.charge(last, 10)
    counters.prune()
    counters.join(last)
    counters.join("other")
    assert counters.fairest() == ["other", last]
    counters.serve(last)
    counters.leave("other")
    counters.join("other")
    counters.charge(last, 1)
    assert counters.fairest() == ["other", last]
    counters.charge("other", 2)
    assert counters.fairest() == [last, "other"]


def test_debts_are_remembered_only_as_far_as_they_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "_MAX_IDLE_KEYS", 2)
    counters = TokenCounters[str]()
    counters.join("waits")
    counters.charge("waits", 5)
    counters.serve("waits")
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
