"""Causal attention of a mixed batch over paged keys and values.

A kernel that reads the pages computes single tokens and prompts with short contexts, if there is one;
torch's SDPA computes all others over gathered contexts. For SDPA, sequences of similar shape are padded
into groups of one call each. A group grows only while padding at most doubles its work, so that one long
prompt does not slow down thirty decodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inference.kernels.interface import PagedQueries
from inference.kernels.portable import gather
from inference.model.kv_cache import NULL_BLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.kernels.interface import Kernels, Pages

_MAX_PADDING = 2.0
# Prompts with longer contexts go to SDPA, whose tiles then outweigh the cost of gathering. Measured against
# 1,024 as prefill speed in SmolLM2-135M's shape, two threads, chunks of 512, medians of alternating runs,
# for prompts of 256, 512, 1,000 and 2,000 tokens: with AMX, bf16: 1.44, 1.34, 1.52, 1.13 times as fast;
# with AVX-512 alone, bf16: 0.97, 0.96, 1.10, 1.06, fp32: 0.90, 1.00, 1.12. A limit of 64 is slower for 128
# tokens: 0.95 in bf16, 0.92 in fp32.
_MAX_PAGED_CONTEXT = 128
_FREE_AREA = 16_384  # scores; for fewer, the overhead of a call outweighs any padding


@dataclass(frozen=True, slots=True)
class SequenceSpan:
    """One sequence of a step. Its queries are tokens [start, start + num_queries) of the batch. Its context
    are the first `context_len` positions of `block_table`; the last of them are the queries' own positions.
    """

    start: int
    num_queries: int
    context_len: int
    block_table: Sequence[int]


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Sequences padded to one shape. Padding repeats a real token, and its output is dropped."""

    token_index: Tensor  # [n, q] rows of the batch
    block_table: Tensor  # [n, num_blocks]
    mask: Tensor  # [n, 1, group * q, context] additive, one row per folded query head
    real: Tensor  # [num_real] positions of real queries in the flattened [n * q]
    tokens: Tensor  # [num_real] rows of the batch of the real queries


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Attention of one step. Every token of the batch is in exactly one of `groups` and `paged`."""

    groups: Sequence[AttentionGroup]
    paged: PagedQueries | None


def plan_attention(
    spans: Sequence[SequenceSpan],
    block_size: int,
    heads_per_kv: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    reads_pages: bool,
    token_by_token: bool = False,
) -> AttentionPlan:
    """Divide `spans` between the kernel and SDPA.

    `reads_pages`: the kernel for single tokens is used; `token_by_token`: it computes all tokens.
    """

    def is_paged(span: SequenceSpan) -> bool:
        is_short = span.num_queries == 1 or span.context_len <= _MAX_PAGED_CONTEXT
        return reads_pages and (is_short or token_by_token)

    paged = [span for span in spans if is_paged(span)]
    others = [span for span in spans if not is_paged(span)]
    return AttentionPlan(
        plan_groups(others, block_size, heads_per_kv, dtype, device),
        _plan_paged(paged, block_size, device) if paged else None,
    )


def plan_groups(
    spans: Sequence[SequenceSpan],
    block_size: int,
    heads_per_kv: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> list[AttentionGroup]:
    """Partition `spans` into padded groups."""
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
    return [_pad(group, block_size, heads_per_kv, dtype, device) for group in groups]


def attend(queries: Tensor, pages: Pages, plan: AttentionPlan, kernels: Kernels) -> Tensor:
    """Attention output [num_tokens, num_heads * head_dim] for `queries` [num_tokens, num_heads, head_dim]."""
    output = torch.empty_like(queries)
    if plan.paged is not None:
        kernels.token_attention(queries, pages, plan.paged, output)
    for group in plan.groups:
        keys, values = gather(pages, group.block_table)
        output.index_copy_(0, group.tokens, _attend_group(queries, group, keys, values))
    return output.flatten(1)


def _attend_group(queries: Tensor, group: AttentionGroup, keys: Tensor, values: Tensor) -> Tensor:
    """Attention output [num_real, num_heads, head_dim]. Query heads that share a KV head are folded into
    rows, because SDPA's own grouping is four times slower on a CPU.
    """
    count, width = group.token_index.shape
    num_heads, head_dim = queries.shape[1:]
    num_kv_heads = keys.shape[1]
    share = num_heads // num_kv_heads
    padded = queries[group.token_index.flatten()].view(count, width, num_kv_heads, share, head_dim)
    rows = padded.permute(0, 2, 3, 1, 4).reshape(count, num_kv_heads, share * width, head_dim)
    mixed = functional.scaled_dot_product_attention(rows, keys, values, group.mask)
    mixed = mixed.view(count, num_kv_heads, share, width, head_dim).permute(0, 3, 1, 2, 4)
    return mixed.reshape(count * width, num_heads, head_dim)[group.real]


def _plan_paged(spans: Sequence[SequenceSpan], block_size: int, device: torch.device | str) -> PagedQueries:
    num_blocks = math.ceil(_longest(spans) / block_size)
    tokens: list[int] = []
    contexts: list[int] = []
    sequences: list[int] = []
    for number, span in enumerate(spans):
        tokens += range(span.start, span.start + span.num_queries)
        contexts += range(span.context_len - span.num_queries + 1, span.context_len + 1)
        sequences += [number] * span.num_queries
    return PagedQueries(
        tokens=torch.tensor(tokens, device=device),
        contexts=torch.tensor(contexts, device=device),
        block_tables=torch.tensor(
            [_padded_table(span, num_blocks, block_size) for span in spans], device=device
        ),
        sequences=torch.tensor(sequences, device=device),
    )


def _longest(spans: Sequence[SequenceSpan]) -> int:
    return max(span.context_len for span in spans)


def _pad(
    spans: Sequence[SequenceSpan],
    block_size: int,
    heads_per_kv: int,
    dtype: torch.dtype,
    device: torch.device | str,
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
    last_visible = contexts - counts + offsets  # [n, q]
    is_hidden = torch.arange(num_blocks * block_size) > last_visible.unsqueeze(-1)  # [n, q, context]
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
