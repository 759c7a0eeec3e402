"""How an adapter lies in memory: one stretch of numbers, cut into blocks of like layers.

An adapter has hundreds of matrices, but few shapes. As tensors of their own they would cost a tenth of their
numbers in objects and gaps, and hundreds of copies each time they go to a slot.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_OWN_PAGES = 128 * 1024  # bytes; a mapping each for less than this could use up the process's mappings


@dataclass(frozen=True, slots=True)
class OutputGain:
    """What DoRA does to a linear layer's output y, delta and bias included: `factor * y + offset`, in fp32.

    `offset` is `(1 - factor) * bias`, which leaves the bias as it was; None without a bias. Both are
    [out_features], in a block [num_layers, out_features].
    """

    factor: Tensor
    offset: Tensor | None

    @property
    def num_bytes(self) -> int:
        return self.factor.nbytes + (0 if self.offset is None else self.offset.nbytes)

    def of(self, index: int) -> OutputGain:
        """The gain of a block's layer."""
        return OutputGain(self.factor[index], None if self.offset is None else self.offset[index])


@dataclass(frozen=True, slots=True)
class LoraBlock:
    """One linear layer's delta in each of `layers`, which are neighbours and have one rank: `states @
    shrink[i].T @ expand[i]`, the scaling folded into `expand`.
    """

    linear: str  # such as "q_proj"
    layers: range
    shrink: Tensor  # [num_layers, rank, in_features]
    expand: Tensor  # [num_layers, rank, out_features]
    gain: OutputGain | None = None

    @property
    def rank(self) -> int:
        return self.shrink.shape[1]

    @property
    def keys(self) -> list[tuple[int, str]]:
        """(layer, linear) of each."""
        return [(layer, self.linear) for layer in self.layers]

    @property
    def num_bytes(self) -> int:
        return self.shrink.nbytes + self.expand.nbytes + (0 if self.gain is None else self.gain.num_bytes)


def reserve(shape: tuple[int, ...], dtype: torch.dtype, spare: list[Tensor] | None = None) -> Tensor:
    """Memory for what stays, to be written once. `spare` is what nobody needs any more, and is emptied: one
    of the same shape is taken, and the kernel need not clear pages for it.

    Pages of its own, which go back to the kernel with the tensor: what malloc hands out lies between what
    loads need for a moment, and gaps as large as adapters remain of it.
    """
    same = next((each for each in spare or () if (each.shape, each.dtype) == (shape, dtype)), None)
    if spare is not None:
        spare.clear()  # what does not fit goes back before there is more
    if same is not None:
        return same
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < _OWN_PAGES:
        return torch.empty(shape, dtype=dtype)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
