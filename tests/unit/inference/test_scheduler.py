"""Scheduling without a model: who runs when."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.block_manager import BlockManager
from inference.protocol import AdapterRef, Sampling
from inference.request import Request
from inference.sampling.state import SamplingState
from inference.scheduler import Scheduler, Step


class Slots:
    """As many slots as given; adapters whose digest is in `loading` are not there yet."""

    def __init__(self, num_slots: int = 4) -> None:
        self._digests: list[str | None] = [None] * num_slots
        self._users: Counter[int] = Counter()
        self.loading: set[str] = set()
        self.forgotten: list[str] = []

    def acquire(self, ref: AdapterRef) -> int | None:
        if ref.digest in self.loading:
            return None
        free = (n for n in range(len(self._digests)) if not self._users[n])
        number = self._digests.index(ref.digest) if ref.digest in self._digests else next(free, None)
        if number is not None:
            self._digests[number] = ref.digest
            self._users[number] += 1
        return number

    def is_resident(self, ref: AdapterRef) -> bool:
        return ref.digest not in self.loading

    def release(self, slot: int) -> None:
        self._users[slot] -= 1

    def forget(self, digest: str) -> None:
        self.forgotten.append(digest)


class World:
    """A scheduler and the part of an engine that a test needs."""

    def __init__(
        self, num_blocks: int = 100, max_running: int = 8, max_step_tokens: int = 16, num_slots: int = 4
    ) -> None:
        self.blocks = BlockManager(num_blocks + 1, block_size=4)
        self.slots = Slots(num_slots)
        self.scheduler = Scheduler(self.blocks, self.slots, max_running, max_step_tokens)
        self.num_added = 0

    def add(self, num_tokens: int, adapter: str | None = None, max_tokens: int = 4) -> Request:
        request = Request(
            request_id=f"{adapter}{self.num_added}",
            token_ids=[0] * num_tokens,
            num_prompt_tokens=num_tokens,
            max_tokens=max_tokens,
            sampling=SamplingState(Sampling(), ()),
            adapter=None if adapter is None else AdapterRef(adapter, ""),
            text=None,
            probe=None,
            arrival=self.num_added,
        )
        self.num_added += 1
        self.scheduler.add(request)
        return request

    def step(self) -> dict[str, int]:
        """One step: tokens per request id. Finished requests leave."""
        step = self.scheduler.schedule()
        self.check(step)
        for entry in step.scheduled:
            request = entry.request
            request.num_computed += entry.num_tokens
            if request.num_pending == 0:
                request.token_ids.append(0)
            if request.num_answer_tokens == request.max_tokens:
                self.scheduler.remove(request)
        return {entry.request.request_id: entry.num_tokens for entry in step.scheduled}

    def check(self, step: Step) -> None:
        self.blocks.check_integrity(request.block_table for request in self.scheduler.running)
        ids = [entry.request.request_id for entry in step.scheduled]
        assert len(ids) == len(set(ids))
        for entry in step.scheduled:
            assert 0 < entry.num_tokens <= entry.request.num_pending
            end = entry.request.num_computed + entry.num_tokens
            assert len(entry.request.block_table) * self.blocks.block_size >= end


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


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from([None, "a", "b", "c"]), st.integers(1, 9)), max_size=14
    ),
    num_blocks=st.integers(10, 30),
    max_running=st.integers(1, 6),
    max_step_tokens=st.integers(1, 40),
    num_slots=st.integers(1, 3),
)
def test_every_request_finishes_and_everything_is_given_back(
    requests: list[tuple[int, str | None, int]],
    num_blocks: int,
    max_running: int,
    max_step_tokens: int,
    num_slots: int,
) -> None:
    world = World(num_blocks, max_running, max_step_tokens, num_slots)
    for num_tokens, adapter, max_tokens in requests:
        world.add(num_tokens, adapter, max_tokens)
    for _ in range(5000):
        if not world.step():
            break
    assert not world.scheduler.running
    assert world.scheduler.num_waiting == 0
    assert world.blocks.num_free == num_blocks
