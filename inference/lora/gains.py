"""Output gains of the active DoRA adapters. They take memory only while there are any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.model.architecture import PROJECTIONS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from inference.lora.block import OutputGain
    from inference.lora.segments import Segment
    from inference.model.architecture import Architecture


class GainTable:
    """For each (layer, projection) that any active adapter scales: a row of factors, and if it has a bias one
    of offsets, for each slot. A slot that scales nothing has ones and zeros there, and so has one more row,
    the last, for tokens of the base model.
    """

    def __init__(self, architecture: Architecture, num_slots: int, device: torch.device | str) -> None:
        self._architecture = architecture
        self._num_rows = num_slots + 1
        self._device = device
        self._factors: dict[tuple[int, str], Tensor] = {}  # [num_slots + 1, out_features of the projection]
        self._offsets: dict[tuple[int, str], Tensor] = {}
        self._scaled: dict[int, frozenset[tuple[int, str]]] = {}

    def scaled(self, slot: int) -> frozenset[tuple[int, str]]:
        """The (layer, projection) that the slot's adapter scales."""
        return self._scaled.get(slot, frozenset())

    @property
    def num_bytes(self) -> int:
        return sum(table.nbytes for table in (*self._factors.values(), *self._offsets.values()))

    def write(self, slot: int, gains: Mapping[tuple[int, str], OutputGain]) -> None:
        """Gains by (layer, linear); what the slot had before is forgotten."""
        self.erase(slot)
        for (layer, linear), gain in gains.items():
            projection, columns = self._architecture.place(linear)
            key = (layer, projection)
            self._table(self._factors, key, 1.0)[slot, columns] = gain.factor.to(self._device)
            if gain.offset is not None:
                self._table(self._offsets, key, 0.0)[slot, columns] = gain.offset.to(self._device)
            self._scaled[slot] = self.scaled(slot) | {key}

    def erase(self, slot: int) -> None:
        """Forget the slot's gains; with the last slot's the memory goes."""
        if self._scaled.pop(slot, None) is None:
            return
        if not self._scaled:
            self._factors.clear()
            self._offsets.clear()
        for table in self._factors.values():
            table[slot] = 1.0
        for table in self._offsets.values():
            table[slot] = 0.0

    def for_step(self, segments: Sequence[Segment], num_tokens: int) -> StepGains | None:
        """None if no adapter of the step scales anything."""
        if not self._scaled:
            return None
        scaled = frozenset[tuple[int, str]]().union(*(self.scaled(segment.slot) for segment in segments))
        if not scaled:
            return None
        rows = torch.full((num_tokens,), self._num_rows - 1)
        for segment in segments:
            rows[segment.start : segment.end] = segment.slot
        return StepGains(self, scaled, rows.to(self._device))

    def rows(self, layer: int, projection: str) -> tuple[Tensor, Tensor | None]:
        """Factors, and offsets if the projection has a bias, each [num_slots + 1, out_features]."""
        return self._factors[layer, projection], self._offsets.get((layer, projection))

    def check_integrity(self, active_slots: Collection[int]) -> None:
        """Raises `AssertionError` when gains outlive their adapter, or memory outlives all gains."""
        if not self._scaled.keys() <= set(active_slots):
            raise AssertionError(f"gains in slots {set(self._scaled)}, active are {set(active_slots)}")
        if not self._scaled and self.num_bytes:
            raise AssertionError(f"gains take {self.num_bytes} bytes though no adapter has any")

    def _table(self, tables: dict[tuple[int, str], Tensor], key: tuple[int, str], neutral: float) -> Tensor:
        if key not in tables:
            width = sum(self._architecture.linear_shape(linear)[1] for linear in PROJECTIONS[key[1]])
            tables[key] = torch.full((self._num_rows, width), neutral, device=self._device)
        return tables[key]


@dataclass(frozen=True, slots=True)
class StepGains:
    """The gains of one step's tokens."""

    table: GainTable
    scaled: frozenset[tuple[int, str]]  # the (layer, projection) that any of its adapters scales
    row_per_token: Tensor  # [num_tokens] row of the table

    def scale(self, layer: int, projection: str, output: Tensor) -> None:
        """Replace the fused `output` [num_tokens, out] by factor * output + offset, each token by its own."""
        if (layer, projection) not in self.scaled:
            return
        factors, offsets = self.table.rows(layer, projection)
        scaled = output * factors.index_select(0, self.row_per_token)
        if offsets is not None:
            scaled += offsets.index_select(0, self.row_per_token)
        output.copy_(scaled)
