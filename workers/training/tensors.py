"""Serialises tensors deterministically, and checks weights that others published."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_LENGTH_BYTES = 8


def canonical_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Serialise deterministically: the library writes its metadata in the order of a randomised hash."""
    content = save(tensors, metadata)
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return content[:_LENGTH_BYTES] + text.ljust(end - _LENGTH_BYTES) + content[end:]


def is_finite(weight: Tensor) -> bool:
    """Whether all numbers are finite and of a type that adapters have; torch computes little with others."""
    return weight.dtype in WEIGHT_TYPES and bool(torch.isfinite(weight).all())
