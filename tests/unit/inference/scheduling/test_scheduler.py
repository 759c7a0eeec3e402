"""Scheduling without a model: batches, loading adapters and preemption, and any order of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from inference.scheduling.fair_queue import PROMPT_WEIGHT
from inference.scheduling.scheduler import PASSING_SECONDS
from tests.support.scheduling import SchedulerHarness

if TYPE_CHECKING:
    from inference.request import Request


def test_decodes_come_before_prefills_and_long_prompts_are_chunked() -> None:
    harness = SchedulerHarness(max_step_tokens=10)
    harness.add(4)
    assert harness.step() == {"None0": 4}
    harness.add(25)
    assert [harness.step() for _ in range(3)] == [{"None0": 1, "None1": 9}] * 2 + [{"None0": 1, "None1": 7}]


def test_requests_with_one_long_prompt_that_arrive_together_compute_it_once() -> None:
    """The others start once the first one has computed it, and not next to it."""
    harness = SchedulerHarness(max_step_tokens=16)
    for _ in range(4):
        harness.add(64, token=7, max_tokens=1)
    assert [harness.step() for _ in range(4)] == [{"None0": 16}] * 4
    assert harness.step() == {"None1": 4, "None2": 4, "None3": 4}


def test_a_loading_adapter_does_not_delay_other_requests() -> None:
    harness = SchedulerHarness(num_slots=1)
    harness.slots.loading.add("slow")
    harness.add(2, "slow")
    harness.add(2, "fast")
    assert set(harness.step()) == {"fast1"}
    harness.slots.loading.clear()
    while "fast1" in (last := harness.step()):
        pass
    assert set(last) == {"slow0"}


def test_refused_requests_hold_back_no_other_and_count_as_served() -> None:
    harness = SchedulerHarness(max_running=4)
    harness.slots.invocations["activated"] = (7,)
    for _ in range(3):
        harness.add(5, "activated", payer="flood")
    harness.add(2, payer="other")
    assert harness.step() == {"None3": 2}
    for _ in range(5):
        harness.step()
    assert harness.num_refused == 3
    assert harness.scheduler._queues[0]._payers._served["flood"] == 3 * 5 * PROMPT_WEIGHT


def test_a_request_without_a_slot_holds_back_those_that_would_take_one() -> None:
    """Others pass: of the base model, and for some time those whose adapters are in use."""
    harness = SchedulerHarness(num_slots=1)
    harness.add(2, "a", max_tokens=6)
    harness.step()
    for adapter in ("b", "c", "a", None):
        harness.add(2, adapter, max_tokens=3)
    assert set(harness.step()) == {"a0", "a3", "None4"}
    harness.now += PASSING_SECONDS
    for adapter in ("a", None):
        harness.add(2, adapter, max_tokens=3)
    assert set(harness.step()) == {"a0", "a3", "None4", "None6"}
    while "a0" in (last := harness.step()):
        pass
    assert set(last) == {"b1"}


def test_adapters_of_queued_requests_are_loaded_while_the_batch_is_full() -> None:
    """Adapters are prefetched in turns over the payers, for a limited number of waiting requests."""
    harness = SchedulerHarness(max_running=1)
    harness.add(2, max_tokens=9)
    harness.slots.loading.update("abcdefghijklmnopqrst")
    for adapter in "abcdefghijklmnopqrs":
        harness.add(2, adapter, payer="many")
    harness.add(2, "t", payer="one")
    harness.step()
    assert harness.slots.wanted == ["a", "t", *"bcdefghijklmno"]


def test_the_youngest_is_preempted_and_goes_to_the_front_of_the_queue() -> None:
    harness = SchedulerHarness(num_blocks=4)
    harness.add(8, max_tokens=8)
    harness.add(4, max_tokens=8)
    harness.step()
    harness.add(1)
    while not harness.scheduler.num_preemptions:
        harness.step()
    assert [request.request_id for request in harness.scheduler.running] == ["None0"]
    assert [request.request_id for request in harness.scheduler.waiting()] == ["None1", "None2"]


def test_an_adapter_is_forgotten_when_its_last_waiting_request_leaves() -> None:
    harness = SchedulerHarness(max_running=1)
    running, waiting = harness.add(2, "a"), harness.add(2, "b")
    harness.step()
    assert harness.slots.forgotten == ["a"]
    harness.scheduler.remove(waiting)
    harness.scheduler.remove(running)
    assert harness.slots.forgotten == ["a", "b"]
    assert harness.step() == {}


class Scheduling(RuleBasedStateMachine):
    """Arrivals with common prefixes, aborts, loads that end, steps that finish and preempt, in any order."""

    @initialize(
        num_blocks=st.integers(8, 30),
        max_running=st.integers(1, 6),
        max_step_tokens=st.integers(1, 40),
        num_slots=st.integers(1, 3),
    )
    def begin(self, num_blocks: int, max_running: int, max_step_tokens: int, num_slots: int) -> None:
        self.harness = SchedulerHarness(num_blocks, max_running, max_step_tokens, num_slots, num_rows=16)
        self.harness.slots.ranks = {"a": 1, "b": 6, "c": 16}
        self.requests: list[Request] = []

    @rule(
        num_tokens=st.integers(1, 22),
        adapter=st.sampled_from([None, "a", "b", "c"]),
        max_tokens=st.integers(1, 9),
        payer=st.sampled_from("pq"),
        priority=st.integers(-1, 1),
        token=st.integers(0, 1),
    )
    def arrive(self, **request: Any) -> None:
        self.requests.append(self.harness.add(**request))

    @rule(adapter=st.sampled_from("abc"))
    def begin_to_load(self, adapter: str) -> None:
        self.harness.slots.loading.add(adapter)

    @rule()
    def load(self) -> None:
        self.harness.slots.loading.clear()

    @rule(num_steps=st.integers(1, 6), seconds=st.sampled_from([0, 40]))
    def step(self, num_steps: int, seconds: int) -> None:
        self.harness.now += seconds
        for _ in range(num_steps):
            self.harness.step()

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        left = [*self.harness.scheduler.running, *self.harness.scheduler.waiting()]
        if left:
            self.harness.scheduler.remove(data.draw(st.sampled_from(left)))

    @rule(data=st.data())
    def overflow(self, data: st.DataObject) -> None:
        """A running request fails, and its blocks must not be shared."""
        if self.harness.scheduler.running:
            request = data.draw(st.sampled_from(self.harness.scheduler.running))
            self.harness.scheduler.remove(request)
            self.harness.blocks.forget(request.block_names)

    @invariant()
    def is_sound(self) -> None:
        if hasattr(self, "harness"):
            self.harness.check()

    def teardown(self) -> None:
        """In any state, all remaining requests finish and everything is released."""
        if not hasattr(self, "harness"):
            return
        self.harness.slots.loading.clear()
        for _ in range(3000):
            self.harness.now += 1
            if not self.harness.step():
                break
        assert not self.harness.scheduler.running
        assert self.harness.scheduler.num_waiting == self.harness.scheduler._queue_limits.num_tokens == 0
        assert self.harness.blocks.num_free == self.harness.blocks.num_blocks


Scheduling.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


TestScheduling = Scheduling.TestCase
