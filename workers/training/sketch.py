"""CountSketch of gradients: adds each coordinate, with a sign, to one of the `PART_SIZE` sums of its part.

It preserves dot products in expectation. Sums and signs depend on `SKETCH_SEED` and the module's name only,
by Philox, whose stream numpy guarantees: the index of an adapter can be recomputed from the adapter. Source:
Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", 2002.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

SKETCH_SEED = 20_260_101
PART_SIZE = 2048
"""A power of two."""
DEPTHS = (8, 4, 2)
"""The last 1/8, 1/4 and 1/2 of the decoder's blocks divide them into four parts by depth."""
NUM_PARTS = 2 * (len(DEPTHS) + 1)
SKETCH_SIZE = NUM_PARTS * PART_SIZE
"""64 kB per contribution in fp32."""

_BLOCK = re.compile(r"\.layers\.(\d+)\.")


class CountSketch:
    """Sketches a batch of rows whose gradients arrive module by module, in any order."""

    def __init__(self, seed: int = SKETCH_SEED, size: int = PART_SIZE) -> None:
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


class PartSketch(CountSketch):
    """Sketches each part of a model's modules apart: one `CountSketch` after the other, [parts * size]."""

    def __init__(self, num_blocks: int, size: int = PART_SIZE) -> None:
        """`num_blocks`: of the base model's decoder. `size`: of a part."""
        super().__init__(size=size)
        self._num_blocks = num_blocks

    def zeros(self, num_rows: int) -> Tensor:
        return torch.zeros(num_rows, NUM_PARTS * self.size)

    def add(self, sums: Tensor, module: str, gradients: Tensor) -> None:
        start = part_of(module, self._num_blocks) * self.size
        super().add(sums[:, start : start + self.size], module, gradients)


def part_of(module: str, num_blocks: int) -> int:
    """Even for the attention's output (`o_proj`), odd for other modules; part // 2 is the number of `DEPTHS`
    that leave the module's block out. By fractions, models of any depth have the same parts.

    Errors: `ValueError` for a module outside the blocks.
    """
    found = _BLOCK.search(module)
    if found is None:
        raise ValueError(f"{module} is in no block of the decoder")
    blocks_above = num_blocks - 1 - int(found[1])
    num_outside = sum(blocks_above * depth >= num_blocks for depth in DEPTHS)
    return 2 * num_outside + (not module.endswith(".o_proj"))
