"""Adapters of one engine, from folder to device slot; implements the scheduler's `SlotSource`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import AdapterError, AdapterTooLargeError
from inference.kernels.select import select_factor_reader
from inference.lora.adapter import Adapter, AdapterLoader, max_file_bytes
from inference.lora.arena import AdapterArena
from inference.lora.blend import Blend, build_blend, single_blend
from inference.lora.registry import AdapterRegistry
from inference.lora.segments import BASE_SLOT
from inference.lora.slots import AdapterSlots
from inference.protocol import AdapterBlend, AdapterRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from inference.config import EngineConfig
    from inference.model.loader import BaseWeights


class AdapterHost:
    """Host registry, device slots and the arena behind them."""

    def __init__(
        self,
        config: EngineConfig,
        base: BaseWeights,
        base_digest: str,
        on_loaded: Callable[[], None],
    ) -> None:
        reader = select_factor_reader(config.kernels, base.dtype)
        loader = AdapterLoader(base, base_digest, config.max_rank, reader)

        def load(ref: AdapterRef, max_bytes: int, spare: list[Tensor]) -> Adapter:
            return loader.load(Path(ref.path), ref.digest, max_bytes, spare)

        self.arena = AdapterArena(
            base.architecture,
            config.num_adapter_rows,
            config.num_adapter_slots,
            base.adapter_dtype,
            config.device,
        )
        self.slots = AdapterSlots(self.arena, config.num_adapter_slots)
        # Files hold at least 16 bits a weight, which limits how much larger A and B are in memory.
        growth = max(1.0, base.adapter_dtype.itemsize / 2)
        self.registry = AdapterRegistry(
            load,
            config.adapter_budget_bytes,
            config.num_loader_threads,
            growth,
            int(growth * max_file_bytes(base.architecture, config.max_rank)),
            on_loaded,
        )
        self._dtype = base.dtype
        self._failures: list[tuple[AdapterRef | AdapterBlend, AdapterError]] = []
        self._num_device_hits = self._num_host_hits = 0

    @property
    def counts(self) -> dict[str, int]:
        """Counters, named like the fields of `protocol.Status`."""
        return {
            "adapter_device_hits": self._num_device_hits,
            "adapter_host_hits": self._num_host_hits,
            "adapter_loads": self.registry.num_loads,
        }

    def prefetch(self, adapter: AdapterRef | AdapterBlend) -> None:
        if not self.slots.is_active(adapter.digest):
            self._load_all(adapter)

    def is_ready(self, adapter: AdapterRef | AdapterBlend) -> bool:
        is_resident = all(self.registry.is_resident(ref.digest) for ref in adapter.refs)
        return is_resident or self.slots.is_active(adapter.digest)

    def invocation(self, adapter: AdapterRef | AdapterBlend) -> tuple[int, ...]:
        if self.slots.is_active(adapter.digest):
            return self.slots.invocation(adapter.digest)
        # A blend with an adapter that is to be activated is refused when it is built.
        return self.registry.peek(adapter.digest).invocation if isinstance(adapter, AdapterRef) else ()

    def num_rows(self, adapter: AdapterRef | AdapterBlend) -> int:
        if self.slots.is_active(adapter.digest):
            return self.slots.num_rows(adapter.digest)
        return sum(self.registry.peek(ref.digest).rank for ref in adapter.refs)

    def acquire(self, adapter: AdapterRef | AdapterBlend) -> int | None:
        slot = self.slots.reuse(adapter.digest)
        if slot is not None:
            self._num_device_hits += 1
        else:
            blend = self._blend(adapter)
            slot = None if blend is None else self.slots.activate(blend)
            self._num_host_hits += slot is not None
        if slot is not None:
            # The device has its own copy, and pins on hot adapters would leave no memory for a cold one. An
            # adapter in use on the device counts as used on the host as well, or it would be evicted there
            # and read again after its slot is reassigned.
            self.registry.unpin(adapter.digest)
            for ref in adapter.refs:
                self.registry.touch(ref.digest)
        return slot

    def release(self, slot: int) -> None:
        self.slots.release(slot)

    def unpin(self, digest: str) -> None:
        self.registry.unpin(digest)

    def pop_failures(self) -> list[tuple[AdapterRef | AdapterBlend, AdapterError]]:
        """Adapters and blends that were refused since the last call. A refused adapter also fails every blend
        that contains it.
        """
        failures, self._failures = self._failures, []
        return [*failures, *self.registry.pop_failures()]

    def check_integrity(self, slots_in_use: Sequence[int], waiting_digests: set[str]) -> None:
        """Raises `AssertionError`."""
        self.slots.check_integrity(Counter(slot for slot in slots_in_use if slot != BASE_SLOT))
        self.arena.check_integrity()
        self.registry.check_integrity(waiting_digests)

    def _load_all(self, adapter: AdapterRef | AdapterBlend) -> list[Adapter | None]:
        """Request all adapters of a blend at once, so that they load concurrently. None for those that are
        not resident yet.
        """
        found = [self.registry.get_or_load(ref, adapter.digest) for ref in adapter.refs]
        if not self.registry.can_hold(ref.digest for ref in adapter.refs):
            error = AdapterTooLargeError("the blend", "its adapters do not fit into the cache together")
            self._failures.append((adapter, error))
        return found

    def _blend(self, adapter: AdapterRef | AdapterBlend) -> Blend | None:
        """None while an adapter is not resident, or if the blend is refused."""
        loaded = [each for each in self._load_all(adapter) if each is not None]
        if len(loaded) < len(adapter.refs):
            return None
        if isinstance(adapter, AdapterRef):
            return single_blend(loaded[0])
        parts = [(each, part.weight) for each, part in zip(loaded, adapter.parts, strict=True)]
        try:
            return build_blend(adapter.digest, parts, self.arena.num_rows, self._dtype)
        except AdapterError as error:
            self._failures.append((adapter, error))
            return None
