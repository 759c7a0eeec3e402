"""Host cache of adapters, by digest: a byte budget, LRU, pins, one load at a time per digest.

All methods run on the engine's thread; only reading, hashing and validating a folder happens on loader
threads, so no step ever waits for a load.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import AdapterError, AdapterFileMissingError, AdapterTooLargeError
from inference.lora.files import WEIGHTS_FILE
from inference.lora.pins import Pins
from inference.threads import compute_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.protocol import AdapterRef

LOADER_THREADS = "adapter-loader"  # what their names begin with


@dataclass(slots=True)
class _Load:
    """A load in progress, its `num_bytes` reserved; `future` is None while it waits for room."""

    ref: AdapterRef
    file_bytes: int
    num_bytes: int
    future: Future[Adapter] | None = None


class AdapterRegistry:
    """`want` an adapter again and again until it is returned or `take_failures` says why not; `forget` who
    wanted it as soon as it may leave the cache.
    """

    def __init__(
        self,
        load: Callable[[AdapterRef, int, list[Tensor]], Adapter],
        budget_bytes: int,
        num_threads: int,
        bytes_per_stored_byte: float = 1.0,
        max_load_bytes: int | None = None,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """`load` is given the largest weights file that it may read, and the memory of what was evicted for
        it, which it takes or gives back. `bytes_per_stored_byte` says how much larger an adapter is in memory
        than its file; none may need more than `max_load_bytes`. `on_loaded` is called on a loader thread
        whenever a load has ended.
        """
        self._load = load
        self._budget_bytes = budget_bytes
        self._growth = bytes_per_stored_byte
        self._max_load_bytes = budget_bytes if max_load_bytes is None else min(budget_bytes, max_load_bytes)
        self._on_loaded = on_loaded
        # A loader computes alone: threads that helped it would take the step's place on the cores, and spin
        # there for more work.
        self._pool = ThreadPoolExecutor(num_threads, LOADER_THREADS, compute_with, (1,))
        self._resident: OrderedDict[str, Adapter] = OrderedDict()  # least recently used first
        self.resident_bytes = 0
        self.num_loads = 0
        self._reserved_bytes = 0  # of the loads that were started
        self._pins = Pins()
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        self._failures: list[tuple[AdapterRef, AdapterError]] = []

    @property
    def resident_digests(self) -> list[str]:
        return list(self._resident)

    def is_resident(self, digest: str) -> bool:
        return digest in self._resident

    def want(self, ref: AdapterRef, holder: str) -> Adapter | None:
        """The adapter, if resident; else None, and a load is under way. Pins it for `holder`."""
        self._pins.add(ref.digest, holder)
        adapter = self._resident.get(ref.digest)
        if adapter is not None:
            self.touch(ref.digest)
        elif ref.digest not in self._loads:
            self._enqueue(ref)
        return adapter

    def can_hold(self, digests: Iterable[str]) -> bool:
        """Whether all of these, resident or being loaded, fit into the budget together."""
        return sum(map(self._num_bytes, digests)) <= self._budget_bytes

    def touch(self, digest: str) -> None:
        """It was used, here or on the device: let others leave the cache first."""
        if digest in self._resident:
            self._resident.move_to_end(digest)

    def forget(self, holder: str) -> None:
        """What only `holder` wanted may be evicted."""
        self._pins.drop(holder)

    def collect(self) -> None:
        """Take in finished loads and start those that room has been found for."""
        for digest, load in list(self._loads.items()):
            if load.future is not None and load.future.done():
                del self._loads[digest]
                self._reserved_bytes -= load.num_bytes
                self._finish(load, load.future)
            elif load.future is None and self._pins.age(digest) == math.inf:
                del self._loads[digest]
        self._start_loads()

    def take_failures(self) -> list[tuple[AdapterRef, AdapterError]]:
        failures, self._failures = self._failures, []
        return failures

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check_integrity(self, waiting_digests: set[str]) -> None:
        """Raises `AssertionError` when over budget, when a sum is not of its parts, or when a pin outlives
        those who wanted it.
        """
        resident = sum(adapter.num_bytes for adapter in self._resident.values())
        reserved = sum(load.num_bytes for load in self._loads.values() if load.future is not None)
        if (resident, reserved) != (self.resident_bytes, self._reserved_bytes):
            counted = f"{self.resident_bytes} resident and {self._reserved_bytes} reserved"
            raise AssertionError(f"{counted} bytes were counted, there are {resident} and {reserved}")
        if resident + reserved > self._budget_bytes:
            raise AssertionError(f"adapters take {self.resident_bytes} bytes of {self._budget_bytes}")
        if not self._pins.holders <= waiting_digests:
            raise AssertionError(f"pinned though nobody waits: {self._pins.holders - waiting_digests}")
        if self._resident.keys() & self._loads.keys():
            raise AssertionError("an adapter is resident and being loaded at once")

    def _enqueue(self, ref: AdapterRef) -> None:
        try:
            size = (Path(ref.path) / WEIGHTS_FILE).stat().st_size
        except (OSError, ValueError) as error:  # no path holds a zero byte
            reason = f"cannot be read in {ref.path} ({error})"
            self._failures.append((ref, AdapterFileMissingError(WEIGHTS_FILE, reason)))
            return
        num_bytes = int(size * self._growth)
        if num_bytes > self._max_load_bytes:
            reason = f"needs {num_bytes} bytes, at most {self._max_load_bytes} are given to one adapter"
            self._failures.append((ref, AdapterTooLargeError(ref.path, reason)))
            return
        self._loads[ref.digest] = _Load(ref, size, num_bytes)
        self.num_loads += 1
        self._start_loads()

    def _start_loads(self) -> None:
        """Oldest holder first: were a small load to overtake one that waits for room, small ones could for
        ever.
        """
        waiting = [load for load in self._loads.values() if load.future is None]
        for load in sorted(waiting, key=lambda load: self._pins.age(load.ref.digest)):
            evicted = self._make_room(load.num_bytes, self._pins.age(load.ref.digest))
            if evicted is None:
                return
            # Slots have copies, so nothing reads an adapter that is not resident.
            spare = [adapter.memory for adapter in evicted if adapter.memory is not None]
            self._reserved_bytes += load.num_bytes
            load.future = self._pool.submit(self._load, load.ref, load.file_bytes, spare)
            load.future.add_done_callback(lambda _: self._on_loaded())

    def _finish(self, load: _Load, future: Future[Adapter]) -> None:
        try:
            adapter = future.result()
        except AdapterError as error:
            self._failures.append((load.ref, error))
            return
        except BaseException as error:  # noqa: BLE001  # a stranger's folder must end nothing
            self._failures.append((load.ref, AdapterError(load.ref.path, f"cannot be loaded: {error!r}")))
            return
        if self._make_room(adapter.num_bytes, self._pins.age(adapter.digest)) is not None:
            self._resident[adapter.digest] = adapter
            self.resident_bytes += adapter.num_bytes
        elif adapter.num_bytes > self._budget_bytes:
            reason = f"needs {adapter.num_bytes} bytes, the cache holds {self._budget_bytes}"
            self._failures.append((load.ref, AdapterTooLargeError(load.ref.path, reason)))
        else:  # larger than its file announced: it waits again, now for what it needs
            self._loads[adapter.digest] = _Load(load.ref, load.file_bytes, adapter.num_bytes)

    def _num_bytes(self, digest: str) -> int:
        adapter, load = self._resident.get(digest), self._loads.get(digest)
        return adapter.num_bytes if adapter is not None else load.num_bytes if load is not None else 0

    def _make_room(self, num_bytes: int, age: float) -> list[Adapter] | None:
        """Evict, as far as needed, what nobody older than `age` waits for: first what nobody does, the least
        recently used of it first, then what the youngest do. Nothing, and None, if that is too little.
        """
        excess = self.resident_bytes + self._reserved_bytes + num_bytes - self._budget_bytes
        if excess <= 0:
            return []
        # Few are pinned and many are not, so only the former are looked at one by one.
        pinned = {digest: self._pins.age(digest) for digest in self._pins.digests if digest in self._resident}
        younger = sorted((digest for digest in pinned if pinned[digest] > age), key=lambda d: -pinned[d])
        kept_bytes = sum(self._resident[digest].num_bytes for digest in pinned if pinned[digest] <= age)
        if excess > self.resident_bytes - kept_bytes:
            return None
        idle = (digest for digest in self._resident if digest not in pinned)
        victims = []
        for digest in itertools.chain(idle, younger):
            victims.append(digest)
            excess -= self._resident[digest].num_bytes
            if excess <= 0:
                break
        evicted = [self._resident.pop(digest) for digest in victims]
        self.resident_bytes -= sum(adapter.num_bytes for adapter in evicted)
        return evicted
