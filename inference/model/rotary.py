"""Rotary position embedding with the scalings of the Llama family."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from inference.model.architecture import Architecture


class RotaryTable:
    """Cosines and sines of every position, computed in fp32 as the checkpoints were trained."""

    def __init__(self, architecture: Architecture, max_context: int, dtype: torch.dtype, device: str) -> None:
        angles = torch.outer(torch.arange(max_context, dtype=torch.float32), _frequencies(architecture))
        angles = torch.cat((angles, angles), dim=-1)  # [max_context, head_dim]
        self._cos = angles.cos().to(device, dtype)
        self._sin = angles.sin().to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each [num_tokens, 1, head_dim]: one row for all heads."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `states` [num_tokens, num_heads, head_dim] in Hugging Face's half-split layout."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def _frequencies(architecture: Architecture) -> Tensor:
    """Radians per position, [head_dim / 2]."""
    rope, dim = architecture.rope, architecture.head_dim
    exponents = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    frequencies = 1.0 / (float(rope["rope_theta"]) ** exponents)
    if rope["rope_type"] == "linear":
        return frequencies / float(rope["factor"])
    if rope["rope_type"] == "llama3":
        return _llama3_frequencies(frequencies, rope)
    return frequencies


def _llama3_frequencies(frequencies: Tensor, rope: dict[str, float]) -> Tensor:
    """Llama 3.1's rule: long waves are stretched by `factor`, short ones kept, those between interpolated."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    waves_per_context = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    keep = ((waves_per_context - low) / (high - low)).clamp(0.0, 1.0)
    return keep * frequencies + (1.0 - keep) * frequencies / factor
