"""Memory layout of an adapter: one contiguous range of numbers, divided into blocks of similar layers.

An adapter has hundreds of matrices but few shapes. Separate tensors would add a tenth to its size in
objects and gaps, and hundreds of copies on each activation.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_MIN_MAPPED_BYTES = 128 * 1024  # the number of mappings of a process is limited, so small tensors get none


@dataclass(frozen=True, slots=True)
class DoraScale:
    """DoRA's scale of a linear layer's output y, delta and bias included: `factor * y + offset`, in fp32.

    `offset` is `(1 - factor) * bias`, so that the bias itself is not scaled; None without a bias. Both are
    [out_features]; in a block, [num_layers, out_features].
    """

    factor: Tensor
    offset: Tensor | None

    @property
    def num_bytes(self) -> int:
        return self.factor.nbytes + (0 if self.offset is None else self.offset.nbytes)

    def layer(self, index: int) -> DoraScale:
        """The scale of one layer of a block."""
        return DoraScale(self.factor[index], None if self.offset is None else self.offset[index])


@dataclass(frozen=True, slots=True)
class LoraBlock:
    """The deltas of one linear in each of `layers`, which are neighbours and have one rank: `states @
    shrink[i].T @ expand[i]`, the scaling folded into `expand`. In int8 the states between both are multiplied
    by `scales[i]`.
    """

    linear: str  # such as "q_proj"
    layers: range
    shrink: Tensor  # [num_layers, rank, in_features]
    expand: Tensor  # [num_layers, rank, out_features]
    scales: Tensor | None = None  # [num_layers, rank] fp32; None unless both are in int8
    dora: DoraScale | None = None

    @property
    def rank(self) -> int:
        return self.shrink.shape[1]

    @property
    def keys(self) -> list[tuple[int, str]]:
        """(layer, linear) of each layer."""
        return [(layer, self.linear) for layer in self.layers]

    @property
    def num_bytes(self) -> int:
        num_bytes = self.shrink.nbytes + self.expand.nbytes
        num_bytes += 0 if self.scales is None else self.scales.nbytes
        return num_bytes + (0 if self.dora is None else self.dora.num_bytes)

    def factors(self, index: int) -> tuple[Tensor, Tensor]:
        """`shrink` and `expand` of one layer in fp32, as they are served."""
        shrink, expand = self.shrink[index].float(), self.expand[index].float()
        return shrink, expand if self.scales is None else expand * self.scales[index].unsqueeze(1)


def reserve(shape: tuple[int, ...], dtype: torch.dtype, spare: list[Tensor] | None = None) -> Tensor:
    """Uninitialised memory for a long-lived tensor. `spare` holds tensors that are no longer used, and is
    emptied: one of the same shape and dtype is reused, which saves the kernel from zeroing new pages.

    Large tensors get a memory mapping of their own, which returns to the kernel with the tensor. Memory from
    malloc would lie between the temporary allocations of loads and leave gaps as large as adapters.
    """
    same = next((each for each in spare or () if (each.shape, each.dtype) == (shape, dtype)), None)
    if spare is not None:
        spare.clear()  # frees what does not fit before more is allocated
    if same is not None:
        return same
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < _MIN_MAPPED_BYTES:
        return torch.empty(shape, dtype=dtype)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
