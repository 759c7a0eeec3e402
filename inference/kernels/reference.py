"""Reference implementations of attention and batched LoRA: one token at a time, in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from inference.kernels.interface import Pages, SequenceSpan


def attention(
    queries: Tensor, pages: Pages, spans: Sequence[SequenceSpan], scale: float, window: int = 0
) -> Tensor:
    """Attention [num_tokens, num_heads * head_dim] of `queries` [num_tokens, num_heads, head_dim], in fp64.

    `inference.kernels.interface.AttentionBatch` documents the arguments.
    """
    num_kv_heads, head_dim, block_size = pages.keys.shape[1:]
    output = torch.zeros(len(queries), num_kv_heads, queries.shape[1] // num_kv_heads, head_dim).double()
    for span in spans:
        for query in range(span.num_queries):
            end = span.context_len - span.num_queries + query + 1
            positions = torch.arange(max(0, end - window) if window else 0, end)
            blocks = torch.tensor(span.block_table)[positions // block_size]
            keys = pages.keys[blocks, :, :, positions % block_size].double()  # [context, kv_heads, head_dim]
            values = pages.values[blocks, :, positions % block_size].double()
            token = queries[span.start + query].view(num_kv_heads, -1, head_dim).double()
            weights = (torch.einsum("kgd,ckd->kgc", token, keys) * scale).softmax(dim=-1)
            output[span.start + query] = torch.einsum("kgc,ckd->kgd", weights, values)
    return output.flatten(1)


def lora_delta(
    states: Tensor,
    slot_per_token: Sequence[int],
    pairs: Mapping[int, tuple[Tensor, Tensor]],
    out_features: int,
) -> Tensor:
    """Deltas [num_tokens, out_features] of `states` [num_tokens, in_features].

    `pairs` maps a slot to (shrink [rank, in_features], expand [rank, out_features]); a token whose slot is -1
    or has no pair gets zeros.
    """
    deltas = torch.zeros(len(states), out_features, dtype=states.dtype, device=states.device)
    for token, slot in enumerate(slot_per_token):
        if slot in pairs:
            shrink, expand = pairs[slot]
            deltas[token] = (shrink @ states[token]) @ expand
    return deltas


def scaled_outputs(
    outputs: Tensor, slot_per_token: Sequence[int], scales: Mapping[int, tuple[Tensor, Tensor]]
) -> Tensor:
    """`factor * output + offset` of `outputs` [num_tokens, out_features], in fp32.

    `scales` maps a slot to (factor [out_features], offset [out_features]); other tokens are not changed.
    """
    scaled = outputs.float().clone()
    for token, slot in enumerate(slot_per_token):
        if slot in scales:
            factor, offset = scales[slot]
            scaled[token] = factor * outputs[token].float() + offset
    return scaled
