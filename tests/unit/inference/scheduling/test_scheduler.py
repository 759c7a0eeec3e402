"""Scheduling without a model: who runs when."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from inference.scheduling.fair_queue import ANSWER_WEIGHT, PROMPT_WEIGHT
from inference.scheduling.scheduler import AGEING_SECONDS
from tests.support.scheduling import World

if TYPE_CHECKING:
    from inference.request import Request


def test_decodes_come_before_prefills_and_long_prompts_are_chunked() -> None:
    world = World(max_step_tokens=10)
    world.add(4)
    assert world.step() == {"None0": 4}
    world.add(25)
    assert [world.step() for _ in range(3)] == [{"None0": 1, "None1": 9}] * 2 + [{"None0": 1, "None1": 7}]


def test_adapters_take_turns() -> None:
    world = World(max_running=2)
    for _ in range(3):
        world.add(2, "hot", max_tokens=1)
    world.add(2, "cold", max_tokens=1)
    assert set(world.step()) == {"hot0", "cold3"}


def test_payers_take_turns_however_many_adapters_one_of_them_uses() -> None:
    world = World(max_running=4)
    for adapter in "abcd":
        world.add(2, adapter, payer="many", max_tokens=1)
    for _ in range(2):
        world.add(2, "x", payer="one", max_tokens=1)
    assert set(world.step()) == {"a0", "x4", "b1", "x5"}


def test_a_loading_adapter_holds_nobody_up() -> None:
    world = World(num_slots=1)
    world.slots.loading.add("slow")
    world.add(2, "slow")
    world.add(2, "fast")
    assert set(world.step()) == {"fast1"}
    world.slots.loading.clear()
    while "fast1" in (last := world.step()):
        pass
    assert set(last) == {"slow0"}


def test_an_adapter_without_a_slot_holds_back_later_arrivals() -> None:
    world = World(num_slots=1)
    world.add(2, "a", max_tokens=3)
    world.step()
    world.add(2, "b")
    world.add(2, "a")
    seen = [set(world.step()) for _ in range(3)]
    assert seen == [{"a0"}, {"a0"}, {"b1"}]


def test_the_next_ones_in_line_are_loaded_while_every_place_is_taken() -> None:
    """In turns over the payers, and not for everybody who waits."""
    world = World(max_running=1)
    world.add(2, max_tokens=9)
    world.slots.loading.update("abcdefghijklmnopqrst")
    for adapter in "abcdefghijklmnopqrs":
        world.add(2, adapter, payer="many")
    world.add(2, "t", payer="one")
    world.step()
    assert world.slots.wanted == ["a", "t", *"bcdefghijklmno"]


def test_the_youngest_is_preempted_and_goes_to_the_front_of_the_line() -> None:
    world = World(num_blocks=4)
    world.add(8, max_tokens=8)
    world.add(4, max_tokens=8)
    world.step()
    world.add(1)
    while not world.scheduler.num_preemptions:
        world.step()
    assert [request.request_id for request in world.scheduler.running] == ["None0"]
    assert [request.request_id for request in world.scheduler.waiting()] == ["None1", "None2"]


def test_an_adapter_is_forgotten_when_its_last_waiting_request_leaves() -> None:
    world = World(max_running=1)
    running, waiting = world.add(2, "a"), world.add(2, "b")
    world.step()
    assert world.slots.forgotten == ["a"]
    world.scheduler.remove(waiting)
    world.scheduler.remove(running)
    assert world.slots.forgotten == ["a", "b"]
    assert world.step() == {}


def test_a_higher_class_goes_first() -> None:
    world = World(max_running=1)
    world.add(2, "later", priority=-1, max_tokens=1)
    world.add(2, "soon", max_tokens=1)
    world.add(2, "now", priority=1, max_tokens=1)
    assert [list(world.step()) for _ in range(3)] == [["now2"], ["soon1"], ["later0"]]


def test_a_lower_class_is_preempted_first() -> None:
    world = World(num_blocks=5)
    world.add(4, "background", max_tokens=9, priority=-1)
    world.add(4, "normal", max_tokens=9)
    while not world.scheduler.num_preemptions:
        world.step()
    assert [request.request_id for request in world.scheduler.running] == ["normal1"]


def test_who_has_waited_long_moves_up_a_class() -> None:
    """Urgent requests without an end: from the lowest class it takes two ages to be served."""
    world = World(max_running=1)
    background = world.add(2, "background", priority=-1, max_tokens=1)
    for _ in count():
        world.add(2, "urgent", priority=1, max_tokens=1)
        world.now += 1
        if "background0" in world.step():
            break
    assert 2 * AGEING_SECONDS <= world.now <= 2 * AGEING_SECONDS + 10
    assert background.queue_seconds == world.now


def test_a_preempted_request_is_charged_once() -> None:
    world = World(num_blocks=4)
    world.add(8, max_tokens=8, payer="p")
    world.add(4, max_tokens=8, payer="p")
    while world.step():
        pass
    assert world.scheduler.num_preemptions
    assert world.served["p", None] == 12 * PROMPT_WEIGHT + 16 * ANSWER_WEIGHT


@settings(max_examples=20, deadline=None)
@given(
    longest=st.tuples(st.integers(1, 30), st.integers(1, 12)),
    num_requests=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    num_blocks=st.integers(12, 60),
    max_running=st.integers(1, 6),
    num_slots=st.integers(1, 3),
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
    """All of them always have requests waiting, one far more than the other. Who was served most was, when it
    was last chosen, served least; since then it has had one prompt, and the answers of what was running.
    """
    world = World(num_blocks, max_running, max_step_tokens=24, num_slots=num_slots)
    bound = PROMPT_WEIGHT * longest[0] + ANSWER_WEIGHT * max_running * longest[1]
    flows = [(f"p{number}", adapter) for number in range(len(num_requests)) for adapter in "ab"]
    lengths = data.draw(st.lists(st.tuples(*(st.integers(1, most) for most in longest)), min_size=1))
    turn = count()
    for _ in range(150):
        for payer, adapter in flows:
            waiting = [
                r for r in world.scheduler.waiting() if (r.payer, r.adapter_digest) == (payer, adapter)
            ]
            for _ in range(num_requests[int(payer[1:])] - len(waiting)):
                num_tokens, max_tokens = lengths[next(turn) % len(lengths)]
                world.add(num_tokens, adapter, max_tokens, payer)
        world.step()
        by_payer = [sum(world.served[payer, adapter] for adapter in "ab") for payer in {p for p, _ in flows}]
        assert max(by_payer) - min(by_payer) <= bound
        for payer, _ in flows:
            assert abs(world.served[payer, "a"] - world.served[payer, "b"]) <= bound


def test_idling_saves_up_nothing() -> None:
    world = World(max_running=1)
    for _ in range(50):
        world.add(4, payer="busy", max_tokens=1)
    for _ in range(20):
        world.step()
    for _ in range(20):
        world.add(4, payer="late", max_tokens=1)
    before = dict(world.served)
    for _ in range(10):
        world.step()
    assert world.served["late", None] == world.served["busy", None] - before["busy", None]


class Scheduling(RuleBasedStateMachine):
    """Arrivals with common prefixes, aborts, loads that end, steps that finish and preempt, in any order."""

    @initialize(
        num_blocks=st.integers(8, 30),
        max_running=st.integers(1, 6),
        max_step_tokens=st.integers(1, 40),
        num_slots=st.integers(1, 3),
    )
    def begin(self, num_blocks: int, max_running: int, max_step_tokens: int, num_slots: int) -> None:
        self.world = World(num_blocks, max_running, max_step_tokens, num_slots)
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
        self.requests.append(self.world.add(**request))

    @rule(adapter=st.sampled_from("abc"))
    def begin_to_load(self, adapter: str) -> None:
        self.world.slots.loading.add(adapter)

    @rule()
    def load(self) -> None:
        self.world.slots.loading.clear()

    @rule(num_steps=st.integers(1, 6), seconds=st.sampled_from([0, 40]))
    def step(self, num_steps: int, seconds: int) -> None:
        self.world.now += seconds
        for _ in range(num_steps):
            self.world.step()

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        left = [*self.world.scheduler.running, *self.world.scheduler.waiting()]
        if left:
            self.world.scheduler.remove(data.draw(st.sampled_from(left)))

    @rule(data=st.data())
    def overflow(self, data: st.DataObject) -> None:
        """A running request fails, and its blocks must not be shared."""
        if self.world.scheduler.running:
            request = data.draw(st.sampled_from(self.world.scheduler.running))
            self.world.scheduler.remove(request)
            self.world.blocks.forget(request.block_names)

    @invariant()
    def is_sound(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """In any state, all remaining requests finish and everything is released."""
        if not hasattr(self, "world"):
            return
        self.world.slots.loading.clear()
        for _ in range(3000):
            if not self.world.step():
                break
        assert not self.world.scheduler.running
        assert self.world.scheduler.num_waiting == self.world.scheduler._queue_limits.num_tokens == 0
        assert self.world.blocks.num_free == self.world.blocks.num_blocks


Scheduling.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestScheduling = Scheduling.TestCase
