"""Rotary position embedding and its scalings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from inference.kernels.interface import RotaryTables, Rotation


class RotaryTable:
    """Cosines and sines of all positions, computed in fp32 as in training."""

    def __init__(
        self, rope: dict[str, Any], width: int, max_context: int, dtype: torch.dtype, device: str
    ) -> None:
        """`rope` is one of `Architecture.ropes`; `width` the number of features of a head to rotate."""
        angles = torch.outer(torch.arange(max_context, dtype=torch.float32), _frequencies(rope, width))
        angles = torch.cat((angles, angles), dim=-1)  # [max_context, width]
        factor = _attention_factor(rope)
        self.rotated = RotaryTables((angles.cos() * factor).to(device), (angles.sin() * factor).to(device))
        # Tables of one position, without rotation.
        self.unrotated = RotaryTables(
            *(torch.full_like(angles[:1], one, device=device) for one in (1.0, 0.0))
        )
        self._dtype = dtype

    def rotation(self, positions: Tensor) -> Rotation:
        """Rotation of queries and keys at `positions` [num_tokens]."""
        return Rotation(*self.rotated, positions, self._dtype)

    def identity(self, positions: Tensor) -> Rotation:
        """No rotation, for as many tokens as `positions`."""
        return Rotation(*self.unrotated, torch.zeros_like(positions), self._dtype)


def _frequencies(rope: dict[str, Any], width: int) -> Tensor:
    """Radians per position, [width / 2]."""
    exponents = torch.arange(0, width, 2, dtype=torch.int64).float() / width
    frequencies = 1.0 / (float(rope["rope_theta"]) ** exponents)
    if rope["rope_type"] == "linear":
        return frequencies / float(rope["factor"])
    if rope["rope_type"] == "llama3":
        return _llama3_frequencies(frequencies, rope)
    if rope["rope_type"] == "yarn":
        return _yarn_frequencies(frequencies, rope)
    return frequencies


def _llama3_frequencies(frequencies: Tensor, rope: dict[str, Any]) -> Tensor:
    """Llama 3.1's scaling: stretches long waves by `factor`, keeps short ones, and interpolates between."""
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    waves_per_context = frequencies * (int(rope["original_max_position_embeddings"]) / (2 * math.pi))
    keep = ((waves_per_context - low) / (high - low)).clamp(0.0, 1.0)
    return keep * frequencies + (1.0 - keep) * frequencies / factor


def _yarn_frequencies(frequencies: Tensor, rope: dict[str, Any]) -> Tensor:
    """YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071), with bounds as in `transformers`: keeps
    frequencies that turn more than `beta_fast` times within the trained context, stretches those that turn
    less than `beta_slow` times by `factor`, and interpolates between.
    """
    num_pairs = len(frequencies)
    low, high = (
        num_pairs
        * math.log(rope["original_max_position_embeddings"] / (turns * 2 * math.pi))
        / math.log(rope["rope_theta"])
        for turns in (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1)
    )
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    # The upper bound counts features, not pairs, as in the code with which the models were trained.
    low, high = max(low, 0), min(high, 2 * num_pairs - 1)
    width = high - low or 0.001
    stretch = ((torch.arange(num_pairs, dtype=torch.float32) - low) / width).clamp(0.0, 1.0)
    return (1.0 - stretch) * frequencies + stretch * frequencies / float(rope["factor"])


def _attention_factor(rope: dict[str, Any]) -> float:
    """Factor of queries and keys, with which YaRN sharpens attention."""
    if rope["rope_type"] != "yarn":
        return 1.0
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor, scale, scale_all = float(rope["factor"]), rope.get("mscale"), rope.get("mscale_all_dim")
    if scale and scale_all:
        return _mscale(factor, scale) / _mscale(factor, scale_all)
    return _mscale(factor, 1.0)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
