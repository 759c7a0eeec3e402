"""Reads the A and B matrices of an adapter from the bytes of its file into the engine's memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's location in a file: `shape` numbers of `dtype` from byte `start` on."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    def read(self, weights: memoryview) -> Tensor:
        """A view, which keeps the whole file in memory; a copy only where the numbers are not aligned."""
        count, start = math.prod(self.shape), self.start
        if start % self.dtype.itemsize:
            aligned = bytearray(weights[start : start + count * self.dtype.itemsize])
            return torch.frombuffer(aligned, dtype=self.dtype).view(self.shape)
        return torch.frombuffer(weights, dtype=self.dtype, count=count, offset=start).view(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class StoredFactors:
    """A and B of neighbouring layers of one linear, all of one rank and one scaling."""

    downs: Sequence[TensorSpec]  # A of each layer: [rank, in_features]
    ups: Sequence[TensorSpec]  # B of each layer: [out_features, rank]
    scaling: float


class FactorReader(Protocol):
    """Converts stored factors to the engine's dtype, on the CPU."""

    def read_factors(
        self, weights: memoryview, factors: StoredFactors, shrink: Tensor, expand: Tensor
    ) -> tuple[float, float]:
        """Write each layer's A to `shrink` [num_layers, rank, in], and B, scaled in fp32, to `expand`
        [num_layers, rank, out], rounded once. `weights` is the whole file.

        Returns the largest absolute value of `shrink` and of `expand` after rounding, NaN where one is NaN.
        """


class PortableFactorReader:
    """Implements `FactorReader` in plain torch, for any dtype; the reference for the native one."""

    def read_factors(
        self, weights: memoryview, factors: StoredFactors, shrink: Tensor, expand: Tensor
    ) -> tuple[float, float]:
        torch.stack([down.read(weights) for down in factors.downs], out=shrink)
        ups = torch.stack([up.read(weights) for up in factors.ups]).float().mul_(factors.scaling)
        expand.copy_(ups.to(expand.dtype).transpose(1, 2))
        return _peak(shrink), _peak(expand)


def _peak(numbers: Tensor) -> float:
    """Largest absolute value, NaN if there is one."""
    low, high = numbers.aminmax()
    return float(torch.maximum(-low, high))
