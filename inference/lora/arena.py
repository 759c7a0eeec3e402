"""Device weights of the active adapters, and their deltas to the decoder's projections.

Every adapter has the same range of rows in the arena of every linear layer, as many as its largest rank; a
layer with a smaller rank, or without one, has zeros there. One row range therefore identifies an adapter in
all layers, and no adapter is padded to another one's rank.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import torch

from inference.kernels.interface import LoraTarget, StepDeltas
from inference.kernels.memory import lazy_zeros
from inference.lora.dora import DoraScales
from inference.lora.segments import find_segments
from inference.model.architecture import EMBEDDING, HEAD, OUTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from inference.kernels.interface import Kernels, LoraBatch, Projection, Segment
    from inference.lora.blend import Blend
    from inference.lora.block import LoraBlock
    from inference.lora.dora import StepScales
    from inference.model.architecture import Architecture

_MAX_CACHED_KEYS = 16  # sets of linear layers that the adapters of a step change; there is usually one


class AdapterArena:
    """For each (layer, linear): shrink [num_rows, in_features], expand [num_rows, out_features] and, in int8,
    scales [num_rows]. The layers of one linear are contiguous, so that each block of an adapter is one copy.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_rows: int,
        num_slots: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """`dtype` is that of the adapters' blocks."""
        self.num_rows = num_rows
        self.dora = DoraScales(architecture, num_slots, device)
        self._rows_by_slot: list[slice | None] = [None] * num_slots
        self._keys_by_slot: dict[int, frozenset[tuple[int, str]]] = {}
        self._shrink: dict[str, Tensor] = {}  # [num_layers, num_rows, in_features]
        self._expand: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}  # [num_layers, num_rows]; in int8 only
        self._targets: dict[tuple[int, str], LoraTarget] = {}
        self.targets_by_projection = functools.lru_cache(_MAX_CACHED_KEYS)(self._targets_by_projection)
        self._architecture, self._dtype, self._device = architecture, dtype, device
        self._layers = range(architecture.num_layers)
        self._projections = architecture.projections
        for linear in architecture.linears:
            columns = architecture.fused_columns(linear)[1]
            self._add(linear, self._layers, columns, in_large_pages=True)

    def _add(self, linear: str, layers: range, columns: slice, *, in_large_pages: bool = False) -> None:
        """Reserve the rows of `linear` in `layers`, whose memory is used once it is written to."""

        def zeros(*width: int, dtype: torch.dtype) -> Tensor:
            shape = (len(layers), self.num_rows, *width)
            return lazy_zeros(shape, dtype, self._device, in_large_pages=in_large_pages)

        widths = self._architecture.linear_shape(linear)
        shrink, expand = (zeros(width, dtype=self._dtype) for width in widths)
        self._shrink[linear], self._expand[linear] = shrink, expand
        if self._dtype == torch.int8:
            self._scales[linear] = zeros(dtype=torch.float32)
        for layer in layers:
            scales = self._scales[linear][layer] if linear in self._scales else None
            self._targets[layer, linear] = LoraTarget(shrink[layer], expand[layer], columns, scales)

    def _add_outer(self, linear: str) -> None:
        """Reserve the rows of embeddings or head, which are as wide as the vocabulary, for their first
        adapter.
        """
        self._add(linear, range(1), slice(0, self._architecture.linear_shape(linear)[1]))

    @property
    def rows_by_slot(self) -> Sequence[slice | None]:
        """The rows of each slot's adapter; None for an empty slot."""
        return self._rows_by_slot

    def write(self, blend: Blend, slot: int, rows: slice) -> None:
        """Fill an empty slot: copy `blend` into `rows`, overwriting their contents in every layer."""
        for layer, linear in blend.keys:
            if (layer, linear) not in self._targets:
                self._add_outer(linear)
        # The end of the filled rows in each layer.
        ends = {linear: [rows.start] * len(layers) for linear, layers in self._shrink.items()}
        for adapter, weight in blend.parts:
            for block in adapter.blocks:
                self._append(block, weight, ends[block.linear])
        for linear, ends_of_layers in ends.items():
            for layers, end in _group_by_end(ends_of_layers, range(len(ends_of_layers))):
                if end < rows.stop:
                    self._shrink[linear][layers, end : rows.stop].zero_()
                    self._expand[linear][layers, end : rows.stop].zero_()
                    if linear in self._scales:
                        self._scales[linear][layers, end : rows.stop].zero_()
        self.dora.write(slot, blend.dora)
        self._rows_by_slot[slot] = rows
        keys = blend.keys
        # Most adapters have equal keys. Sharing one object makes the union in `for_step` cheap.
        equal = (each for each in self._keys_by_slot.values() if each == keys)
        self._keys_by_slot[slot] = next(equal, keys)

    def _append(self, block: LoraBlock, weight: float, ends: list[int]) -> None:
        """Copy `block` behind the filled rows of its layers, and advance their `ends`."""
        first = block.layers.start
        for layers, end in _group_by_end(ends, block.layers):
            source = slice(layers.start - first, layers.stop - first)
            target = (layers, slice(end, end + block.rank))
            self._shrink[block.linear][target] = block.shrink[source]
            expand = block.expand[source]
            if block.scales is not None:
                self._expand[block.linear][target] = expand
                self._scales[block.linear][target] = block.scales[source] * weight
            else:
                self._expand[block.linear][target] = expand if weight == 1.0 else expand * weight
            ends[layers] = [end + block.rank] * (layers.stop - layers.start)

    def erase(self, slot: int) -> None:
        """Empty the slot. Its rows keep their contents, which the next adapter overwrites."""
        self.dora.erase(slot)
        self._rows_by_slot[slot] = None
        self._keys_by_slot.pop(slot, None)

    def for_step(
        self, spans: Iterable[tuple[int, int]], num_tokens: int, kernels: Kernels
    ) -> StepAdapters | None:
        """Adapters of a batch that consists of `spans` of (slot, num_tokens); None if all of them run on the
        base model.
        """
        segments = find_segments(spans, self._rows_by_slot)
        if not segments:
            return None
        distinct = {self._keys_by_slot[segment.slot] for segment in segments}
        keys = frozenset[tuple[int, str]]().union(*distinct)
        batch = kernels.lora_batch(segments, num_tokens)
        return StepAdapters(self, batch, keys, segments, self.dora.for_step(segments, num_tokens))

    def for_head(self, spans: Sequence[tuple[int, int]], kernels: Kernels) -> StepAdapters | None:
        """Adapters of the head for rows that consist of `spans` of (slot, num_rows); None if none changes
        it.
        """
        if not any((0, HEAD) in self._keys_by_slot.get(slot, ()) for slot, _ in spans):
            return None
        return self.for_step(spans, sum(count for _, count in spans), kernels)

    def check_integrity(self) -> None:
        """Raises `AssertionError` when rows overlap, or DoRA scales do not belong to an active adapter."""
        ranges = sorted((rows.start, rows.stop) for rows in self._rows_by_slot if rows is not None)
        for (_, stop), (start, _) in itertools.pairwise(ranges):
            if start < stop:
                raise AssertionError(f"arena rows overlap: {ranges}")
        self.dora.check_integrity([slot for slot, rows in enumerate(self._rows_by_slot) if rows is not None])

    def target(self, layer: int, linear: str) -> LoraTarget:
        return self._targets[layer, linear]

    def _targets_by_projection(
        self, keys: frozenset[tuple[int, str]]
    ) -> dict[tuple[int, str], tuple[LoraTarget, ...]]:
        """For each (layer, fused projection), the targets of those of its (layer, linear) that are in
        `keys`.
        """
        outer = {(0, name): (self._targets[0, name],) for name in OUTER if (0, name) in keys}
        return outer | {
            (layer, projection): tuple(self._targets[layer, name] for name in names if (layer, name) in keys)
            for layer in self._layers
            for projection, names in self._projections.items()
        }


