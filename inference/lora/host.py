"""Adapters of one engine from folder to device slot; the scheduler's `SlotSource`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from inference.lora.adapter import Adapter, load_adapter
from inference.lora.layers import AdapterArena
from inference.lora.registry import AdapterRegistry
from inference.lora.segments import BASE_SLOT
from inference.lora.slots import AdapterSlots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from inference.config import EngineConfig
    from inference.model.architecture import Architecture
    from inference.protocol import AdapterRef


class AdapterHost:
    """Host registry, device slots and the arena behind them."""

    def __init__(
        self,
        config: EngineConfig,
        architecture: Architecture,
        base_digest: str,
        dtype: torch.dtype,
        on_loaded: Callable[[], None],
    ) -> None:
        def load(ref: AdapterRef) -> Adapter:
            return load_adapter(Path(ref.path), ref.digest, architecture, base_digest, config.max_rank, dtype)

        self.arena = AdapterArena(architecture, config.num_adapter_rows, dtype, config.device)
        self.slots = AdapterSlots(self.arena, config.num_adapter_slots)
        # `load_adapter` refuses files of less than 16 bits a weight, so an adapter grows by this at most.
        growth = max(1.0, dtype.itemsize / 2)
        self.registry = AdapterRegistry(
            load, config.adapter_budget_bytes, config.num_loader_threads, growth, on_loaded
        )

    def prefetch(self, ref: AdapterRef) -> None:
        if not self.slots.is_active(ref.digest):
            self.registry.want(ref)

    def is_ready(self, ref: AdapterRef) -> bool:
        return self.slots.is_active(ref.digest) or self.registry.is_resident(ref.digest)

    def acquire(self, ref: AdapterRef) -> int | None:
        slot = self.slots.reuse(ref.digest)
        if slot is not None:
            return slot
        adapter = self.registry.want(ref)
        slot = None if adapter is None else self.slots.activate(adapter)
        if slot is not None:
            # The device has its own copy; a pin kept for hot adapters would leave a cold one no room.
            self.registry.forget(ref.digest)
        return slot

    def release(self, slot: int) -> None:
        self.slots.release(slot)

    def forget(self, digest: str) -> None:
        self.registry.forget(digest)

    def check_integrity(self, slots_in_use: Sequence[int], waiting_digests: set[str]) -> None:
        """Raises `AssertionError`."""
        self.slots.check_integrity(Counter(slot for slot in slots_in_use if slot != BASE_SLOT))
        self.registry.check_integrity(waiting_digests)
