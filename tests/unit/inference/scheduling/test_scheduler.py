"""Scheduling without a model: order, batching and preemption of requests."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from inference.scheduling.fair_queue import ANSWER_WEIGHT, PROMPT_WEIGHT
from inference.scheduling.scheduler import AGEING_SECONDS, PASSING_SECONDS
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


def test_adapters_take_turns() -> None:
    harness = SchedulerHarness(max_running=2)
    for _ in range(3):
        harness.add(2, "hot", max_tokens=1)
    harness.add(2, "cold", max_tokens=1)
    assert set(harness.step()) == {"hot0", "cold3"}


def test_the_base_model_does_not_wait_for_an_adapter_that_joins_after_it() -> None:
    """The payer's base-model requests are the last to leave the queue, then both wait."""
    harness = SchedulerHarness(max_running=1)
    for _ in range(20):
        harness.add(2, max_tokens=1)
        harness.step()
    for _ in range(4):
        harness.add(2, "new", max_tokens=1)
        harness.add(2, max_tokens=1)
    started = [next(iter(harness.step())).rstrip("0123456789") for _ in range(8)]
    assert started == ["new", *["new", "None"] * 3, "None"]


def test_payers_take_turns_however_many_adapters_one_of_them_uses() -> None:
    harness = SchedulerHarness(max_running=4)
    for adapter in "abcd":
        harness.add(2, adapter, payer="many", max_tokens=1)
    for _ in range(2):
        harness.add(2, "x", payer="one", max_tokens=1)
    assert set(harness.step()) == {"a0", "x4", "b1", "x5"}


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


WIDE = {f"wide{number}": 512 for number in range(20)} | {f"rank{number}": 128 for number in range(200)}


@pytest.mark.parametrize(
    ("rank", "most_rows", "least_part"), [(512, 512, 0.9), (128, 256, 0.9), (1024, 1024, 0.7)]
)
def test_wide_adapters_of_one_payer_leave_rows_and_places_to_others(
    rank: int, most_rows: int, least_part: float
) -> None:
    """Eight payers with an adapter of rank 8 each, and one that keeps wide requests with long answers
    waiting. `least_part` of the capacity goes to the others, and to each the same.
    """
    harness = SchedulerHarness(num_blocks=1000, max_running=8, num_slots=8)
    harness.slots.ranks = {str(number): rank for number in range(400)} | {
        f"v{number}": 8 for number in range(8)
    }
    unused, used = count(), []
    for _ in range(600):
        unfinished = [*harness.scheduler.running, *harness.scheduler.waiting()]
        by_payer = Counter(request.payer for request in unfinished)
        for _ in range(10 - by_payer["wide"]):
            harness.add(2, str(next(unused)), 100, "wide")
        for number in range(8):
            if not by_payer[f"v{number}"]:
                harness.add(2, f"v{number}", 4 + number, f"v{number}")
        harness.step()
        used.append(rank * sum(request.payer == "wide" for request in harness.scheduler.running))
    assert max(used) == most_rows
    others = [harness.served[f"v{number}", f"v{number}"] for number in range(8)]
    assert sum(others) >= least_part * 600 * 8 * ANSWER_WEIGHT
    assert max(others) - min(others) <= 2 * ANSWER_WEIGHT * 8 * 11


def test_a_payer_alone_uses_all_rows() -> None:
    harness = SchedulerHarness()
    harness.slots.ranks = dict(WIDE)
    for number in range(3):
        harness.add(2, f"wide{number}", 9)
    assert set(harness.step()) == {"wide00", "wide11"}


def test_a_request_over_its_payers_share_waits_for_those_before_it_and_then_runs_alone() -> None:
    harness = SchedulerHarness()
    harness.slots.ranks = WIDE | {"other": 8}
    harness.add(2, "other", 30, payer="other")
    harness.add(2, "rank0", 4)
    harness.step()
    for adapter in ("wide0", "rank1", "rank0", None):
        harness.add(2, adapter, 3)
    assert set(harness.step()) == {"other0", "rank01", "rank04", "None5"}
    while "wide02" not in (last := harness.step()):
        assert "rank13" not in last
    assert set(last) == {"other0", "wide02"}


def test_a_payer_held_back_by_its_share_saves_up_nothing() -> None:
    """Nor does a payer that starts to wait begin with what it is behind."""
    harness = SchedulerHarness()
    harness.slots.ranks = {"x": 300, "y": 300}
    for adapter in "xy":
        harness.add(2, adapter, 200, payer="wide")
    for _ in range(150):
        for payer in "pq":
            for _ in range(4):
                harness.add(2, None, 4, payer=payer)
        harness.step()
    harness.add(2, None, 4, payer="new")
    counters = harness.scheduler._queues[0]._payers._served
    assert (
        min(counters["wide"], counters["new"])
        >= min(counters["p"], counters["q"]) - 2 * ANSWER_WEIGHT * 8 * 4
    )


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


