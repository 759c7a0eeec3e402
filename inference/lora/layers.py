"""Device weights of the active adapters, and what they add to the decoder's projections.

Every adapter owns the same range of rows in every linear layer's arena, as many as its largest rank; a layer
with a smaller rank, or without one, has zeros there. So one row range names an adapter everywhere, one range
serves every layer, and nobody is padded to a neighbour's rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.kernels.interface import LoraPart
from inference.lora.gains import GainTable
from inference.lora.segments import find_segments
from inference.model.architecture import PARENT_BY_LINEAR, PROJECTIONS
from inference.model.memory import lazy_zeros

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from torch import Tensor

    from inference.kernels.interface import Kernels, LoraBatch
    from inference.lora.gains import StepGains
    from inference.lora.stack import Stack
    from inference.model.architecture import Architecture


class AdapterArena:
    """For each (layer, linear): shrink [num_rows, in_features] and expand [num_rows, out_features]."""

    def __init__(
        self,
        architecture: Architecture,
        num_rows: int,
        num_slots: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.num_rows = num_rows
        self._rows_by_slot: list[slice | None] = [None] * num_slots
        self._targets_by_slot: dict[int, frozenset[tuple[int, str]]] = {}
        self.gains = GainTable(architecture, num_slots, device)
        self._shrink: dict[tuple[int, str], Tensor] = {}
        self._expand: dict[tuple[int, str], Tensor] = {}
        for linear in PARENT_BY_LINEAR:
            in_features, out_features = architecture.linear_shape(linear)
            for layer in range(architecture.num_layers):
                self._shrink[layer, linear] = lazy_zeros((num_rows, in_features), dtype, device)
                self._expand[layer, linear] = lazy_zeros((num_rows, out_features), dtype, device)
        self._parts = {
            key: LoraPart(shrink, self._expand[key], architecture.place(key[1])[1])
            for key, shrink in self._shrink.items()
        }

    def write(self, stack: Stack, slot: int, rows: slice) -> None:
        """Copy a stack into its rows; what was there before is overwritten in every layer."""
        for key, shrink in self._shrink.items():
            expand, row = self._expand[key], rows.start
            for adapter, weight in stack.parts:
                pair = adapter.pairs.get(key)
                if pair is not None:
                    end = row + pair.rank
                    shrink[row:end] = pair.shrink
                    expand[row:end] = pair.expand if weight == 1.0 else pair.expand * weight
                    row = end
            shrink[row : rows.stop].zero_()
            expand[row : rows.stop].zero_()
        self.gains.write(slot, stack.gains)
        self._rows_by_slot[slot] = rows
        self._targets_by_slot[slot] = stack.targets

    def erase(self, slot: int) -> None:
        """The slot is empty now. Its rows are left as they are: whoever gets them overwrites them."""
        self.gains.erase(slot)
        self._rows_by_slot[slot] = None
        self._targets_by_slot.pop(slot, None)

    def for_step(
        self, runs: Iterable[tuple[int, int]], num_tokens: int, kernels: Kernels
    ) -> StepAdapters | None:
        """Deltas of a batch made of `runs` of (slot, num_tokens); None if all of it is on the base model."""
        segments = find_segments(runs, self._rows_by_slot)
        if not segments:
            return None
        targets = frozenset[tuple[int, str]]().union(*(self._targets_by_slot[s.slot] for s in segments))
        batch = kernels.lora_batch(segments, num_tokens)
        return StepAdapters(self, batch, targets, self.gains.for_step(segments, num_tokens))

    def check_integrity(self, rows_by_slot: Sequence[slice | None]) -> None:
        """Compare with what the slots are said to hold. Raises `AssertionError`."""
        if self._rows_by_slot != list(rows_by_slot):
            raise AssertionError(f"the arena holds {self._rows_by_slot}, the slots {list(rows_by_slot)}")
        self.gains.check_integrity([slot for slot, rows in enumerate(rows_by_slot) if rows is not None])

    def part(self, layer: int, name: str) -> LoraPart:
        return self._parts[layer, name]


class StepAdapters:
    """The adapters of one step; implements `inference.model.decoder.AdapterDeltas`."""

    def __init__(
        self,
        arena: AdapterArena,
        batch: LoraBatch,
        targets: frozenset[tuple[int, str]],
        gains: StepGains | None = None,
    ) -> None:
        """`targets` are the (layer, linear) that any adapter of the step touches; the rest cost nothing."""
        self._arena = arena
        self._batch = batch
        self._targets = targets
        self._gains = gains

    def add(self, layer: int, projection: str, states: Tensor, output: Tensor) -> None:
        """Add the deltas of `states` [num_tokens, in] to the fused `output` [num_tokens, out], in place, and
        scale it where an adapter does.
        """
        touched = [name for name in PROJECTIONS[projection] if (layer, name) in self._targets]
        if touched:
            self._batch.add(states, [self._arena.part(layer, name) for name in touched], output)
        if self._gains is not None:
            self._gains.scale(layer, projection, output)
