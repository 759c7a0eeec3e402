"""Paged KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inference.kernels.interface import Pages
from inference.kernels.memory import lazy_zeros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.model.architecture import Architecture


def bytes_per_block(architecture: Architecture, block_size: int, dtype: torch.dtype) -> int:
    width = architecture.num_kv_heads * architecture.head_dim
    return 2 * architecture.num_layers * block_size * width * dtype.itemsize


class KVCache:
    """Keys and values of all layers; see `inference.kernels.interface.Pages` for the layout."""

    def __init__(
        self, architecture: Architecture, num_blocks: int, block_size: int, dtype: torch.dtype, device: str
    ) -> None:
        blocks = (architecture.num_layers, num_blocks, architecture.num_kv_heads)
        self.block_size = block_size
        self._keys = lazy_zeros((*blocks, architecture.head_dim, block_size), dtype, device)
        self._values = lazy_zeros((*blocks, block_size, architecture.head_dim), dtype, device)
        self._pages = [Pages(*pair) for pair in zip(self._keys, self._values, strict=True)]

    @property
    def dtype(self) -> torch.dtype:
        return self._keys.dtype

    @property
    def device(self) -> torch.device:
        return self._keys.device

    def scrub(self, block_ids: Sequence[int]) -> None:
        """Zero blocks that are reused. Masked positions still take part in the products of attention, and
        0 * NaN is NaN: values left by an overflowing adapter must not reach the next request.
        """
        if block_ids:
            index = torch.tensor(block_ids, device=self._keys.device)
            self._keys.index_fill_(1, index, 0.0)
            self._values.index_fill_(1, index, 0.0)

    def pages(self, layer: int) -> Pages:
        return self._pages[layer]
