"""Adapters of one engine from folder to device slot; the scheduler's `SlotSource`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import AdapterError, AdapterTooLargeError
from inference.kernels.choice import choose_kernels
from inference.lora.adapter import Adapter, AdapterLoader, most_file_bytes
from inference.lora.registry import AdapterRegistry
from inference.lora.segments import BASE_SLOT
from inference.lora.slots import AdapterSlots
from inference.lora.stack import Stack, stack_blend, stack_one
from inference.protocol import AdapterBlend, AdapterRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from inference.config import EngineConfig
    from inference.lora.layers import AdapterArena
    from inference.model.loader import BaseWeights


class AdapterHost:
    """Host registry, device slots and the arena behind them."""

    def __init__(
        self,
        config: EngineConfig,
        base: BaseWeights,
        base_digest: str,
        arena: AdapterArena,
        on_loaded: Callable[[], None],
    ) -> None:
        kernels = choose_kernels(config.kernels, base.dtype, "cpu")
        loader = AdapterLoader(base, base_digest, config.max_rank, kernels)

        def load(ref: AdapterRef, max_bytes: int, spare: list[Tensor]) -> Adapter:
            return loader.load(Path(ref.path), ref.digest, max_bytes, spare)

        self.arena = arena
        self.slots = AdapterSlots(self.arena, config.num_adapter_slots)
        # Files hold 16 bits a weight at least, so A and B grow by this at most.
        growth = max(1.0, base.dtype.itemsize / 2)
        self.registry = AdapterRegistry(
            load,
            config.adapter_budget_bytes,
            config.num_loader_threads,
            growth,
            int(growth * most_file_bytes(base.architecture, config.max_rank)),
            on_loaded,
        )
        self._dtype = base.dtype
        self._failures: list[tuple[AdapterRef | AdapterBlend, AdapterError]] = []
        self._num_device_hits = self._num_host_hits = 0

    @property
    def counts(self) -> dict[str, int]:
        """Fields of `protocol.Status`."""
        return {
            "adapter_device_hits": self._num_device_hits,
            "adapter_host_hits": self._num_host_hits,
            "adapter_loads": self.registry.num_loads,
        }

    def prefetch(self, choice: AdapterRef | AdapterBlend) -> None:
        if not self.slots.is_active(choice.digest):
            self._want(choice)

    def is_ready(self, choice: AdapterRef | AdapterBlend) -> bool:
        is_resident = all(self.registry.is_resident(ref.digest) for ref in choice.refs)
        return is_resident or self.slots.is_active(choice.digest)

    def acquire(self, choice: AdapterRef | AdapterBlend) -> int | None:
        slot = self.slots.reuse(choice.digest)
        if slot is not None:
            self._num_device_hits += 1
        else:
            stack = self._stack(choice)
            slot = None if stack is None else self.slots.activate(stack)
            self._num_host_hits += slot is not None
        if slot is not None:
            # The device has its own copy; a pin kept for hot adapters would leave a cold one no room. But
            # what is hot on the device stays young on the host, else it is read again when its slot is taken.
            self.registry.forget(choice.digest)
            for ref in choice.refs:
                self.registry.touch(ref.digest)
        return slot

    def release(self, slot: int) -> None:
        self.slots.release(slot)

    def forget(self, digest: str) -> None:
        self.registry.forget(digest)

    def take_failures(self) -> list[tuple[AdapterRef | AdapterBlend, AdapterError]]:
        """What was refused since the last call: an adapter, and with it all that contain it, or a blend."""
        failures, self._failures = self._failures, []
        return [*failures, *self.registry.take_failures()]

    def check_integrity(self, slots_in_use: Sequence[int], waiting_digests: set[str]) -> None:
        """Raises `AssertionError`."""
        self.slots.check_integrity(Counter(slot for slot in slots_in_use if slot != BASE_SLOT))
        self.arena.check_integrity(self.slots.rows_by_slot)
        self.registry.check_integrity(waiting_digests)

    def _want(self, choice: AdapterRef | AdapterBlend) -> list[Adapter | None]:
        """All at once: one by one, each adapter of a blend would wait for the load before it."""
        adapters = [self.registry.want(ref, choice.digest) for ref in choice.refs]
        if not self.registry.can_hold(ref.digest for ref in choice.refs):
            error = AdapterTooLargeError("the blend", "its adapters do not fit into the cache together")
            self._failures.append((choice, error))
        return adapters

    def _stack(self, choice: AdapterRef | AdapterBlend) -> Stack | None:
        """None while an adapter is not resident, or if the blend was refused."""
        adapters = [adapter for adapter in self._want(choice) if adapter is not None]
        if len(adapters) < len(choice.refs):
            return None
        if isinstance(choice, AdapterRef):
            return stack_one(adapters[0])
        parts = [(adapter, part.weight) for adapter, part in zip(adapters, choice.parts, strict=True)]
        try:
            return stack_blend(choice.digest, parts, self.arena.num_rows, self._dtype)
        except AdapterError as error:
            self._failures.append((choice, error))
            return None
