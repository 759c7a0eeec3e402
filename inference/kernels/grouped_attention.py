"""Attention of a batch in plain torch: contexts are gathered from their pages, and SDPA computes them.

Sequences of similar shape are padded into groups of one call each. A group grows only while padding at most
doubles its work, so that one long prompt does not slow down thirty decodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inference.kernels.interface import NULL_BLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.kernels.interface import Pages, SequenceSpan

_MAX_PADDING = 2.0
_FREE_AREA = 16_384  # scores; for fewer, the overhead of a call outweighs any padding


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Sequences padded to one shape. Padding repeats a real token, and its output is dropped."""

    token_index: Tensor  # [n, q] rows of the batch
    block_table: Tensor  # [n, num_blocks]
    mask: Tensor  # [n, 1, heads_per_kv * q, context] additive, one row per folded query head
    real: Tensor  # [num_real] positions of real queries in the flattened [n * q]
    tokens: Tensor  # [num_real] rows of the batch of the real queries


class GroupedAttention:
    """Implements `inference.kernels.interface.AttentionBatch`."""

    def __init__(self, spans: Sequence[SequenceSpan]) -> None:
        self._spans = spans
        self._groups: dict[int, list[AttentionGroup]] = {}  # by window

    def attend(self, queries: Tensor, pages: Pages, scale: float, window: int = 0) -> Tensor:
        output = torch.empty_like(queries)
        for group in self._groups_of(queries, pages, window):
            keys, values = _gather(pages, group.block_table)
            output.index_copy_(0, group.tokens, _attend(queries, group, keys, values, scale))
        return output.flatten(1)

    def _groups_of(self, queries: Tensor, pages: Pages, window: int) -> list[AttentionGroup]:
        if window not in self._groups:
            _, num_kv_heads, _, block_size = pages.keys.shape
            share = queries.shape[1] // num_kv_heads
            self._groups[window] = [
                _pad(group, block_size, share, window, queries.dtype, queries.device)
                for group in group_spans(self._spans)
            ]
        return self._groups[window]


def group_spans(spans: Sequence[SequenceSpan]) -> list[list[SequenceSpan]]:
    """Partition `spans` into groups that are padded to one shape."""
    ordered = sorted(spans, key=lambda span: (span.num_queries, span.context_len), reverse=True)
    groups: list[list[SequenceSpan]] = []
    real_area = 0
    for span in ordered:
        area = span.num_queries * span.context_len
        if groups:
            longest = max(_longest(groups[-1]), span.context_len)
            padded = (len(groups[-1]) + 1) * groups[-1][0].num_queries * longest
            if padded <= max(_MAX_PADDING * (real_area + area), _FREE_AREA):
                groups[-1].append(span)
                real_area += area
                continue
        groups.append([span])
        real_area = area
    return groups


def _attend(queries: Tensor, group: AttentionGroup, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention output [num_real, num_heads, head_dim]. Query heads that share a KV head are folded into
    rows, because SDPA's own grouping is four times slower on a CPU.
    """
    count, width = group.token_index.shape
    num_heads, head_dim = queries.shape[1:]
    num_kv_heads = keys.shape[1]
    share = num_heads // num_kv_heads
    padded = queries[group.token_index.flatten()].view(count, width, num_kv_heads, share, head_dim)
    rows = padded.permute(0, 2, 3, 1, 4).reshape(count, num_kv_heads, share * width, head_dim)
    mixed = functional.scaled_dot_product_attention(rows, keys, values, group.mask, scale=scale)
    mixed = mixed.view(count, num_kv_heads, share, width, head_dim).permute(0, 3, 1, 2, 4)
    return mixed.reshape(count * width, num_heads, head_dim)[group.real]


def _gather(pages: Pages, block_tables: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of the blocks in `block_tables` [n, num_blocks]: each [n, num_kv_heads, context,
    head_dim].
    """
    count, width = block_tables.shape
    chosen = block_tables.flatten()
    keys = pages.keys.index_select(0, chosen).view(count, width, *pages.keys.shape[1:])
    values = pages.values.index_select(0, chosen).view(count, width, *pages.values.shape[1:])
    return keys.permute(0, 2, 1, 4, 3).flatten(2, 3), values.transpose(1, 2).flatten(2, 3)


def _longest(spans: Sequence[SequenceSpan]) -> int:
    return max(span.context_len for span in spans)


def _pad(
    spans: Sequence[SequenceSpan],
    block_size: int,
    heads_per_kv: int,
    window: int,
    dtype: torch.dtype,
    device: torch.device,
) -> AttentionGroup:
    width = spans[0].num_queries
    num_blocks = math.ceil(_longest(spans) / block_size)
    starts = torch.tensor([span.start for span in spans]).unsqueeze(1)
    counts = torch.tensor([span.num_queries for span in spans]).unsqueeze(1)
    contexts = torch.tensor([span.context_len for span in spans]).unsqueeze(1)
    steps = torch.arange(width).expand(len(spans), width)
    offsets = torch.minimum(steps, counts - 1)
    is_real = (steps < counts).flatten()
    token_index = starts + offsets
    last_visible = (contexts - counts + offsets).unsqueeze(-1)  # [n, q, 1]
    positions = torch.arange(num_blocks * block_size)
    is_hidden = positions > last_visible  # [n, q, context]
    if window:
        is_hidden |= positions <= last_visible - window
    mask = torch.zeros(is_hidden.shape, dtype=dtype).masked_fill_(is_hidden, float("-inf"))
    mask = mask.unsqueeze(1).expand(-1, heads_per_kv, -1, -1).reshape(len(spans), 1, heads_per_kv * width, -1)
    tables = [_padded_table(span, num_blocks, block_size) for span in spans]
    return AttentionGroup(
        token_index=token_index.to(device),
        block_table=torch.tensor(tables, device=device),
        mask=mask.to(device),
        real=is_real.nonzero().squeeze(1).to(device),
        tokens=token_index.flatten()[is_real].to(device),
    )


def _padded_table(span: SequenceSpan, num_blocks: int, block_size: int) -> list[int]:
    used = list(span.block_table[: math.ceil(span.context_len / block_size)])
    return used + [NULL_BLOCK] * (num_blocks - len(used))
