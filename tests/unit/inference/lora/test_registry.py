from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.errors import AdapterCorruptError, AdapterError, AdapterFileMissingError, AdapterTooLargeError
from inference.kernels.threads import set_num_threads
from inference.lora.adapter import Adapter
from inference.lora.block import reserve
from inference.lora.registry import AdapterRegistry
from inference.protocol import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 1000


class Panic(BaseException):
    """A Rust panic, which is not an `Exception`."""


class Loading:
    """A registry over fake loads that end when the test says so."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._gate = threading.Event()
        self.loaded: list[str] = []
        self.num_bytes = SIZE
        self.memory: list[weakref.ref[torch.Tensor]] = []
        self.registry = AdapterRegistry(self._load, budget_bytes, num_threads=2)

    def ref(self, name: str, size: int = SIZE) -> AdapterRef:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(bytes(size))
        return AdapterRef(name * 64, str(folder))

    def want(self, ref: AdapterRef, holder: str | None = None) -> Adapter | None:
        return self.registry.get_or_load(ref, holder or ref.digest)

    def finish(self) -> None:
        """Let all loads end and take them in."""
        self._gate.set()
        while any(load.future for load in self.registry._loads.values()):
            for load in list(self.registry._loads.values()):
                if load.future is not None:
                    load.future.exception()
            self.registry.poll()
        self._gate.clear()

    def _load(self, ref: AdapterRef, max_bytes: int, spare: list[torch.Tensor]) -> Adapter:
        assert self._gate.wait(10)
        name = Path(ref.path).name
        self.loaded.append(name)
        memory = reserve((self.num_bytes,), torch.uint8, spare)
        self.memory.append(weakref.ref(memory))
        if name == "b":
            raise AdapterCorruptError("x", "bad")
        if name == "c":
            raise Panic
        return Adapter(ref.digest, (), self.num_bytes, 0.0, memory)


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Callable[[int], Loading]]:
    made: list[Loading] = []

    def make(budget_bytes: int) -> Loading:
        made.append(Loading(tmp_path, budget_bytes))
        return made[-1]

    yield make
    for each in made:
        each._gate.set()
        each.registry.close()


def test_many_requests_for_one_digest_load_it_once(loading: Callable[[int], Loading]) -> None:
    it = loading(5 * SIZE)
    ref = it.ref("1")
    assert [it.want(ref) for _ in range(5)] == [None] * 5
    it.finish()
    assert it.want(ref) is not None
    assert it.loaded == ["1"]


def test_the_least_recently_used_makes_room(loading: Callable[[int], Loading]) -> None:
    it = loading(2 * SIZE)
    one, two, three = (it.ref(name) for name in "123")
    for ref in (one, two):
        it.want(ref)
    it.finish()
    it.want(one)
    for ref in (one, two):
        it.registry.unpin(ref.digest)
    it.want(three)
    it.finish()
    assert it.registry.resident_digests == [one.digest, three.digest]
    it.registry.check_integrity({three.digest})


def test_an_adapter_with_waiting_requests_is_not_evicted_and_the_next_load_waits(
    loading: Callable[[int], Loading],
) -> None:
    it = loading(SIZE)
    one, two = it.ref("1"), it.ref("2")
    it.want(one)
    it.finish()
    it.want(two)
    it.finish()
    assert it.loaded == ["1"]
    it.registry.unpin(one.digest)
    it.registry.poll()
    it.finish()
    assert it.registry.resident_digests == [two.digest]


def test_a_load_without_waiting_requests_is_not_started(loading: Callable[[int], Loading]) -> None:
    it = loading(SIZE)
    one, two = it.ref("1"), it.ref("2")
    it.want(one)
    it.want(two)
    it.registry.unpin(two.digest)
    it.finish()
    assert it.loaded == ["1"]
    it.registry.poll()
    it.registry.unpin(one.digest)
    assert it.want(two) is None  # queued again like a new load


def test_a_load_that_finds_no_room_evicts_nothing(loading: Callable[[int], Loading]) -> None:
    it = loading(2 * SIZE)
    pinned, idle, large = it.ref("1"), it.ref("2"), it.ref("3", size=2 * SIZE)
    it.want(pinned)
    it.want(idle)
    it.finish()
    it.registry.unpin(idle.digest)
    it.want(large)
    it.registry.poll()
    assert it.registry.resident_digests == [pinned.digest, idle.digest]


def test_a_small_load_does_not_overtake_one_that_waits_for_room(loading: Callable[[int], Loading]) -> None:
    it = loading(2 * SIZE)
    pinned, large, small = it.ref("1"), it.ref("2", size=2 * SIZE), it.ref("3")
    it.want(pinned)
    it.finish()
    it.want(large)
    it.want(small)
    it.finish()
    assert it.loaded == ["1"]
    it.registry.unpin(pinned.digest)
    it.registry.poll()
    it.finish()
    assert it.loaded[1] == "2"


def test_failures_are_reported_once_and_can_be_tried_again(loading: Callable[[int], Loading]) -> None:
    it = loading(5 * SIZE)
    bad = it.ref("b")
    for _ in range(2):
        it.want(bad)
        it.finish()
        ((ref, error),) = it.registry.pop_failures()
        assert (ref, type(error)) == (bad, AdapterCorruptError)
    assert it.registry.pop_failures() == []


def test_an_unforeseen_error_of_a_load_is_the_adapters_own(loading: Callable[[int], Loading]) -> None:
    it = loading(5 * SIZE)
    it.want(it.ref("c"))
    it.finish()
    ((_, error),) = it.registry.pop_failures()
    assert type(error) is AdapterError


@pytest.mark.parametrize("name", ["b", "c"])
def test_the_memory_of_a_refused_adapter_is_freed_at_once(
    loading: Callable[[int], Loading], without_garbage_collection: None, name: str
) -> None:
    """Even while its error waits for a client, which may take long to read it."""
    it = loading(5 * SIZE)
    it.want(it.ref(name))
    it.finish()
    failures = it.registry.pop_failures()
    assert len(failures) == 1
    assert [memory() for memory in it.memory] == [None]


def test_an_adapter_larger_than_the_budget_or_not_there_is_refused(
    loading: Callable[[int], Loading],
) -> None:
    it = loading(SIZE)
    it.want(it.ref("1", size=SIZE + 1))
    it.want(AdapterRef("f" * 64, "/nowhere"))
    kinds = [type(error) for _, error in it.registry.pop_failures()]
    assert kinds == [AdapterTooLargeError, AdapterFileMissingError]
    assert it.loaded == []


def test_a_load_that_turns_out_larger_than_its_file_waits_for_the_room_it_needs(
    loading: Callable[[int], Loading],
) -> None:
    it = loading(3 * SIZE)
    pinned, grown = it.ref("1"), it.ref("2")
    it.want(pinned)
    it.finish()
    it.num_bytes = int(2.5 * SIZE)
    it.want(grown)
    it.finish()
    assert it.registry.resident_digests == [pinned.digest]
    it.registry.check_integrity({pinned.digest, grown.digest})
    it.registry.unpin(pinned.digest)
    it.registry.poll()
    it.finish()
    assert it.registry.resident_digests == [grown.digest]


def test_the_oldest_holder_evicts_adapters_of_younger_ones(loading: Callable[[int], Loading]) -> None:
    """Two holders need two adapters each, and have one each; there is room for two."""
    it = loading(2 * SIZE)
    one, two, three, four = (it.ref(name) for name in "1234")
    it.want(one, holder="old")
    it.want(three, holder="young")
    it.finish()
    it.want(two, holder="old")
    it.want(four, holder="young")
    it.finish()
    assert set(it.registry.resident_digests) == {one.digest, two.digest}
    it.registry.unpin("old")
    for _ in range(2):
        it.want(three, holder="young")
        it.want(four, holder="young")
        it.finish()
    assert set(it.registry.resident_digests) == {three.digest, four.digest}


def test_an_adapter_that_two_want_stays_until_both_have_let_go(loading: Callable[[int], Loading]) -> None:
    it = loading(SIZE)
    shared, other = it.ref("1"), it.ref("2")
    it.want(shared, holder="a")
    it.want(shared, holder="b")
    it.finish()
    it.registry.unpin("a")
    it.want(other)
    it.finish()
    assert it.registry.resident_digests == [shared.digest]
    it.registry.unpin("b")
    it.registry.poll()
    it.finish()
    assert it.registry.resident_digests == [other.digest]


def test_use_on_the_device_refreshes_the_adapter_on_the_host(loading: Callable[[int], Loading]) -> None:
    it = loading(2 * SIZE)
    hot, idle, new = (it.ref(name) for name in "123")
    for ref in (hot, idle):
        it.want(ref)
        it.finish()
        it.registry.unpin(ref.digest)
    it.registry.touch(hot.digest)
    it.want(new)
    it.finish()
    assert it.registry.resident_digests == [hot.digest, new.digest]


def test_a_path_that_no_file_system_knows_is_its_adapters_own_error(
    loading: Callable[[int], Loading],
) -> None:
    it = loading(SIZE)
    it.want(AdapterRef("f" * 64, "/zero\0byte"))
    ((_, error),) = it.registry.pop_failures()
    assert isinstance(error, AdapterFileMissingError)


def test_a_load_is_given_the_memory_of_what_was_evicted_for_it(loading: Callable[[int], Loading]) -> None:
    it = loading(2 * SIZE)
    kept, evicted, new = it.ref("1"), it.ref("2"), it.ref("3")
    places = {}
    for ref in (evicted, kept, new):
        it.want(ref)
        it.finish()
        adapter = it.want(ref)
        assert adapter is not None
        assert adapter.memory is not None
        places[ref] = adapter.memory.data_ptr()
        it.registry.unpin(ref.digest)
    assert places[new] == places[evicted] != places[kept]


def test_memory_of_another_size_is_given_back(loading: Callable[[int], Loading]) -> None:
    it = loading(2 * SIZE)
    it.want(it.ref("1"))
    it.finish()
    evicted = it.want(it.ref("1"))
    assert evicted is not None
    assert evicted.memory is not None
    memory = weakref.ref(evicted.memory)
    del evicted
    it.registry.unpin(it.ref("1").digest)
    it.num_bytes = 2 * SIZE
    it.want(it.ref("2", size=2 * SIZE))
    it.finish()
    assert it.registry.resident_bytes == 2 * SIZE
    assert memory() is None


def test_a_load_computes_alone_and_leaves_the_step_its_threads(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []

    def load(ref: AdapterRef, _: int, spare: list[torch.Tensor]) -> Adapter:
        seen.append(torch.get_num_threads())
        return Adapter(ref.digest, (), SIZE, 0.0)

    set_num_threads(3)
    try:
        registry = AdapterRegistry(load, SIZE, num_threads=1)
        (tmp_path / "adapter_model.safetensors").touch()
        registry.get_or_load(AdapterRef("1" * 64, str(tmp_path)), "1")
        registry.close()
        assert [*seen, torch.get_num_threads()] == [1, 3]
    finally:
        set_num_threads(before)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    operations=st.lists(
        st.tuples(st.sampled_from(["want", "forget", "finish"]), st.integers(1, 6), st.integers(1, 3))
    )
)
def test_the_sums_always_equal_those_of_their_parts(
    operations: list[tuple[str, int, int]], loading: Callable[[int], Loading]
) -> None:
    """Sizes differ, and an adapter may turn out larger than its file, or be refused."""
    it = loading(5 * SIZE)
    for operation, number, holder in operations:
        if operation == "want":
            it.want(it.ref("123b45"[number - 1], size=SIZE * (1 + number % 3)), str(holder))
        elif operation == "forget":
            it.registry.unpin(str(holder))
        else:
            it.num_bytes = SIZE * holder
            it.finish()
        it.registry.check_integrity({"1", "2", "3"})
