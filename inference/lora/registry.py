"""Host cache of adapters by digest, with a byte budget, LRU eviction, pins and a single load per digest.

All methods run on the engine's thread. Folders are read, hashed and validated on loader threads, so no step
waits for a load.
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
from inference.kernels.threads import set_num_threads
from inference.lora.files import WEIGHTS_FILE
from inference.lora.pins import Pins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.protocol import AdapterRef

LOADER_THREADS = "adapter-loader"
"""Prefix of the loader threads' names."""


@dataclass(slots=True)
class _Load:
    """A load that is queued or running. `future` is None until memory for `num_bytes` is reserved."""

    ref: AdapterRef
    file_bytes: int
    num_bytes: int
    future: Future[Adapter] | None = None


class AdapterRegistry:
    """Call `get_or_load` repeatedly until it returns the adapter or `pop_failures` reports an error, and
    `unpin` its holder as soon as the adapter may be evicted.
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
        """`load` receives the adapter, the size limit of its weights file, and the memory of the adapters
        evicted for it, which it reuses or frees. `bytes_per_stored_byte` is an adapter's size in memory
        relative to its file; no adapter may need more than `max_load_bytes`. `on_loaded` is called on a
        loader thread after each load, failed ones included.
        """
        self._load = load
        self._budget_bytes = budget_bytes
        self._growth = bytes_per_stored_byte
        self._max_load_bytes = budget_bytes if max_load_bytes is None else min(budget_bytes, max_load_bytes)
        self._on_loaded = on_loaded
        # One compute thread per loader: more would compete with the engine's step for the cores, and spin
        # there while waiting for work.
        self._pool = ThreadPoolExecutor(num_threads, LOADER_THREADS, set_num_threads, (1,))
        self._resident: OrderedDict[str, Adapter] = OrderedDict()  # least recently used first
        self.resident_bytes = 0
        self.num_loads = 0
        self._reserved_bytes = 0  # by running loads
        self._pins = Pins()
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        self._failures: list[tuple[AdapterRef, AdapterError]] = []

    @property
    def resident_digests(self) -> list[str]:
        return list(self._resident)

    def is_resident(self, digest: str) -> bool:
        return digest in self._resident

    def peek(self, digest: str) -> Adapter:
        """A resident adapter, without marking it as used."""
        return self._resident[digest]

    def get_or_load(self, ref: AdapterRef, holder: str) -> Adapter | None:
        """The adapter if resident; else None, and its load is queued. Pins it for `holder`."""
        self._pins.add(ref.digest, holder)
        adapter = self._resident.get(ref.digest)
        if adapter is not None:
            self.touch(ref.digest)
        elif ref.digest not in self._loads:
            self._enqueue(ref)
        return adapter

    def can_hold(self, digests: Iterable[str]) -> bool:
        """Whether these adapters, resident or loading, fit into the budget together."""
        return sum(map(self._num_bytes, digests)) <= self._budget_bytes

    def touch(self, digest: str) -> None:
        """Mark as recently used, on the host or on the device."""
        if digest in self._resident:
            self._resident.move_to_end(digest)

    def unpin(self, holder: str) -> None:
        """Drop the pins of `holder`: adapters without another holder may be evicted."""
        self._pins.drop(holder)

    def poll(self) -> None:
        """Add finished loads to the cache, and start queued ones for which memory is available."""
        for digest, load in list(self._loads.items()):
            if load.future is not None and load.future.done():
                del self._loads[digest]
                self._reserved_bytes -= load.num_bytes
                self._finish(load, load.future)
            elif load.future is None and self._pins.arrival(digest) == math.inf:
                del self._loads[digest]
        self._start_loads()

    def pop_failures(self) -> list[tuple[AdapterRef, AdapterError]]:
        """Failed loads since the last call."""
        failures, self._failures = self._failures, []
        return failures

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check_integrity(self, waiting_digests: set[str]) -> None:
        """Raises `AssertionError` when the cache is over budget, a counter is wrong, or a pin has no waiting
        request.
        """
        resident = sum(adapter.num_bytes for adapter in self._resident.values())
        reserved = sum(load.num_bytes for load in self._loads.values() if load.future is not None)
        if (resident, reserved) != (self.resident_bytes, self._reserved_bytes):
            counted = f"{self.resident_bytes} resident and {self._reserved_bytes} reserved"
            raise AssertionError(f"{counted} bytes were counted, actual are {resident} and {reserved}")
        if resident + reserved > self._budget_bytes:
            raise AssertionError(f"adapters use {self.resident_bytes} bytes of {self._budget_bytes}")
        if not self._pins.holders <= waiting_digests:
            raise AssertionError(f"pinned without waiting requests: {self._pins.holders - waiting_digests}")
        if self._resident.keys() & self._loads.keys():
            raise AssertionError("an adapter is resident and loading at the same time")

    def _enqueue(self, ref: AdapterRef) -> None:
        try:
            size = (Path(ref.path) / WEIGHTS_FILE).stat().st_size
        except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
            reason = f"cannot be read in {ref.path} ({error})"
            self._failures.append((ref, AdapterFileMissingError(WEIGHTS_FILE, reason)))
            return
        num_bytes = int(size * self._growth)
        if num_bytes > self._max_load_bytes:
            reason = f"needs {num_bytes} bytes, the limit for one adapter is {self._max_load_bytes}"
            self._failures.append((ref, AdapterTooLargeError(ref.path, reason)))
            return
        self._loads[ref.digest] = _Load(ref, size, num_bytes)
        self.num_loads += 1
        self._start_loads()

    def _start_loads(self) -> None:
        """Start queued loads, earliest holder first. A load that waits for memory also holds back smaller
        ones behind it, or a stream of small loads could delay it for ever.
        """
        waiting = [load for load in self._loads.values() if load.future is None]
        for load in sorted(waiting, key=lambda load: self._pins.arrival(load.ref.digest)):
            evicted = self._evict_for(load.num_bytes, self._pins.arrival(load.ref.digest))
            if evicted is None:
                return
            # Slots hold copies, so nothing reads the memory of an evicted adapter.
            spare = [adapter.memory for adapter in evicted if adapter.memory is not None]
            self._reserved_bytes += load.num_bytes
            load.future = self._pool.submit(self._load, load.ref, load.file_bytes, spare)
            load.future.add_done_callback(lambda _: self._on_loaded())

    def _finish(self, load: _Load, future: Future[Adapter]) -> None:
        error = future.exception()
        if error is not None:
            self._failures.append((load.ref, _refusal(load.ref, error)))
            return
        adapter = future.result()
        if self._evict_for(adapter.num_bytes, self._pins.arrival(adapter.digest)) is not None:
            self._resident[adapter.digest] = adapter
            self.resident_bytes += adapter.num_bytes
        elif adapter.num_bytes > self._budget_bytes:
            reason = f"needs {adapter.num_bytes} bytes, the cache holds {self._budget_bytes}"
            self._failures.append((load.ref, AdapterTooLargeError(load.ref.path, reason)))
        else:  # larger than estimated from its file: queue it again with its actual size
            self._loads[adapter.digest] = _Load(load.ref, load.file_bytes, adapter.num_bytes)

    def _num_bytes(self, digest: str) -> int:
        adapter, load = self._resident.get(digest), self._loads.get(digest)
        return adapter.num_bytes if adapter is not None else load.num_bytes if load is not None else 0

    def _evict_for(self, num_bytes: int, arrival: float) -> list[Adapter] | None:
        """Evict until `num_bytes` are free: unpinned adapters first, least recently used first, then those
        whose holders arrived after `arrival`, the latest first. None, without evicting, if that is not
        enough.
        """
        excess = self.resident_bytes + self._reserved_bytes + num_bytes - self._budget_bytes
        if excess <= 0:
            return []
        # Few adapters are pinned and many are not, so only the pinned ones are inspected one by one.
        pinned = {
            digest: self._pins.arrival(digest) for digest in self._pins.digests if digest in self._resident
        }
        later = sorted((digest for digest in pinned if pinned[digest] > arrival), key=lambda d: -pinned[d])
        protected = sum(self._resident[digest].num_bytes for digest in pinned if pinned[digest] <= arrival)
        if excess > self.resident_bytes - protected:
            return None
        idle = (digest for digest in self._resident if digest not in pinned)
        victims = []
        for digest in itertools.chain(idle, later):
            victims.append(digest)
            excess -= self._resident[digest].num_bytes
            if excess <= 0:
                break
        evicted = [self._resident.pop(digest) for digest in victims]
        self.resident_bytes -= sum(adapter.num_bytes for adapter in evicted)
        return evicted


def _refusal(ref: AdapterRef, error: BaseException) -> AdapterError:
    """The error of a load, without its traceback, whose frames refer to the adapter's tensors. An untrusted
    folder must not end the engine, so an unexpected error refuses the adapter too.
    """
    if isinstance(error, AdapterError):
        return error.with_traceback(None)
    return AdapterError(ref.path, f"cannot be loaded: {error!r}")
