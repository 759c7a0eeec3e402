"""Device weights of the active adapters, and what they add to the decoder's projections.

Every adapter owns the same range of rows in every linear layer's arena, as many as its largest rank; a layer
with a smaller rank, or without one, has zeros there. So one row range names an adapter everywhere, one range
serves every layer, and nobody is padded to a neighbour's rank.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

from inference.kernels.interface import LoraPart
from inference.lora.gains import GainTable
from inference.lora.segments import find_segments
from inference.model.architecture import PARENT_BY_LINEAR, PROJECTIONS
from inference.model.memory import lazy_zeros

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch
    from torch import Tensor

    from inference.kernels.interface import Kernels, LoraBatch, Projection
    from inference.lora.block import LoraBlock
    from inference.lora.gains import StepGains
    from inference.lora.stack import Stack
    from inference.model.architecture import Architecture

_MAX_KNOWN_TARGETS = 16  # sets of linear layers that steps' adapters touch; mostly there is one


class AdapterArena:
    """For each (layer, linear): shrink [num_rows, in_features] and expand [num_rows, out_features]. The
    layers of one linear lie behind each other, so that a block of an adapter is copied at once.
    """

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
        self._shrink: dict[str, Tensor] = {}  # [num_layers, num_rows, in_features]
        self._expand: dict[str, Tensor] = {}
        self._parts: dict[tuple[int, str], LoraPart] = {}
        self.touched = functools.lru_cache(_MAX_KNOWN_TARGETS)(self._find_touched)
        self._layers = range(architecture.num_layers)
        for linear in PARENT_BY_LINEAR:
            widths = architecture.linear_shape(linear)
            shrink, expand = (
                lazy_zeros((len(self._layers), num_rows, width), dtype, device, in_large_pages=True)
                for width in widths
            )
            self._shrink[linear], self._expand[linear] = shrink, expand
            columns = architecture.place(linear)[1]
            for layer in self._layers:
                self._parts[layer, linear] = LoraPart(shrink[layer], expand[layer], columns)

    def write(self, stack: Stack, slot: int, rows: slice) -> None:
        """Copy a stack into its rows; what was there before is overwritten in every layer."""
        filled = {linear: [rows.start] * len(self._layers) for linear in PARENT_BY_LINEAR}  # up to which row
        for adapter, weight in stack.parts:
            for block in adapter.blocks:
                self._copy(block, weight, filled[block.linear])
        for linear, ends in filled.items():
            for layers, end in _runs(ends, self._layers):
                if end < rows.stop:
                    self._shrink[linear][layers, end : rows.stop].zero_()
                    self._expand[linear][layers, end : rows.stop].zero_()
        self.gains.write(slot, stack.gains)
        self._rows_by_slot[slot] = rows
        targets = stack.targets
        # Most adapters have the same ones: as the same object, a step's union is of few.
        known = (each for each in self._targets_by_slot.values() if each == targets)
        self._targets_by_slot[slot] = next(known, targets)

    def _copy(self, block: LoraBlock, weight: float, ends: list[int]) -> None:
        """On top of what its layers have up to `ends`, which are moved up."""
        first = block.layers.start
        for layers, end in _runs(ends, block.layers):
            own = slice(layers.start - first, layers.stop - first)
            place = (layers, slice(end, end + block.rank))
            self._shrink[block.linear][place] = block.shrink[own]
            expand = block.expand[own]
            self._expand[block.linear][place] = expand if weight == 1.0 else expand * weight
            ends[layers] = [end + block.rank] * (layers.stop - layers.start)

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
        distinct = {self._targets_by_slot[segment.slot] for segment in segments}
        targets = frozenset[tuple[int, str]]().union(*distinct)
        batch = kernels.lora_batch(segments, num_tokens)
        return StepAdapters(self, batch, targets, self.gains.for_step(segments, num_tokens))

    def check_integrity(self, rows_by_slot: Sequence[slice | None]) -> None:
        """Compare with what the slots are said to hold. Raises `AssertionError`."""
        if self._rows_by_slot != list(rows_by_slot):
            raise AssertionError(f"the arena holds {self._rows_by_slot}, the slots {list(rows_by_slot)}")
        self.gains.check_integrity([slot for slot, rows in enumerate(rows_by_slot) if rows is not None])

    def part(self, layer: int, name: str) -> LoraPart:
        return self._parts[layer, name]

    def _find_touched(
        self, targets: frozenset[tuple[int, str]]
    ) -> dict[tuple[int, str], tuple[LoraPart, ...]]:
        """For each (layer, fused projection), the parts of those of its (layer, linear) in `targets`."""
        return {
            (layer, projection): tuple(self._parts[layer, name] for name in names if (layer, name) in targets)
            for layer in self._layers
            for projection, names in PROJECTIONS.items()
        }


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
        self._parts = arena.touched(targets)
        self._batch = batch
        self._gains = gains

    def project(self, layer: int, projection: str, linear: Projection, states: Tensor) -> Tensor:
        """The fused `linear` of `states` [num_tokens, in], deltas added, scaled where an adapter does:
        [num_tokens, out].
        """
        parts = self._parts[layer, projection]
        output = self._batch.project(linear, states, parts) if parts else linear(states)
        if self._gains is not None:
            self._gains.scale(layer, projection, output)
        return output


def _runs(ends: Sequence[int], layers: range) -> Iterator[tuple[slice, int]]:
    """Neighbours among `layers` that are filled up to the same row, and that row."""
    for end, run in itertools.groupby(layers, lambda layer: ends[layer]):
        found = list(run)
        yield slice(found[0], found[-1] + 1), end