class StepAdapters:
    """The adapters of one step; implements `inference.model.decoder.AdapterDeltas`."""

    def __init__(
        self,
        arena: AdapterArena,
        batch: LoraBatch,
        keys: frozenset[tuple[int, str]],
        segments: Sequence[Segment] = (),
        scales: StepScales | None = None,
    ) -> None:
        """`keys` are the (layer, linear) that an adapter of the step changes; the others cost nothing."""
        self._targets = arena.targets_by_projection(keys)
        self._batch = batch
        self._segments = segments
        self._scales = scales

    @property
    def deltas(self) -> StepDeltas | None:
        return None if self._scales is not None else StepDeltas(self._batch, self._targets)

    def add_embeddings(self, token_ids: Tensor, embeddings: Tensor) -> None:
        """Add the deltas of `token_ids` [num_tokens] to their `embeddings` [num_tokens, hidden], in place."""
        for target in self._targets.get((0, EMBEDDING), ()):
            for segment in self._segments:
                tokens = slice(segment.start, segment.end)
                factors = target.factors(segment.rows)
                shrink, expand = (factor.to(embeddings.dtype) for factor in factors)
                embeddings[tokens].addmm_(shrink.index_select(1, token_ids[tokens]).T, expand)

    def head(self, linear: Projection, states: Tensor) -> Tensor:
        """The head `linear` of `states` [num_rows, hidden] with deltas, [num_rows, vocab]."""
        return self._batch.project(linear, states, self._targets[0, HEAD])

    def project(self, layer: int, projection: str, linear: Projection, states: Tensor) -> Tensor:
        """The fused `linear` of `states` [num_tokens, in] with deltas and DoRA scales, [num_tokens, out]."""
        targets = self._targets[layer, projection]
        output = self._batch.project(linear, states, targets) if targets else linear(states)
        if self._scales is not None:
            self._scales.apply(layer, projection, output)
        return output


def _group_by_end(ends: Sequence[int], layers: range) -> Iterator[tuple[slice, int]]:
    """Group neighbouring `layers` whose filled rows have the same end: (layers, end)."""
    for end, group in itertools.groupby(layers, lambda layer: ends[layer]):
        found = list(group)
        yield slice(found[0], found[-1] + 1), end
