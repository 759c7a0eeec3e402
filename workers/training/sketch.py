"""CountSketch of gradients: each coordinate is added to one of `SKETCH_SIZE` sums, with a sign.

Dot products survive it in expectation. Which sum and which sign follow from `SKETCH_SEED` and the module's
name alone, by Philox, whose stream numpy keeps: whoever has an adapter can compute its index again. Source:
Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", 2002.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

SKETCH_SEED = 20_260_101
SKETCH_SIZE = 4096
"""A power of two. 16 kB for each contribution in fp32."""


class CountSketch:
    """Sums [rows, size] of a batch of rows whose gradients come module by module, in any order."""

    def __init__(self, seed: int = SKETCH_SEED, size: int = SKETCH_SIZE) -> None:
        if size <= 0 or size & (size - 1):
            raise ValueError(f"the size of a sketch is a power of two, not {size}")
        self.size = size
        self._seed = seed
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}

    def zeros(self, num_rows: int) -> Tensor:
        """What `add` adds to: [size, rows], so that a coordinate of all rows is one stretch of memory."""
        return torch.zeros(self.size, num_rows)

    def add(self, sums: Tensor, module: str, gradients: Tensor) -> None:
        """Add `gradients` [coordinates, rows] fp32 of one module to `sums` [size, rows]."""
        buckets, signs = self._table(module, len(gradients))
        sums.index_add_(0, buckets, gradients * signs)

    def _table(self, module: str, length: int) -> tuple[Tensor, Tensor]:
        """(sum of each coordinate int64 [length], its sign fp32 [length, 1])."""
        if module not in self._tables or len(self._tables[module][0]) != length:
            key = int.from_bytes(hashlib.sha256(f"{self._seed}:{module}".encode()).digest()[:16], "little")
            raw = np.random.Philox(key=key).random_raw(length)
            buckets = torch.from_numpy((raw % np.uint64(self.size)).astype(np.int64))
            signs = torch.from_numpy(1 - 2 * (raw >> np.uint64(63)).astype(np.float32)).unsqueeze(1)
            self._tables[module] = buckets, signs
        return self._tables[module]
