"""Device weights of the active adapters, and what they add to the decoder's projections.

Every adapter owns the same range of rows in every linear layer's arena, as many as its largest rank; a layer
with a smaller rank, or without one, has zeros there. So one row range names an adapter everywhere, one range
serves every layer, and nobody is padded to a neighbour's rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.kernels.interface import LoraPart
from inference.model.architecture import PROJECTIONS
from inference.model.memory import lazy_zeros

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from inference.kernels.interface import LoraBatch
    from inference.lora.adapter import Adapter
    from inference.model.architecture import Architecture


class AdapterArena:
    """For each (layer, linear): shrink [num_rows, in_features] and expand [num_rows, out_features]."""

    def __init__(
        self, architecture: Architecture, num_rows: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.num_rows = num_rows
        self._shrink: dict[tuple[int, str], Tensor] = {}
        self._expand: dict[tuple[int, str], Tensor] = {}
        self._columns: dict[str, slice] = {}
        for linears in PROJECTIONS.values():
            column = 0
            for linear in linears:
                in_features, out_features = architecture.linear_shape(linear)
                self._columns[linear] = slice(column, column + out_features)
                column += out_features
                for layer in range(architecture.num_layers):
                    self._shrink[layer, linear] = lazy_zeros((num_rows, in_features), dtype, device)
                    self._expand[layer, linear] = lazy_zeros((num_rows, out_features), dtype, device)
        self._parts = {
            key: LoraPart(shrink, self._expand[key], self._columns[key[1]])
            for key, shrink in self._shrink.items()
        }

    def write(self, adapter: Adapter, rows: slice) -> None:
        """Copy an adapter into its rows; what was there before is overwritten in every layer."""
        for key, shrink in self._shrink.items():
            expand, pair = self._expand[key], adapter.pairs.get(key)
            rank = 0 if pair is None else len(pair.shrink)
            if pair is not None:
                shrink[rows.start : rows.start + rank] = pair.shrink
                expand[rows.start : rows.start + rank] = pair.expand
            shrink[rows.start + rank : rows.stop].zero_()
            expand[rows.start + rank : rows.stop].zero_()

    def part(self, layer: int, name: str) -> LoraPart:
        return self._parts[layer, name]


class StepAdapters:
    """The adapters of one step; implements `inference.model.decoder.AdapterDeltas`."""

    def __init__(self, arena: AdapterArena, batch: LoraBatch, targets: frozenset[tuple[int, str]]) -> None:
        """`targets` are the (layer, linear) that any adapter of the step touches; the rest cost nothing."""
        self._arena = arena
        self._batch = batch
        self._targets = targets

    def add(self, layer: int, projection: str, states: Tensor, output: Tensor) -> None:
        """Add the deltas of `states` [num_tokens, in] to the fused `output` [num_tokens, out], in place."""
        touched = [name for name in PROJECTIONS[projection] if (layer, name) in self._targets]
        if touched:
            self._batch.add(states, [self._arena.part(layer, name) for name in touched], output)
