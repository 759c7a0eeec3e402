"""Output scales of the active DoRA adapters. They use memory only while such an adapter is active."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from inference.kernels.interface import Segment
    from inference.lora.block import DoraScale
    from inference.model.architecture import Architecture


class DoraScales:
    """For each (layer, projection) that an active adapter scales: a table of factors, and of offsets if it
    has a bias, with one row per slot. The row of a slot that scales nothing there holds ones, or zeros for
    offsets. The last row is for tokens of the base model.
    """

    def __init__(self, architecture: Architecture, num_slots: int, device: torch.device | str) -> None:
        self._architecture = architecture
        self._num_rows = num_slots + 1
        self._device = device
        self._factors: dict[tuple[int, str], Tensor] = {}  # [num_slots + 1, out_features of the projection]
        self._offsets: dict[tuple[int, str], Tensor] = {}
        self._keys_by_slot: dict[int, frozenset[tuple[int, str]]] = {}

    def keys(self, slot: int) -> frozenset[tuple[int, str]]:
        """The (layer, projection) that the slot's adapter scales."""
        return self._keys_by_slot.get(slot, frozenset())

    @property
    def num_bytes(self) -> int:
        return sum(table.nbytes for table in (*self._factors.values(), *self._offsets.values()))

    def write(self, slot: int, scales: Mapping[tuple[int, str], DoraScale]) -> None:
        """Replace the slot's scales. `scales` maps (layer, linear) to its scale."""
        self.erase(slot)
        for (layer, linear), scale in scales.items():
            projection, columns = self._architecture.fused_columns(linear)
            key = (layer, projection)
            self._table(self._factors, key, 1.0)[slot, columns] = scale.factor.to(self._device)
            if scale.offset is not None:
                self._table(self._offsets, key, 0.0)[slot, columns] = scale.offset.to(self._device)
            self._keys_by_slot[slot] = self.keys(slot) | {key}

    def erase(self, slot: int) -> None:
        """Remove the slot's scales; the last slot's removal frees the memory."""
        if self._keys_by_slot.pop(slot, None) is None:
            return
        if not self._keys_by_slot:
            self._factors.clear()
            self._offsets.clear()
        for table in self._factors.values():
            table[slot] = 1.0
        for table in self._offsets.values():
            table[slot] = 0.0

    def for_step(self, segments: Sequence[Segment], num_tokens: int) -> StepScales | None:
        """None if no adapter of the step scales anything."""
        if not self._keys_by_slot:
            return None
        keys = frozenset[tuple[int, str]]().union(*(self.keys(segment.slot) for segment in segments))
        if not keys:
            return None
        rows = torch.full((num_tokens,), self._num_rows - 1)
        for segment in segments:
            rows[segment.start : segment.end] = segment.slot
        return StepScales(self, keys, rows.to(self._device))

    def rows(self, layer: int, projection: str) -> tuple[Tensor, Tensor | None]:
        """Factors, and offsets if the projection has a bias, each [num_slots + 1, out_features]."""
        return self._factors[layer, projection], self._offsets.get((layer, projection))

    def check_integrity(self, active_slots: Collection[int]) -> None:
        """Raises `AssertionError` when an empty slot has scales, or memory is in use without any scale."""
        if not self._keys_by_slot.keys() <= set(active_slots):
            raise AssertionError(f"DoRA scales in {set(self._keys_by_slot)}, active are {set(active_slots)}")
        if not self._keys_by_slot and self.num_bytes:
            raise AssertionError(f"DoRA scales use {self.num_bytes} bytes though no active adapter has any")

    def _table(self, tables: dict[tuple[int, str], Tensor], key: tuple[int, str], neutral: float) -> Tensor:
        if key not in tables:
            linears = self._architecture.projections[key[1]]
            width = sum(self._architecture.linear_shape(linear)[1] for linear in linears)
            tables[key] = torch.full((self._num_rows, width), neutral, device=self._device)
        return tables[key]


@dataclass(frozen=True, slots=True)
class StepScales:
    """The output scales of one step's tokens."""

    table: DoraScales
    keys: frozenset[tuple[int, str]]  # the (layer, projection) that an adapter of the step scales
    row_per_token: Tensor  # [num_tokens] row of the table

    def apply(self, layer: int, projection: str, output: Tensor) -> None:
        """Replace the fused `output` [num_tokens, out] by factor * output + offset of each token's slot."""
        if (layer, projection) not in self.keys:
            return
        factors, offsets = self.table.rows(layer, projection)
        scaled = output * factors.index_select(0, self.row_per_token)
        if offsets is not None:
            scaled += offsets.index_select(0, self.row_per_token)
        output.copy_(scaled)
