"""CountSketch of gradients: adds each coordinate, with a sign, to one of `SKETCH_SIZE` sums.

It preserves dot products in expectation. Sums and signs depend on `SKETCH_SEED` and the module's name only,
by Philox, whose stream numpy guarantees: the index of an adapter can be recomputed from the adapter. Source:
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
"""A power of two. 16 kB per contribution in fp32."""


class CountSketch:
    """Sketches a batch of rows whose gradients arrive module by module, in any order."""

    def __init__(self, seed: int = SKETCH_SEED, size: int = SKETCH_SIZE) -> None:
        if size <= 0 or size & (size - 1):
            raise ValueError(f"the size of a sketch must be a power of two, not {size}")
        self.size = size
        self._seed = seed
        self._tables: dict[tuple[str, int, int], tuple[Tensor, Tensor]] = {}

    def zeros(self, num_rows: int) -> Tensor:
        """Initial sums for `add` [rows, size]."""
        return torch.zeros(num_rows, self.size)

    def add(self, sums: Tensor, module: str, gradients: Tensor) -> None:
        """Add `gradients` [rows, inputs, outputs] fp32 of one module to `sums` [rows, size]. Coordinates are
        numbered as in the module's weight [outputs, inputs].
        """
        buckets, signs = self._table(module, gradients.shape[1], gradients.shape[2])
        sums.index_add_(1, buckets, gradients.flatten(1) * signs)

    def _table(self, module: str, num_inputs: int, num_outputs: int) -> tuple[Tensor, Tensor]:
        """(index of each coordinate's sum int64, its sign fp32), both [inputs * outputs]."""
        name = module, num_inputs, num_outputs
        if name not in self._tables:
            key = int.from_bytes(hashlib.sha256(f"{self._seed}:{module}".encode()).digest()[:16], "little")
            drawn = np.random.Philox(key=key).random_raw(num_outputs * num_inputs)
            raw = drawn.reshape(num_outputs, num_inputs).T.flatten()
            buckets = torch.from_numpy((raw % np.uint64(self.size)).astype(np.int64))
            signs = torch.from_numpy(1 - 2 * (raw >> np.uint64(63)).astype(np.float32))
            self._tables[name] = buckets, signs
        return self._tables[name]
