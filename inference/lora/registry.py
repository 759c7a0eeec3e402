"""Host cache of adapters, by digest: a byte budget, LRU, pins, one load at a time per digest.

All methods run on the engine's thread; only reading, hashing and validating a folder happens on loader
threads, so no step ever waits for a load.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import AdapterError, AdapterFileMissingError, AdapterTooLargeError
from inference.lora.adapter import WEIGHTS_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.lora.adapter import Adapter
    from inference.protocol import AdapterRef


@dataclass(slots=True)
class _Load:
    """A load in progress, its bytes reserved; `future` is None while it waits for room in the budget."""

    ref: AdapterRef
    num_bytes: int
    future: Future[Adapter] | None = None


class AdapterRegistry:
    """`want` an adapter again and again until it is returned or `take_failures` says why not; `forget` it as
    soon as it may leave the cache.
    """

    def __init__(
        self,
        load: Callable[[AdapterRef], Adapter],
        budget_bytes: int,
        num_threads: int,
        bytes_per_stored_byte: float = 1.0,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """`bytes_per_stored_byte` bounds how much larger an adapter is in memory than its file.
        `on_loaded` is called on a loader thread whenever a load has ended.
        """
        self._load = load
        self._budget_bytes = budget_bytes
        self._growth = bytes_per_stored_byte
        self._on_loaded = on_loaded
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="adapter-loader")
        self._resident: OrderedDict[str, Adapter] = OrderedDict()
        self._wanted: set[str] = set()
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        self._failures: list[tuple[AdapterRef, AdapterError]] = []

    @property
    def resident_digests(self) -> list[str]:
        return list(self._resident)

    @property
    def resident_bytes(self) -> int:
        return sum(adapter.num_bytes for adapter in self._resident.values())

    def is_resident(self, digest: str) -> bool:
        return digest in self._resident

    def want(self, ref: AdapterRef) -> Adapter | None:
        """The adapter, if resident; else None, and a load is under way. Pins it until `forget`."""
        self._wanted.add(ref.digest)
        adapter = self._resident.get(ref.digest)
        if adapter is not None:
            self._resident.move_to_end(ref.digest)
            return adapter
        if ref.digest not in self._loads:
            self._enqueue(ref)
        return None

    def forget(self, digest: str) -> None:
        """Nobody needs this adapter in the cache any more; it may be evicted."""
        self._wanted.discard(digest)

    def collect(self) -> None:
        """Take in finished loads and start those that room has been found for."""
        for digest, load in list(self._loads.items()):
            if load.future is not None and load.future.done():
                del self._loads[digest]
                self._finish(load, load.future)
            elif load.future is None and digest not in self._wanted:
                del self._loads[digest]
        self._start_loads()

    def take_failures(self) -> list[tuple[AdapterRef, AdapterError]]:
        failures, self._failures = self._failures, []
        return failures

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check_integrity(self, waiting_digests: set[str]) -> None:
        """Raises `AssertionError` when over budget or when a pin outlives those who wanted it."""
        if self.resident_bytes + self._reserved_bytes() > self._budget_bytes:
            raise AssertionError(f"adapters take {self.resident_bytes} bytes of {self._budget_bytes}")
        if not self._wanted <= waiting_digests:
            raise AssertionError(f"pinned though nobody waits: {self._wanted - waiting_digests}")
        if self._resident.keys() & self._loads.keys():
            raise AssertionError("an adapter is resident and being loaded at once")

    def _enqueue(self, ref: AdapterRef) -> None:
        try:
            size = (Path(ref.path) / WEIGHTS_FILE).stat().st_size
        except OSError as error:
            reason = f"cannot be read in {ref.path} ({error.strerror})"
            self._failures.append((ref, AdapterFileMissingError(WEIGHTS_FILE, reason)))
            return
        num_bytes = int(size * self._growth)
        if num_bytes > self._budget_bytes:
            reason = f"needs {num_bytes} bytes, the cache holds {self._budget_bytes}"
            self._failures.append((ref, AdapterTooLargeError(ref.path, reason)))
            return
        self._loads[ref.digest] = _Load(ref, num_bytes)
        self._start_loads()

    def _start_loads(self) -> None:
        """In order: were a small load to overtake one that waits for room, small ones could for ever."""
        for load in self._loads.values():
            if load.future is not None:
                continue
            if not self._make_room(load.num_bytes):
                return
            load.future = self._pool.submit(self._load, load.ref)
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
        if self._make_room(adapter.num_bytes):
            self._resident[adapter.digest] = adapter
        else:
            reason = f"needs {adapter.num_bytes} bytes, more than its file announced"
            self._failures.append((load.ref, AdapterTooLargeError(load.ref.path, reason)))

    def _reserved_bytes(self) -> int:
        return sum(load.num_bytes for load in self._loads.values() if load.future is not None)

    def _make_room(self, num_bytes: int) -> bool:
        """Evict what nobody wants, oldest first, as far as needed; nothing, and False, if too little."""
        excess = self.resident_bytes + self._reserved_bytes() + num_bytes - self._budget_bytes
        evictable = [adapter for digest, adapter in self._resident.items() if digest not in self._wanted]
        if excess > sum(adapter.num_bytes for adapter in evictable):
            return False
        for adapter in evictable:
            if excess <= 0:
                break
            del self._resident[adapter.digest]
            excess -= adapter.num_bytes
        return True
