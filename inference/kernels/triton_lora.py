"""Batched LoRA for GPUs in Triton: one launch shrinks all tokens, each by its own adapter, and one expands
them.

As in Punica (Chen et al. 2023, https://arxiv.org/abs/2310.18547) and S-LoRA (Sheng et al. 2023,
https://arxiv.org/abs/2311.03285), each segment of tokens that share an adapter is divided into tiles, and a
program computes one tile. Ranks differ between tiles: no adapter is padded to another one's rank, and no
program reads the rows of another adapter, so an overflow there does not spread. A token is in at most one
tile: there are no atomic additions, and the same batch gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from triton import language as tl

from inference.kernels.portable import AdditiveLora, PortableKernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.kernels.interface import LoraBatch, LoraTarget, Segment

_TILE_TOKENS = 16  # the minimum number of rows of a tensor core's product
_BLOCK_RANK = 16
_BLOCK_IN = 64
_BLOCK_OUT = 64


class TritonKernels(PortableKernels):
    """Plain torch, with Triton kernels for adapters."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device

    def lora_batch(self, segments: Sequence[Segment], num_tokens: int) -> LoraBatch:
        return TritonLora(segments, num_tokens, self._device)


class TritonLora(AdditiveLora):
    """See `inference.kernels.interface.LoraBatch`."""

    def __init__(self, segments: Sequence[Segment], num_tokens: int, device: torch.device | str) -> None:
        tiles = [
            (start, min(start + _TILE_TOKENS, segment.end), segment.rows.start, segment.rows.stop)
            for segment in segments
            for start in range(segment.start, segment.end, _TILE_TOKENS)
        ]
        self._tiles = torch.tensor(tiles, dtype=torch.int32, device=device)  # [num_tiles, 4]
        self._max_rank = max(segment.rows.stop - segment.rows.start for segment in segments)
        # Column j of a token's row: its states times row j of its adapter. Every target overwrites it.
        self._shrunk = torch.empty(num_tokens, self._max_rank, dtype=torch.float32, device=device)

    def add(self, states: Tensor, targets: Sequence[LoraTarget], output: Tensor) -> None:
        for target in targets:
            self._shrink(states, target.shrink)
            self._expand(target.expand, output[:, target.columns])

    def _shrink(self, states: Tensor, shrink: Tensor) -> None:
        grid = (len(self._tiles), triton.cdiv(self._max_rank, _BLOCK_RANK))
        _shrink_tile[grid](
            states,
            shrink,
            self._shrunk,
            self._tiles,
            states.shape[1],
            states.stride(0),
            shrink.stride(0),
            self._shrunk.stride(0),
            TILE_TOKENS=_TILE_TOKENS,
            BLOCK_RANK=_BLOCK_RANK,
            BLOCK_IN=_BLOCK_IN,
        )

    def _expand(self, expand: Tensor, output: Tensor) -> None:
        grid = (len(self._tiles), triton.cdiv(output.shape[1], _BLOCK_OUT))
        _expand_tile[grid](
            self._shrunk,
            expand,
            output,
            self._tiles,
            output.shape[1],
            self._shrunk.stride(0),
            expand.stride(0),
            output.stride(0),
            TILE_TOKENS=_TILE_TOKENS,
            BLOCK_RANK=_BLOCK_RANK,
            BLOCK_OUT=_BLOCK_OUT,
        )


@triton.jit
def _shrink_tile(
    states,  # [num_tokens, in_features]
    shrink,  # [num_rows, in_features]
    shrunk,  # [num_tokens, max_rank] fp32
    tiles,  # [num_tiles, 4] first token, end token, first row, end row
    in_features,
    states_stride,
    shrink_stride,
    shrunk_stride,
    TILE_TOKENS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    tile = tiles + tl.program_id(0) * 4
    tokens = tl.load(tile) + tl.arange(0, TILE_TOKENS)
    ranks = tl.program_id(1) * BLOCK_RANK + tl.arange(0, BLOCK_RANK)
    first_row = tl.load(tile + 2)
    rank = tl.load(tile + 3) - first_row
    if tl.program_id(1) * BLOCK_RANK >= rank:
        return
    is_token = tokens < tl.load(tile + 1)
    is_rank = ranks < rank
    state_rows = states + tokens.to(tl.int64)[:, None] * states_stride
    shrink_rows = shrink + (first_row + ranks).to(tl.int64)[None, :] * shrink_stride
    total = tl.full((TILE_TOKENS, BLOCK_RANK), 0.0, dtype=tl.float32)
    for start in range(0, in_features, BLOCK_IN):
        features = start + tl.arange(0, BLOCK_IN)
        is_feature = features < in_features
        left = tl.load(
            state_rows + features[None, :], mask=is_token[:, None] & is_feature[None, :], other=0.0
        )
        right = tl.load(
            shrink_rows + features[:, None], mask=is_rank[None, :] & is_feature[:, None], other=0.0
        )
        total = tl.dot(left, right, total, input_precision="ieee")
    place = shrunk + tokens.to(tl.int64)[:, None] * shrunk_stride + ranks[None, :]
    tl.store(place, total, mask=is_token[:, None] & is_rank[None, :])


@triton.jit
def _expand_tile(
    shrunk,  # [num_tokens, max_rank] fp32
    expand,  # [num_rows, out_features]
    output,  # [num_tokens, out_features]; added to
    tiles,  # [num_tiles, 4] first token, end token, first row, end row
    out_features,
    shrunk_stride,
    expand_stride,
    output_stride,
    TILE_TOKENS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    tile = tiles + tl.program_id(0) * 4
    tokens = tl.load(tile) + tl.arange(0, TILE_TOKENS)
    columns = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    first_row = tl.load(tile + 2)
    rank = tl.load(tile + 3) - first_row
    is_token = tokens < tl.load(tile + 1)
    is_column = columns < out_features
    shrunk_rows = shrunk + tokens.to(tl.int64)[:, None] * shrunk_stride
    total = tl.full((TILE_TOKENS, BLOCK_OUT), 0.0, dtype=tl.float32)
    for start in range(0, rank, BLOCK_RANK):
        ranks = start + tl.arange(0, BLOCK_RANK)
        is_rank = ranks < rank
        left = tl.load(shrunk_rows + ranks[None, :], mask=is_token[:, None] & is_rank[None, :], other=0.0)
        expand_rows = expand + (first_row + ranks).to(tl.int64)[:, None] * expand_stride
        right = tl.load(expand_rows + columns[None, :], mask=is_rank[:, None] & is_column[None, :], other=0.0)
        total = tl.dot(left.to(right.dtype), right, total, input_precision="ieee")
    place = output + tokens.to(tl.int64)[:, None] * output_stride + columns[None, :]
    mask = is_token[:, None] & is_column[None, :]
    tl.store(place, (tl.load(place, mask=mask, other=0.0) + total).to(output.dtype.element_ty), mask=mask)
