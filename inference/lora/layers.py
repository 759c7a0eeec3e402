"""Device weights of the active adapters, and what they add to the decoder's projections.

Every adapter owns the same range of rows in every linear layer's arena, as many as its largest rank; a layer
with a smaller rank, or without one, has zeros there. So one row range names an adapter everywhere, one mask
serves the whole step, and nobody is padded to a neighbour's rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.kernels.cpu import add_segmented, add_stacked
from inference.model.architecture import PROJECTIONS
from inference.model.memory import lazy_zeros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.lora.adapter import Adapter
    from inference.lora.segments import Segment
    from inference.model.architecture import Architecture

_MAX_STACKED_TOKENS = 64


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

    def linear(self, layer: int, name: str) -> tuple[Tensor, Tensor, slice]:
        """Shrink and expand rows of one linear layer, and its columns in the fused projection's output."""
        return self._shrink[layer, name], self._expand[layer, name], self._columns[name]


class StepAdapters:
    """The adapters of one step; implements `inference.model.decoder.AdapterDeltas`."""

    def __init__(
        self,
        arena: AdapterArena,
        segments: Sequence[Segment],
        num_tokens: int,
        targets: frozenset[tuple[int, str]],
        device: torch.device | str,
    ) -> None:
        """`targets` are the (layer, linear) that any adapter of the step touches; the rest cost nothing."""
        self._arena = arena
        self._segments = segments
        self._targets = targets
        self._span = slice(min(s.rows.start for s in segments), max(s.rows.stop for s in segments))
        self._is_stacked = num_tokens <= _MAX_STACKED_TOKENS
        self._foreign = self._mask(num_tokens).to(device) if self._is_stacked else None

    def add(self, layer: int, projection: str, states: Tensor, output: Tensor) -> None:
        """Add the deltas of `states` [num_tokens, in] to the fused `output` [num_tokens, out], in place."""
        for name in PROJECTIONS[projection]:
            if (layer, name) not in self._targets:
                continue
            shrink, expand, columns = self._arena.linear(layer, name)
            part = output[:, columns]
            if self._is_stacked:
                add_stacked(states, shrink[self._span], expand[self._span], self._foreign, part)
            else:
                add_segmented(states, shrink, expand, self._segments, part)

    def _mask(self, num_tokens: int) -> Tensor:
        foreign = torch.ones(num_tokens, self._span.stop - self._span.start, dtype=torch.bool)
        for segment in self._segments:
            rows = slice(segment.rows.start - self._span.start, segment.rows.stop - self._span.start)
            foreign[segment.start : segment.end, rows] = False
        return foreign
