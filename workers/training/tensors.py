"""Serialises tensors deterministically."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safetensors.torch import save

if TYPE_CHECKING:
    from torch import Tensor

_LENGTH_BYTES = 8


def canonical_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Serialise deterministically: the library writes its metadata in the order of a randomised hash."""
    content = save(tensors, metadata)
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return content[:_LENGTH_BYTES] + text.ljust(end - _LENGTH_BYTES) + content[end:]
