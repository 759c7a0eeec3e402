"""Reference implementation of batched LoRA: one token at a time, in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


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