def test_a_preempted_request_is_charged_once() -> None:
    harness = SchedulerHarness(num_blocks=4)
    harness.add(8, max_tokens=8, payer="p")
    harness.add(4, max_tokens=8, payer="p")
    while harness.step():
        pass
    assert harness.scheduler.num_preemptions
    assert harness.served["p", None] == 12 * PROMPT_WEIGHT + 16 * ANSWER_WEIGHT


@settings(max_examples=20, deadline=None)
@given(
    longest=st.tuples(st.integers(1, 30), st.integers(1, 12)),
    num_requests=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    num_blocks=st.integers(12, 60),
    max_running=st.integers(1, 6),
    num_slots=st.integers(2, 3),
    data=st.data(),
)
def test_no_payer_and_no_adapter_gets_much_more_than_another(
    longest: tuple[int, int],
    num_requests: list[int],
    num_blocks: int,
    max_running: int,
    num_slots: int,
    data: st.DataObject,
) -> None:
    """All flows are continuously backlogged, some with far more requests than others. The flow served most
    was served least when it was last chosen; since then it got one prompt and its running answers.

    A step admits up to `max_running` requests, so each flow keeps that many more waiting: a flow whose queue
    runs empty rejoins at the smallest counter (Sheng et al., algorithm 2), and the bound does not cover it.
    Both adapters find a slot: nor does it cover flows that pass one that lacks a slot.
    """
    harness = SchedulerHarness(num_blocks, max_running, max_step_tokens=24, num_slots=num_slots)
    bound = PROMPT_WEIGHT * longest[0] + ANSWER_WEIGHT * max_running * longest[1]
    adapters = ("a", "b", None)
    flows = [(f"p{number}", adapter) for number in range(len(num_requests)) for adapter in adapters]
    lengths = data.draw(st.lists(st.tuples(*(st.integers(1, most) for most in longest)), min_size=1))
    turn = count()
    for _ in range(150):
        for payer, adapter in flows:
            waiting = [
                r for r in harness.scheduler.waiting() if (r.payer, r.adapter_digest) == (payer, adapter)
            ]
            for _ in range(num_requests[int(payer[1:])] + max_running - len(waiting)):
                num_tokens, max_tokens = lengths[next(turn) % len(lengths)]
                harness.add(num_tokens, adapter, max_tokens, payer)
        harness.step()
        by_payer = [
            sum(harness.served[payer, adapter] for adapter in adapters) for payer in {p for p, _ in flows}
        ]
        assert max(by_payer) - min(by_payer) <= bound
        for payer, _ in flows:
            by_adapter = [harness.served[payer, adapter] for adapter in adapters]
            assert max(by_adapter) - min(by_adapter) <= bound


@settings(max_examples=20, deadline=None)
@given(
    wide=st.lists(
        st.tuples(st.integers(1, 64), st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=6
    ),
    plain=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=6),
    max_running=st.integers(1, 6),
)
def test_no_payer_of_wide_adapters_gets_much_more_than_others(
    wide: list[tuple[int, int, int]], plain: list[tuple[int, int]], max_running: int
) -> None:
    """Two payers that use the base model, and one with adapters of any rank, keep requests waiting."""
    harness = SchedulerHarness(200, max_running, max_step_tokens=32, num_slots=6, num_rows=64)
    bound = PROMPT_WEIGHT * 20 + 2 * ANSWER_WEIGHT * max_running * 12
    turn = count()
    for _ in range(120):
        waiting = Counter(request.payer for request in harness.scheduler.waiting())
        for payer in "pqw":
            for _ in range(max_running + 1 - waiting[payer]):
                number = next(turn)
                if payer == "w":
                    rank, num_tokens, max_tokens = wide[number % len(wide)]
                    harness.slots.ranks[str(number)] = rank
                    harness.add(num_tokens, str(number), max_tokens, payer)
                else:
                    num_tokens, max_tokens = plain[number % len(plain)]
                    harness.add(num_tokens, None, max_tokens, payer)
        harness.step()
        served = harness.scheduler._queues[0]._payers._served
        assert abs(served["p"] - served["q"]) <= bound
        assert served["w"] - min(served["p"], served["q"]) <= bound


def test_idling_saves_up_nothing() -> None:
    harness = SchedulerHarness(max_running=1)
    for _ in range(50):
        harness.add(4, payer="busy", max_tokens=1)
    for _ in range(20):
        harness.step()
    for _ in range(20):
        harness.add(4, payer="late", max_tokens=1)
    before = dict(harness.served)
    for _ in range(10):
        harness.step()
    assert harness.served["late", None] == harness.served["busy", None] - before["busy", None]


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
